"""Which files a corpus is made of: named by files, directories and globs, in the same order anywhere."""

from __future__ import annotations

import glob
import os
import sysconfig
from collections.abc import Iterator, Sequence
from stat import S_ISREG
from typing import NamedTuple

from mpipar.errors import UsageError

INSTALLED = ("site-packages", "dist-packages")  # they change with every install


class FileEntry(NamedTuple):
    """A file: where it is, its path below the place that was named, its bytes (or tokens) when it was listed."""

    path: str
    relative: str
    size: int


def list_files(patterns: Sequence[str], said: str = "--data") -> list[FileEntry]:
    """The files that `patterns` name, each once, sorted by relative path; by default the standard library's.

    A directory stands for all regular files below it that are not hidden; links are followed.
    Raises UsageError for a pattern that names nothing (after `said`), and for what cannot be listed.
    """
    found = [entry for each in patterns for entry in named_by(each, said)] if patterns else standard_library()
    once = {os.path.realpath(entry.path): entry for entry in reversed(found)}
    return sorted(once.values(), key=lambda entry: (os.fsencode(entry.relative), os.fsencode(entry.path)))


def standard_library() -> list[FileEntry]:
    """Every ``*.py`` of the interpreter's standard library, without what was installed beside it."""
    root = sysconfig.get_paths()["stdlib"]
    entries = [entry for entry in below(root, root, skip=INSTALLED) if entry.path.endswith(".py")]
    if not entries:
        raise UsageError(f"there is no *.py below {root}: name a text with --data")
    return entries


def named_by(pattern: str, said: str) -> list[FileEntry]:
    """The files of one file, directory or glob; a glob's are relative to its part before the wildcards."""
    path = os.path.expanduser(pattern)
    if os.path.lexists(path) or not glob.has_magic(path):
        entries = files_at(path, path if os.path.isdir(path) else os.path.dirname(path))
    else:
        root = fixed_part(path)
        entries = [entry for match in glob.glob(path, recursive=True) for entry in files_at(match, root)]
    if not entries:
        raise UsageError(f"{said} {pattern} {what_is_wrong(path)}")
    return entries


def fixed_part(path: str) -> str:
    """The directory of a glob above its first wildcard: ``a/b`` of ``a/b/*/c.txt``."""
    while glob.has_magic(path):
        path = os.path.dirname(path)
    return path


def files_at(path: str, root: str) -> list[FileEntry]:
    if os.path.isdir(path):
        return list(below(path, root))
    entry = file_entry(path, root)
    return [entry] if entry else []


def what_is_wrong(path: str) -> str:
    if os.path.isdir(path):
        return "is a directory without files (hidden ones do not count)"
    if os.path.exists(path):
        return "is not a regular file or directory: write its bytes to a file first"
    if glob.has_magic(path):
        return f"matches no file: nothing fits {os.path.abspath(path)}"
    return f"does not exist: there is no {os.path.abspath(path)}"


def below(top: str, root: str, skip: Sequence[str] = ()) -> Iterator[FileEntry]:
    """The regular files below a directory that are not hidden; links are followed, but not in a circle."""
    seen: set[str] = set()
    for directory, children, names in os.walk(top, onerror=refuse, followlinks=True):
        seen.add(os.path.realpath(directory))
        children[:] = [
            name
            for name in visible(children)
            if name not in skip and os.path.realpath(os.path.join(directory, name)) not in seen
        ]
        for name in visible(names):
            if entry := file_entry(os.path.join(directory, name), root):
                yield entry


def visible(names: Sequence[str]) -> list[str]:
    return sorted(name for name in names if not name.startswith("."))


def cannot_read(path: str, error: OSError | ValueError) -> UsageError:
    number = getattr(error, "errno", None)
    return UsageError(f"cannot read {path}: {os.strerror(number) if number else error}")


def refuse(error: OSError) -> None:
    raise UsageError(f"cannot list {error.filename}: {error.strerror}") from None


def file_entry(path: str, root: str) -> FileEntry | None:
    """The file as it stands, or nothing where it is gone, a dangling link or no regular file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    if not S_ISREG(status.st_mode):
        return None
    relative = os.path.relpath(path, root or ".").replace(os.sep, "/")
    return FileEntry(os.path.abspath(path), relative, status.st_size)
