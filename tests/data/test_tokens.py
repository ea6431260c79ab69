"""Token files: what is in them, what of them is read, and what is wrong with a damaged one.

A failure shows ids that are not those that were written, or the message, which names the file and the byte.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpipar.data import Batches, Corpus, TextBatches
from mpipar.data import tokens as mapped
from mpipar.data.corpus import digest_of_headers, validates
from mpipar.data.files import list_files
from mpipar.data.tokenfile import MAGIC, START, Header
from mpipar.data.tokens import Piece, Tokens, map_files, token_headers
from mpipar.errors import UsageError
from mpipar.job import world
from mpipar.job.agree import on_all_ranks
from mpipar.mesh import Mesh

RunRanks = Callable[[int, Callable[[Any], Any]], list[Any]]
CODES = {"uint8": "B", "uint16": "H", "uint32": "I"}
TEXT = bytes(7 * n * n % 251 for n in range(400))
TRAINS = next(name for name in (f"train{n}.bin" for n in range(100)) if not validates(name))
VALIDATES = next(name for name in (f"validate{n}.bin" for n in range(1000)) if validates(name))


def write(
    path: Path,
    ids: Any,
    dtype: str = "uint16",
    vocabulary: int = 256,
    tokenizer: str = "own",
    digest: bytes = b"",
) -> Path:
    """A token file as somebody else's program would write it."""
    header = Header(dtype, len(ids), vocabulary, tokenizer, digest or bytes(32))
    path.write_bytes(header.packed() + array(CODES[dtype], list(ids)).tobytes())
    return path


# ---- reading -------------------------------------------------------------------------------------------------


@given(st.data(), st.lists(st.lists(st.integers(0, 59_999), max_size=6), min_size=1, max_size=6))
def test_pieces_read_as_one(data: st.DataObject, pieces: list[list[int]]) -> None:
    """Any part of any part of several files is that part of all ids in a row; pieces may be empty."""
    tokens = Tokens.join([Piece("", memoryview(array("H", ids)), 0) for ids in pieces], 60_000)
    ids = [token for piece in pieces for token in piece]
    assert len(tokens) == len(ids)
    low, high = sorted(data.draw(st.tuples(*[st.integers(0, len(ids))] * 2)))
    part = tokens.part(low, high)
    assert len(part) == high - low
    start, stop = data.draw(st.tuples(*[st.integers(0, len(ids) + 2)] * 2))
    assert part[start:stop] == array("H", ids[low:high][start:stop]).tobytes()


@pytest.mark.parametrize("dtype", list(CODES))
def test_a_file_of_bytes_is_the_text_that_it_was_made_of(tmp_path: Path, solo: Any, dtype: str) -> None:
    """The same corpus, the same batches: only where the bytes lie differs."""
    (tmp_path / "text").write_bytes(TEXT)
    write(tmp_path / "tokens", TEXT, dtype, tokenizer="bytes")  # the magic tells, not the name
    text, tokens = (Corpus.load([str(tmp_path / name)], solo, 8) for name in ("text", "tokens"))
    assert (len(tokens.train), len(tokens.validation)) == (len(text.train), len(text.validation)) == (380, 20)
    assert (tokens.vocabulary, tokens.dtype, tokens.unit) == (256, dtype, "byte")
    assert tokens.describe() == text.describe()
    rows = [TextBatches(corpus, 3, 4, 8) for corpus in (text, tokens)]
    for step in range(3):
        for row in range(4):
            assert list(array(CODES[dtype], rows[1].row(step, row))) == list(rows[0].row(step, row))


def test_a_batch_holds_the_ids(tmp_path: Path, make_mesh: Callable[..., Mesh]) -> None:
    """On all ranks and devices, ids that need more than a byte."""
    everyone = world()
    ids = [1000 * n % 60_007 for n in range(500)]
    path = write(tmp_path / "a.bin", ids, "uint32", 60_007)
    batches = Batches(
        TextBatches(Corpus.load([str(path)], everyone, 8), 0, 4, 8), make_mesh(dp=everyone.size)
    )
    for part in batches.training(0):
        for tokens, targets in zip(part.tokens.numpy(), part.targets.numpy(), strict=True):
            place = ids.index(tokens[0])
            assert [*tokens, targets[-1]] == ids[place : place + 9]


def test_whole_files_part_by_their_names(tmp_path: Path, solo: Any) -> None:
    write(tmp_path / TRAINS, range(100), vocabulary=300)
    write(tmp_path / VALIDATES, range(200, 250), vocabulary=300)
    corpus = Corpus.load([str(tmp_path)], solo, 8)
    assert (corpus.train[:], corpus.validation[:]) == tuple(
        array("H", ids).tobytes() for ids in (range(100), range(200, 250))
    )
    assert corpus.describe() == "2 files: 100 tokens of own to train on, 50 tokens of own to validate with"


def test_too_few_tokens(tmp_path: Path, solo: Any) -> None:
    path = write(tmp_path / "a.bin", range(17))
    message = "--data is too short: 17 tokens in 1 file, and --context 8 needs 18: name more text or write --context 7"
    assert refusal([path], solo).startswith(message)


# ---- what is wrong with a file ---------------------------------------------------------------------------------


