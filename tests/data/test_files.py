"""Which files a pattern names. A failure shows the relative paths that were found, or the message."""

from __future__ import annotations

import os
import random
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from mpipar.data import list_files
from mpipar.errors import UsageError

Tree = Callable[[dict[str, bytes]], Path]


def names(*patterns: object) -> list[str]:
    return [entry.relative for entry in list_files([str(pattern) for pattern in patterns])]


def refused(pattern: object, fragment: str) -> None:
    with pytest.raises(UsageError) as raised:
        list_files([str(pattern)])
    assert fragment in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_directory_is_all_that_is_not_hidden_below_it(tree: Tree) -> None:
    root = tree(dict.fromkeys(["b.txt", "a/c", "a/.c", ".git/x", "a/b/é.bin", "B"], b"x"))
    assert names(root) == ["B", "a/b/é.bin", "a/c", "b.txt"]
    assert names(f"{root}/") == names(root)


def test_a_file_is_known_by_its_name(tree: Tree) -> None:
    root = tree({"a/b.txt": b"four", ".hidden": b""})
    (entry,) = list_files([f"{root}/a/b.txt"])
    assert entry == (f"{root}/a/b.txt", "b.txt", 4)
    assert names(root / ".hidden") == [".hidden"]


def test_a_relative_name_is_found_from_here(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree({"a/b.txt": b"x"})
    monkeypatch.chdir(root)
    assert names(".") == ["a/b.txt"]
    assert [entry.path for entry in list_files(["a/*.txt"])] == [f"{root}/a/b.txt"]
    monkeypatch.chdir(root / "a")
    assert names("b.txt") == names("*.txt") == ["b.txt"]


def test_the_home_directory_can_be_named(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tree({"a/b.txt": b"x"})))
    assert names("~/a") == ["b.txt"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.txt", ["b.txt"]),
        ("**/*.txt", ["a/d/e.txt", "b.txt"]),
        ("a/*", ["c.py", "d/e.txt"]),
        ("**", ["a/c.py", "a/d/e.txt", "b.txt"]),
        ("[ab]*", ["a/c.py", "a/d/e.txt", "b.txt"]),
    ],
)
def test_a_glob_is_relative_to_what_is_before_its_wildcards(
    tree: Tree, pattern: str, expected: list[str]
) -> None:
    root = tree({"a/c.py": b"x", "a/d/e.txt": b"x", "b.txt": b"x"})
    (root / "empty").mkdir()
    assert names(f"{root}/{pattern}") == expected


def test_a_name_that_looks_like_a_glob_is_taken_as_it_is(tree: Tree) -> None:
    root = tree({"[1].txt": b"x", "1.txt": b"x"})
    assert names(root / "[1].txt") == ["[1].txt"]


def test_a_file_named_twice_counts_once(tree: Tree) -> None:
    root = tree({"a/b": b"x", "c": b"x"})
    (root / "link").symlink_to(root / "c")
    (root / "there").symlink_to(root / "a")
    assert names(root / "a/b", f"{root}/a/*", root) == ["b", "c"]


def test_two_files_of_one_name_are_two(tree: Tree) -> None:
    root = tree({"a/x": b"1", "b/x": b"22"})
    assert [entry.size for entry in list_files([f"{root}/b", f"{root}/a"])] == [1, 2]


def test_links_are_followed_but_not_in_a_circle(tree: Tree, tmp_path: Path) -> None:
    root = tree({"a/b": b"x"})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "c").write_bytes(b"x")
    (root / "out").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "self").symlink_to(root / "a" / "self")
    (root / "a" / "gone").symlink_to(root / "nowhere")
    assert names(root) == ["a/b", "out/c"]


def test_only_regular_files_of_a_directory_count(tree: Tree) -> None:
    root = tree({"a": b"x"})
    os.mkfifo(root / "pipe")
    assert names(root) == ["a"]


def test_names_that_are_no_text_are_files_too(tree: Tree) -> None:
    root = tree({"a": b"x"})
    (root / os.fsdecode(b"\xff.txt")).write_bytes(b"yy")
    assert [os.fsencode(name) for name in names(root)] == [b"a", b"\xff.txt"]


def test_the_order_is_that_of_the_names_whatever_the_directory_says(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tree(dict.fromkeys((f"{a}/{b}" for a in "cab" for b in "zxy"), b""))
    (root / "link").symlink_to(root / "a")
    usual, walk = names(root), os.scandir

    class Shuffled(list[os.DirEntry[str]]):
        def __enter__(self) -> Shuffled:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def __next__(self) -> os.DirEntry[str]:
            if not self:
                raise StopIteration
            return self.pop(random.randrange(len(self)))

        def close(self) -> None:
            self.clear()

    def scandir(path: str) -> Shuffled:
        with walk(path) as entries:
            return Shuffled(entries)

    monkeypatch.setattr(os, "scandir", scandir)
    assert all(names(root) == usual for _ in range(5))
    assert usual == sorted(usual)


def test_the_default_is_the_standard_library() -> None:
    entries = list_files([])
    found = {entry.relative for entry in entries}
    assert {"ast.py", "json/decoder.py"} <= found
    assert all(name.endswith(".py") for name in found)
    assert not any("site-packages" in name or "dist-packages" in name for name in found)
    assert entries[0].path == f"{sysconfig.get_paths()['stdlib']}/{entries[0].relative}"
    assert sum(entry.size for entry in entries) > 5_000_000


def test_missing(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree({"a": b"x"})
    monkeypatch.chdir(root)
    refused("b.txt", f"--data b.txt does not exist: there is no {root}/b.txt")
    refused(root / "a" / "below-a-file", "does not exist")
    refused("*.txt", f"--data *.txt matches no file: nothing fits {root}/*.txt")
    refused("", "does not exist")
    (root / "link").symlink_to(root / "nowhere")
    refused("link", "does not exist")


def test_empty_directory(tree: Tree) -> None:
    root = tree({".hidden": b"x"})
    refused(root, "is a directory without files (hidden ones do not count)")


def test_a_pipe_is_no_corpus(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "is not a regular file or directory: write its bytes to a file first")


def test_a_directory_that_cannot_be_listed(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree({"a": b"x"})

    def scandir(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", scandir)
    refused(root, f"cannot list {root}: Permission denied")
