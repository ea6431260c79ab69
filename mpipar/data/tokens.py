"""Tokens that stay in their files: mapped into memory, read where a batch wants them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from mmap import ACCESS_READ, mmap
from typing import Literal, NamedTuple

from mpipar.data.files import FileEntry, cannot_read
from mpipar.data.tokenfile import START, Header, begins_with_magic, read_header, wrong
from mpipar.errors import UsageError

FORMATS: dict[str, Literal["B", "H", "I"]] = {"uint8": "B", "uint16": "H", "uint32": "I"}  # of a memoryview
CHECKED_AT_START = 1 << 24  # tokens: half a second; of longer files the ids are checked as they are read


class Piece(NamedTuple):
    """Consecutive ids of one file."""

    path: str
    ids: memoryview
    first: int  # in the file


@dataclass(frozen=True, slots=True)
class Tokens:
    """The ids of several pieces, one after the other. ``tokens[a:b]`` is the bytes of those ids.

    Reading raises UsageError, with the file and the byte, for an id that is not below `vocabulary`.
    """

    pieces: tuple[Piece, ...]
    ends: tuple[int, ...]
    vocabulary: int

    @classmethod
    def join(cls, pieces: Sequence[Piece], vocabulary: int) -> Tokens:
        return cls(tuple(pieces), tuple(accumulate(len(piece.ids) for piece in pieces)), vocabulary)

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _ = part.indices(len(self))
        return b"".join(bytes(self._checked(piece).ids) for piece in self._between(start, stop))

    def part(self, start: int, stop: int) -> Tokens:
        """Some of them, without reading any."""
        return Tokens.join(list(self._between(start, stop)), self.vocabulary)

    def _between(self, start: int, stop: int) -> Iterator[Piece]:
        for number in range(bisect_right(self.ends, start), len(self.pieces)):
            path, ids, first = self.pieces[number]
            begin = self.ends[number] - len(ids)  # of this piece, among all
            if begin >= stop:
                return
            low = max(0, start - begin)
            yield Piece(path, ids[low : stop - begin], first + low)

    def _checked(self, piece: Piece) -> Piece:
        ids = piece.ids
        if self.vocabulary < 256**ids.itemsize and max(ids, default=0) >= self.vocabulary:
            place = next(place for place, token in enumerate(ids) if token >= self.vocabulary)
            raise wrong(
                piece.path,
                START + (piece.first + place) * ids.itemsize,
                f"id {ids[place]} is not below {self.vocabulary}, the size of the vocabulary in the header",
            )
        return piece


def token_headers(entries: Sequence[FileEntry]) -> list[Header]:
    """The headers of token files, checked; none where the files are text.

    Raises UsageError where only some are token files, where a ``.bin`` is none, and where two do not agree.
    """
    marked = [entry.path for entry in entries if begins_with_magic(entry.path)]
    if not marked and not any(entry.path.endswith(".bin") for entry in entries):
        return []
    headers = {entry.path: read_header(entry.path) for entry in entries}
    path, first = next(iter(headers.items()))
    for other, header in headers.items():
        if kind(header) != kind(first):
            raise UsageError(
                f"--data: {path} has {described(first)}, {other} has {described(header)}: name files that agree"
            )
    return list(headers.values())


def kind(header: Header) -> tuple[str, int, str]:
    return header.tokenizer, header.vocabulary, header.dtype


def described(header: Header) -> str:
    return f"tokenizer {header.tokenizer!r} with {header.vocabulary:,} tokens as {header.dtype}"


def map_files(entries: Sequence[FileEntry]) -> tuple[Tokens, list[Header]]:
    """The tokens of all files, of which nothing but the headers is read."""
    headers = [read_header(entry.path) for entry in entries]
    pieces = [map_file(entry.path, header) for entry, header in zip(entries, headers, strict=True)]
    return Tokens.join(pieces, headers[0].vocabulary), headers


def map_file(path: str, header: Header) -> Piece:
    try:
        with open(path, "rb") as file:
            content = memoryview(mmap(file.fileno(), header.size, access=ACCESS_READ))
    except (OSError, ValueError) as error:
        raise cannot_read(path, error) from None
    return Piece(path, content[START:].cast(FORMATS[header.dtype]), 0)


def check_short(tokens: Tokens) -> None:
    """Raises UsageError for the first id that is too large, where there are few enough to look at all of them."""
    if len(tokens) <= CHECKED_AT_START:
        for start in range(0, len(tokens), 1 << 20):
            tokens[start : start + (1 << 20)]
