"""The format of a token file: a header of 256 bytes, then the ids; all numbers are little-endian. `docs/data.md`.

The header holds, by byte: 0 the magic, 8 the version, 16 the dtype, 24 the count, 32 the size of the vocabulary,
40 a BLAKE2b digest of the ids, 72 the name of the tokenizer; all else is zero.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from struct import Struct

from mpipar.data.files import cannot_read
from mpipar.errors import UsageError

MAGIC = b"\x89MPTOK\r\n"  # a copy that translates line ends, or keeps 7 bits only, breaks it
VERSION = 1
LAYOUT = Struct("<8sI4x8sQQ32s64s120x")
START = LAYOUT.size  # of the ids
DTYPES = {"uint8": 1, "uint16": 2, "uint32": 4}  # bytes an id
BYTES = "bytes"  # the tokenizer whose ids are the bytes of the text


@dataclass(frozen=True, slots=True)
class Header:
    """What a token file says of itself."""

    dtype: str
    count: int  # of ids
    vocabulary: int  # every id is below it
    tokenizer: str
    digest: bytes  # 32 bytes: BLAKE2b of the ids as they lie in the file

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return START + self.count * DTYPES[self.dtype]

    def packed(self) -> bytes:
        """The 256 bytes."""
        dtype, tokenizer = self.dtype.encode(), self.tokenizer.encode()
        return LAYOUT.pack(MAGIC, VERSION, dtype, self.count, self.vocabulary, self.digest, tokenizer)


def begins_with_magic(path: str) -> bool:
    """Whether this is a token file, whatever it is called. Raises UsageError where it cannot be read."""
    return read_start(path, len(MAGIC)) == MAGIC


def read_header(path: str) -> Header:
    """The header of a token file, checked.

    Raises UsageError with the file and the byte for another magic, a version or dtype that is unknown, a file that is
    empty, cut short or too long, and a vocabulary that the dtype cannot hold.
    """
    raw = read_start(path, START)
    if not raw.startswith(MAGIC):
        raise wrong(
            path, 0, f"{raw[:8]!r} where a token file begins with {MAGIC!r}; `mpipar tokenize` writes one"
        )
    if len(raw) < START:
        raise wrong(path, len(raw), f"the file ends, within its header of {START} bytes: it was cut short")
    _, version, dtype, count, vocabulary, digest, tokenizer = LAYOUT.unpack(raw)
    if version != VERSION:
        raise wrong(path, 8, f"version {version} of the format; this mpipar reads version {VERSION}")
    header = Header(text_of(path, 16, dtype), count, vocabulary, text_of(path, 72, tokenizer), digest)
    check_header(path, header)
    check_size(path, header, os.stat(path).st_size)
    return header


def check_header(path: str, header: Header) -> None:
    if header.dtype not in DTYPES:
        raise wrong(path, 16, f"dtype {header.dtype!r} is unknown. Known: {', '.join(DTYPES)}")
    if not header.count:
        raise wrong(path, 24, "the file holds no tokens")
    most = 256 ** DTYPES[header.dtype]
    if not 1 <= header.vocabulary <= most:
        raise wrong(path, 32, f"a vocabulary of {header.vocabulary}; of {header.dtype} it is 1 to {most}")
    if header.tokenizer == BYTES and header.vocabulary != 256:
        raise wrong(path, 32, f"a vocabulary of {header.vocabulary}; of tokenizer {BYTES!r} it is 256")
    if not header.tokenizer:
        raise wrong(path, 72, "the file names no tokenizer")


def check_size(path: str, header: Header, size: int) -> None:
    told = f"{header.count:,} ids of {header.dtype} and the header are {header.size:,} bytes"
    if size < header.size:
        raise wrong(path, size, f"the file ends, but {told}: it was cut short")
    if size > header.size:
        raise wrong(path, header.size, f"the file goes on to {size:,}, but {told}")


def text_of(path: str, offset: int, raw: bytes) -> str:
    try:
        return raw.rstrip(b"\0").decode()
    except UnicodeDecodeError:
        raise wrong(path, offset, f"{raw[:16]!r} is no text") from None


def read_start(path: str, size: int) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(size)
    except OSError as error:
        raise cannot_read(path, error) from None


def wrong(path: str, offset: int, what: str) -> UsageError:
    return UsageError(f"--data {path}, byte {offset}: {what}")
