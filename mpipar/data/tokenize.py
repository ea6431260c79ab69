"""Text → a token file, a block at a time. The file appears whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

from mpipar.data.files import FileEntry, cannot_read
from mpipar.data.tokenfile import BYTES, DTYPES, START, Header, begins_with_magic
from mpipar.errors import UsageError

BLOCK = 1 << 20  # bytes of text


def write_tokens(entries: Sequence[FileEntry], out: str, dtype: str, *, force: bool = False) -> Header:
    """Writes the bytes of the files, one after the other, as the tokens of a token file. Returns its header.

    Raises UsageError for an input that is a token file already, cannot be read or is empty, and where `out` exists
    (unless `force`) or cannot be written.
    """
    path = Path(os.path.expanduser(out))
    refuse_token_files(entries)
    if os.path.lexists(path) and not (force and path.is_file()):
        way = "add --force to write over it, or name another" if path.is_file() else "it is no regular file"
        raise UsageError(f"--out {out} exists: {way}")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("xb") as file:
            header = fill(file, entries, dtype)
        part.replace(path)
    except OSError as error:
        raise UsageError(f"--out {out} cannot be written: {error.strerror or error}") from None
    finally:
        with suppress(OSError):
            part.unlink()
    return header


def refuse_token_files(entries: Sequence[FileEntry]) -> None:
    for entry in entries:
        if begins_with_magic(entry.path):
            raise UsageError(f"INPUT {entry.path} is a token file already: leave it out")


def fill(file: BinaryIO, entries: Sequence[FileEntry], dtype: str) -> Header:
    """Header and tokens; the header comes last, so that a file that was left half-way has no magic."""
    count, digest = 0, blake2b(digest_size=32)
    file.seek(START)
    for block in blocks(entries):
        tokens = widened(block, DTYPES[dtype])
        count += len(block)
        digest.update(tokens)
        file.write(tokens)
    if not count:
        raise UsageError(
            f"INPUT has no text: {'the file is' if len(entries) == 1 else 'all files are'} empty"
        )
    header = Header(dtype, count, 256, BYTES, digest.digest())
    file.seek(0)
    file.write(header.packed())
    file.flush()
    os.fsync(file.fileno())
    return header


def widened(text: bytes, size: int) -> bytearray:
    """The bytes of a text as little-endian numbers of so many bytes."""
    tokens = bytearray(size * len(text))
    tokens[::size] = text
    return tokens


def blocks(entries: Sequence[FileEntry]) -> Iterator[bytes]:
    """The text of all files in blocks. An error of reading is UsageError here, and not one of writing."""
    for entry in entries:
        try:
            with open(entry.path, "rb") as file:
                while block := file.read(BLOCK):
                    yield block
        except OSError as error:
            raise cannot_read(entry.path, error) from None
