"""The text of a run: files as bytes or as tokens, one part to train on and one to validate with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from operator import itemgetter
from os import fsencode
from typing import NamedTuple

from mpipar.data.files import FileEntry, cannot_read, list_files
from mpipar.data.tokenfile import BYTES, Header
from mpipar.data.tokens import Tokens, check_short, map_files, token_headers
from mpipar.errors import UsageError
from mpipar.job.agree import Ranks, on_all_ranks, on_first_rank
from mpipar.log import human_bytes

VALIDATION_SHARE = 20  # one in so many: of the files, or of the bytes where the files do not part well
OTHERWISE = (
    "--data: {ranks} read other bytes than the rest under the same names: "
    "give a path that is the same on every node"
)


class Arrangement(NamedTuple):
    """The files in the order in which they are read, and how many of their bytes (or tokens) are for training."""

    entries: list[FileEntry]
    train: int


@dataclass(frozen=True, slots=True)
class Corpus:
    """The tokens to train on and those to validate with, the same on every rank. Of plain text a token is a byte."""

    train: memoryview | Tokens
    validation: memoryview | Tokens
    files: int
    tokenizer: str = BYTES
    vocabulary: int = 256
    dtype: str = "uint8"  # of the tokens: a slice gives their bytes
    digest: str = ""  # of all tokens, in the order in which they are read

    @classmethod
    def load(cls, patterns: Sequence[str], world: Ranks, context: int) -> Corpus:
        """Opens the files that `patterns` name (as in `list_files`): rank 0 lists and checks them, all ranks open them.

        Text is read whole, token files are mapped. Collective. Each part has at least one window of `context` + 1
        tokens. Raises the same UsageError on every rank: for patterns that name nothing or too little, for a file
        that some rank cannot read, for a token file that is damaged, and where a rank read other bytes than the rest.
        """
        arranged, tokens = on_first_rank(world, lambda: look_at(patterns, context + 1))
        return map_corpus(arranged, world) if tokens else read_corpus(arranged, world)

    @property
    def unit(self) -> str:
        """What a token is called: the loss is in nats a unit."""
        return "byte" if self.tokenizer == BYTES else "token"

    def describe(self) -> str:
        """One line on what was read."""
        files = "1 file" if self.files == 1 else f"{self.files:,} files"
        return f"{files}: {self._amount(self.train)} to train on, {self._amount(self.validation)} to validate with"

    def _amount(self, part: memoryview | Tokens) -> str:
        return human_bytes(len(part)) if self.unit == "byte" else f"{len(part):,} tokens of {self.tokenizer}"


def read_corpus(arranged: Arrangement, world: Ranks) -> Corpus:
    content, digest = on_all_ranks(
        world, lambda: digested(read_files(arranged.entries)), itemgetter(1), OTHERWISE
    )
    view = memoryview(content).toreadonly()
    train, rest = view[: arranged.train], view[arranged.train :]
    return Corpus(train, rest, len(arranged.entries), digest=digest.hex())


def map_corpus(arranged: Arrangement, world: Ranks) -> Corpus:
    tokens, headers = on_all_ranks(world, lambda: map_files(arranged.entries), digest_of_headers, OTHERWISE)
    train, rest = tokens.part(0, arranged.train), tokens.part(arranged.train, len(tokens))
    header = headers[0]
    digest = digest_of_headers((tokens, headers)).hex()
    return Corpus(train, rest, len(headers), header.tokenizer, header.vocabulary, header.dtype, digest)


def look_at(patterns: Sequence[str], window: int) -> tuple[Arrangement, bool]:
    """How the files are read, and whether they are token files."""
    entries = list_files(patterns)
    headers = token_headers(entries) if patterns else []  # no need to open all files of Python's library
    if not headers:
        return arrange(entries, window, "bytes"), False
    counted = [entry._replace(size=header.count) for entry, header in zip(entries, headers, strict=True)]
    arranged = arrange(counted, window, "tokens")
    check_short(map_files(arranged.entries)[0])
    return arranged, True


def arrange(entries: list[FileEntry], window: int, unit: str = "bytes") -> Arrangement:
    """Training files first; validation files follow, or the last tokens where whole files do not part well."""
    train = [entry for entry in entries if not validates(entry.relative)]
    validation = [entry for entry in entries if validates(entry.relative)]
    if min(total(train), total(validation)) >= window:
        return Arrangement(train + validation, total(train))
    size = total(entries)
    if size < 2 * window:
        raise UsageError(too_short(len(entries), size, window, unit))
    return Arrangement(entries, size - max(size // VALIDATION_SHARE, window))


def validates(relative: str) -> bool:
    """Whether a file is for validation, by its name alone: so it stays there whatever files come or go."""
    digest = blake2b(fsencode(relative), digest_size=8).digest()
    return int.from_bytes(digest, "little") % VALIDATION_SHARE == 0


def total(entries: Sequence[FileEntry]) -> int:
    return sum(entry.size for entry in entries)


def too_short(files: int, size: int, window: int, unit: str) -> str:
    longest = size // 2 - 1
    smaller = f" or write --context {longest} or less" if longest > 0 else ""
    return (
        f"--data is too short: {size:,} {unit} in {'1 file' if files == 1 else f'{files} files'}, "
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
        raise cannot_read(entry.path, error) from None
    if not same:
        raise UsageError(f"--data: {entry.path} changed while it was read: start again when it stands still")


def digested(content: bytearray) -> tuple[bytearray, bytes]:
    return content, blake2b(content, digest_size=16).digest()


def digest_of_headers(mapped: tuple[Tokens, list[Header]]) -> bytes:
    """A header holds a digest of its tokens: to compare the headers is to compare the files."""
    return blake2b(b"".join(header.packed() for header in mapped[1]), digest_size=16).digest()
