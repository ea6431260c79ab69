"""The text of a run: files as bytes, one part to train on and one to validate with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from os import fsencode, strerror
from typing import NamedTuple

from mpipar.data.files import FileEntry, list_files
from mpipar.data.ranks import Ranks, on_all_ranks, on_first_rank
from mpipar.errors import UsageError
from mpipar.log import human_bytes

VALIDATION_SHARE = 20  # one in so many: of the files, or of the bytes where the files do not part well


class Arrangement(NamedTuple):
    """The files in the order in which they are read, and how many of their bytes are for training."""

    entries: list[FileEntry]
    train_bytes: int


@dataclass(frozen=True, slots=True)
class Corpus:
    """The bytes to train on and those to validate with, the same on every rank."""

    train: memoryview
    validation: memoryview
    files: int

    @classmethod
    def load(cls, patterns: Sequence[str], world: Ranks, context: int) -> Corpus:
        """Reads the files that `patterns` name (as in `list_files`): rank 0 lists, every rank reads.

        Collective. Each part has at least one window of `context` + 1 bytes. Raises the same UsageError on
        every rank: for patterns that name nothing or too little, for a file that some rank cannot read, and
        where a rank read other bytes than the rest.
        """
        arranged = on_first_rank(world, lambda: arrange(list_files(patterns), context + 1))
        content = memoryview(
            on_all_ranks(world, lambda: read_files(arranged.entries), digest_of)
        ).toreadonly()
        cut = arranged.train_bytes
        return cls(train=content[:cut], validation=content[cut:], files=len(arranged.entries))

    def describe(self) -> str:
        """One line on what was read."""
        train, validation = human_bytes(len(self.train)), human_bytes(len(self.validation))
        files = "1 file" if self.files == 1 else f"{self.files:,} files"
        return f"{files}: {train} to train on, {validation} to validate with"


def arrange(entries: list[FileEntry], window: int) -> Arrangement:
    """Training files first; validation files follow, or the last bytes where whole files do not part well."""
    train = [entry for entry in entries if not validates(entry.relative)]
    validation = [entry for entry in entries if validates(entry.relative)]
    if min(total(train), total(validation)) >= window:
        return Arrangement(train + validation, total(train))
    size = total(entries)
    if size < 2 * window:
        raise UsageError(too_short(len(entries), size, window))
    return Arrangement(entries, size - max(size // VALIDATION_SHARE, window))


def validates(relative: str) -> bool:
    """Whether a file is for validation, by its name alone: so it stays there whatever files come or go."""
    digest = blake2b(fsencode(relative), digest_size=8).digest()
    return int.from_bytes(digest, "little") % VALIDATION_SHARE == 0


def total(entries: Sequence[FileEntry]) -> int:
    return sum(entry.size for entry in entries)


def too_short(files: int, size: int, window: int) -> str:
    longest = size // 2 - 1
    smaller = f" or write --context {longest} or less" if longest > 0 else ""
    return (
        f"--data is too short: {size:,} bytes in {'1 file' if files == 1 else f'{files} files'}, "
        f"and --context {window - 1} needs {2 * window:,}: name more text{smaller}"
    )


def read_files(entries: Sequence[FileEntry]) -> bytearray:
    """The bytes of all files, one after the other."""
    try:
        content = bytearray(total(entries))
    except MemoryError:
        raise UsageError(f"--data: no memory for {human_bytes(total(entries))}: name less text") from None
    view, start = memoryview(content), 0
    for entry in entries:
        read_file(entry, view[start : start + entry.size])
        start += entry.size
    return content


def read_file(entry: FileEntry, room: memoryview) -> None:
    """Fills the room with the bytes of a file, which must have the size that it had when it was listed."""
    try:
        with open(entry.path, "rb") as file:
            same = file.readinto(room) == entry.size and not file.read(1)
    except OSError as error:
        reason = strerror(error.errno) if error.errno else str(error)
        raise UsageError(f"--data: cannot read {entry.path}: {reason}") from None
    if not same:
        raise UsageError(f"--data: {entry.path} changed while it was read: start again when it stands still")


def digest_of(content: bytearray) -> bytes:
    return blake2b(content, digest_size=16).digest()
