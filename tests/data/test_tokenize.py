"""Text becomes a token file, a block at a time; the file appears whole or not at all.

A failure shows the ids or the message, or what was left behind.
"""

from __future__ import annotations

import tracemalloc
from array import array
from hashlib import blake2b
from pathlib import Path

import pytest

from mpipar.data import list_files
from mpipar.data import tokenize as writing
from mpipar.data.tokenfile import START, Header, read_header
from mpipar.data.tokenize import write_tokens
from mpipar.errors import UsageError


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Three files, one of them empty."""
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_bytes(bytes(range(256)))
    (folder / "b.txt").write_bytes(b"")
    (folder / "c.txt").write_bytes(b"the end")
    return folder


def tokenize(texts: Path, out: Path, dtype: str = "uint8", *, force: bool = False) -> Header:
    return write_tokens(list_files([str(texts)], "INPUT"), str(out), dtype, force=force)


@pytest.mark.parametrize(("dtype", "code"), [("uint8", "B"), ("uint16", "H"), ("uint32", "I")])
@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_the_ids_are_the_bytes_of_all_files_in_order(
    texts: Path, tmp_path: Path, dtype: str, code: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "BLOCK", block)
    out = tmp_path / "out.bin"
    header = tokenize(texts, out, dtype)
    body = out.read_bytes()[START:]
    assert list(array(code, body)) == [*range(256), *b"the end"]
    assert (
        header
        == read_header(str(out))
        == Header(dtype, 263, 256, "bytes", blake2b(body, digest_size=32).digest())
    )


def test_a_large_text_needs_little_memory(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(24 << 20)
    tracemalloc.start()
    tokenize(tmp_path / "large", tmp_path / "out.bin", "uint16")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 7 << 20  # two blocks of text and of their tokens, 6 MiB, live at a time


def refused(texts: Path, out: Path, message: str, *, force: bool = False) -> None:
    """The one message, and nothing is left or changed."""
    before = {path: path.read_bytes() for path in sorted(out.parent.rglob("*")) if path.is_file()}
    with pytest.raises(UsageError) as raised:
        tokenize(texts, out, force=force)
    assert str(raised.value) == message
    assert {path: path.read_bytes() for path in sorted(out.parent.rglob("*")) if path.is_file()} == before


def test_a_file_is_written_over_only_by_force(texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.bin"
    out.write_text("precious")
    refused(texts, out, f"--out {out} exists: add --force to write over it, or name another")
    assert tokenize(texts, out, force=True).count == 263
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["out.bin", "texts"]


def test_what_cannot_be_written(texts: Path, tmp_path: Path) -> None:
    refused(texts, texts, f"--out {texts} exists: it is no regular file", force=True)
    nowhere = tmp_path / "no" / "out.bin"
    with pytest.raises(
        UsageError, match=r"^--out .*/no/out.bin cannot be written: No such file or directory$"
    ):
        tokenize(texts, nowhere)


def test_what_is_no_text(texts: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.bin"
    tokenize(texts, tokens)
    refused(tokens, tmp_path / "out.bin", f"INPUT {tokens} is a token file already: leave it out")
    refused(texts / "b.txt", tmp_path / "out.bin", "INPUT has no text: the file is empty")


def test_an_input_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    entries = list_files(["/proc/self/mem"], "INPUT")  # its first page cannot be read
    (tmp_path / "a").write_text("text")
    with pytest.raises(UsageError, match=r"^cannot read /proc/self/mem: Input/output error$"):
        write_tokens(list_files([str(tmp_path)], "INPUT") + entries, str(tmp_path / "out.bin"), "uint8")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