def patched(offset: int, new: bytes) -> Callable[[bytes], bytes]:
    return lambda raw: raw[:offset] + new + raw[offset + len(new) :]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (patched(0, b"MPTOK"), r"byte 0: b'MPTOKK\r\n' where a token file begins with b'\x89MPTOK\r\n'"),
        (patched(6, b"\n\n"), r"byte 0: b'\x89MPTOK\n\n' where a token file begins with"),
        (lambda raw: b"", "byte 0: b'' where a token file begins with"),
        (lambda raw: raw[:100], "byte 100: the file ends, within its header of 256 bytes: it was cut short"),
        (patched(8, b"\2"), "byte 8: version 2 of the format; this mpipar reads version 1"),
        (patched(16, b"int16\0"), "byte 16: dtype 'int16' is unknown. Known: uint8, uint16, uint32"),
        (patched(16, b"\xff"), r"byte 16: b'\xffint16\x00\x00' is no text"),
        (patched(24, bytes(8)), "byte 24: the file holds no tokens"),
        (patched(32, bytes(8)), "byte 32: a vocabulary of 0; of uint16 it is 1 to 65536"),
        (patched(32, struct.pack("<Q", 65537)), "byte 32: a vocabulary of 65537; of uint16 it is 1 to 65536"),
        (patched(72, b"bytes"), "byte 32: a vocabulary of 300; of tokenizer 'bytes' it is 256"),
        (patched(72, bytes(3)), "byte 72: the file names no tokenizer"),
        (
            lambda raw: raw[:-1],
            "byte 455: the file ends, but 100 ids of uint16 and the header are 456 bytes: it was cut short",
        ),
        (
            lambda raw: raw + b"x",
            "byte 456: the file goes on to 457, but 100 ids of uint16 and the header are 456",
        ),
        (patched(START + 84, b"\x2c\1"), "byte 340: id 300 is not below 300, the size of the vocabulary"),
        (patched(START + 198, b"\xff\xff"), "byte 454: id 65535 is not below 300"),
    ],
)
@pytest.mark.parametrize("ranks", [1, 3])
def test_a_damaged_file(
    tmp_path: Path, run_ranks: RunRanks, damage: Callable[[bytes], bytes], message: str, ranks: int
) -> None:
    path = write(tmp_path / "a.bin", range(100), vocabulary=300)
    path.write_bytes(damage(path.read_bytes()))
    results = run_ranks(ranks, lambda world: Corpus.load([str(path)], world, 8))
    assert [type(result) for result in results] == [UsageError] * ranks, results
    assert {str(result)[: len(f"--data {path}, {message}")] for result in results} == {
        f"--data {path}, {message}"
    }


def test_an_id_too_large_in_a_long_file_is_found_where_a_batch_reads_it(
    tmp_path: Path, solo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped, "CHECKED_AT_START", 99)
    path = write(tmp_path / "a.bin", [*range(40), 300, *range(59)], vocabulary=300)
    train = Corpus.load([str(path)], solo, 4).train
    assert train[30:40] == array("H", range(30, 40)).tobytes()
    with pytest.raises(UsageError, match="byte 336: id 300 is not below 300"):
        train[38:42]


def test_files_that_do_not_agree(tmp_path: Path, solo: Any) -> None:
    one = write(tmp_path / "1.bin", range(100))
    for changes in ({"dtype": "uint8"}, {"vocabulary": 300}, {"tokenizer": "other"}):
        other = write(tmp_path / "2.bin", range(100), **changes)  # type: ignore[arg-type]
        message = refusal([one, other], solo)
        assert message.startswith(
            f"--data: {one} has tokenizer 'own' with 256 tokens as uint16, {other} has "
        )
        assert message.endswith(": name files that agree")


def test_text_does_not_mix_with_tokens(tmp_path: Path, solo: Any) -> None:
    (tmp_path / "text.txt").write_text("x" * 100)
    tokens = write(tmp_path / "a.tokens", range(100))
    assert f"{tmp_path}/text.txt, byte 0: b'xxxxxxxx' where a token file" in refusal([tmp_path], solo)
    assert len(Corpus.load([str(tokens)], solo, 8).train) == 91


def refusal(names: list[Path], ranks: Any) -> str:
    with pytest.raises(UsageError) as raised:
        Corpus.load([str(name) for name in names], ranks, 8)
    return str(raised.value)


# ---- ranks -------------------------------------------------------------------------------------------------------


def test_ranks_with_other_tokens_under_the_same_name_are_named(tmp_path: Path, run_ranks: RunRanks) -> None:
    """Only headers are read; the digest in them tells the files apart."""
    for rank in range(3):
        (tmp_path / str(rank)).mkdir()
        write(tmp_path / str(rank) / "a.bin", range(100), digest=bytes([rank // 2]) * 32)

    def load(ranks: Any) -> Any:
        entries = list_files([str(tmp_path / str(ranks.rank))])
        return on_all_ranks(ranks, lambda: map_files(entries), digest_of_headers, "{ranks} differ")

    assert [str(result) for result in run_ranks(3, load)] == ["rank 2 differ"] * 3


def test_headers_are_all_that_opening_reads(tmp_path: Path, solo: Any) -> None:
    """A file of 1 TB that is nothing but a hole opens at once."""
    path = tmp_path / "a.bin"
    header = Header("uint16", 1 << 39, 50_257, "own", bytes(32))
    path.write_bytes(header.packed())
    with path.open("r+b") as file:
        file.truncate(header.size)
    corpus = Corpus.load([str(path)], solo, 8)
    assert len(corpus.train) + len(corpus.validation) == 1 << 39
    assert corpus.train[1 << 38 : (1 << 38) + 3] == bytes(6)


def test_text_has_no_headers(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(MAGIC[:7])
    assert token_headers(list_files([str(tmp_path)])) == []
