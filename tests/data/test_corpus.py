"""What is read, how it is parted, and that all ranks have the same of it.

A failure of a test on ranks shows what each rank returned or raised: they must all say the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpipar.data import Corpus, FileEntry
from mpipar.data.corpus import arrange, total, validates
from mpipar.errors import UsageError
from mpipar.job import world

Tree = Callable[[dict[str, bytes]], Path]
RunRanks = Callable[[int, Callable[[Any], Any]], list[Any]]

VALIDATES = [name for name in (f"file{n}" for n in range(200)) if validates(name)]
TRAINS = [name for name in (f"file{n}" for n in range(200)) if not validates(name)]


def entries(*sizes: tuple[str, int]) -> list[FileEntry]:
    return [FileEntry(f"/{name}", name, size) for name, size in sizes]


def test_about_one_file_in_twenty_validates() -> None:
    share = sum(validates(f"some/module{n}.py") for n in range(20_000)) / 20_000
    assert 0.045 < share < 0.055


def test_whole_files_part_by_their_names_alone() -> None:
    layout = arrange(entries((VALIDATES[0], 50), (TRAINS[0], 100), (TRAINS[1], 100), (VALIDATES[1], 60)), 10)
    assert [entry.relative for entry in layout.entries] == [*TRAINS[:2], *VALIDATES[:2]]
    assert layout.train == 200


@pytest.mark.parametrize(
    "listed",
    [
        entries((TRAINS[0], 1000)),
        entries((VALIDATES[0], 1000)),
        entries((TRAINS[0], 995), (VALIDATES[0], 5)),
        entries((VALIDATES[0], 995), (TRAINS[0], 5)),
    ],
)
def test_the_last_bytes_validate_where_files_do_not_part_well(listed: list[FileEntry]) -> None:
    layout = arrange(listed, 10)
    assert layout.entries == listed
    assert layout.train == 950


def test_the_last_bytes_are_at_least_one_window() -> None:
    assert arrange(entries((TRAINS[0], 100)), 20).train == 80


SIZES = st.lists(st.integers(0, 500), min_size=1, max_size=30)


@settings(database=None, derandomize=True, deadline=None)
@given(SIZES, st.integers(2, 200))
def test_each_part_has_a_window_or_the_text_is_too_short(sizes: list[int], window: int) -> None:
    listed = entries(*((f"file{n}", size) for n, size in enumerate(sizes)))
    try:
        layout = arrange(listed, window)
    except UsageError:
        assert total(listed) < 2 * window
        return
    assert sorted(layout.entries) == sorted(listed)
    assert window <= layout.train <= total(listed) - window


def test_bytes_are_read_as_they_are(tree: Tree, solo: Any) -> None:
    files = {TRAINS[0]: bytes(range(256)), TRAINS[1]: b"", VALIDATES[0]: b"\r\n\x00\xff" * 10}
    corpus = Corpus.load([str(tree(files))], solo, context=7)
    assert bytes(corpus.train) == files[TRAINS[0]]
    assert bytes(corpus.validation) == files[VALIDATES[0]]
    assert corpus.train.readonly
    assert corpus.describe() == "3 files: 256 B to train on, 40 B to validate with"


@pytest.mark.parametrize(
    ("content", "context", "message"),
    [
        (b"", 8, "--data is too short: 0 bytes in 1 file, and --context 8 needs 18: name more text"),
        (b"abc", 8, "--data is too short: 3 bytes in 1 file, and --context 8 needs 18: name more text"),
        (
            b"x" * 17,
            8,
            "17 bytes in 1 file, and --context 8 needs 18: name more text or write --context 7 or less",
        ),
    ],
)
def test_too_short(tree: Tree, solo: Any, content: bytes, context: int, message: str) -> None:
    root = tree({"a": content})
    with pytest.raises(UsageError) as raised:
        Corpus.load([str(root)], solo, context)
    assert str(raised.value).endswith(message)


def test_what_a_message_says_is_enough(tree: Tree, solo: Any) -> None:
    root = str(tree({"a": b"x" * 17}))
    assert len(Corpus.load([root], solo, context=7).validation) == 8


def test_unreadable(tree: Tree, solo: Any) -> None:
    if not os.path.exists("/proc/self/mem"):
        pytest.skip("no file here that root cannot read")
    root = tree({"a": b"x" * 1000})
    with pytest.raises(UsageError, match=r"^cannot read /proc/self/mem: Input/output error"):
        Corpus.load([f"{root}/a", "/proc/self/mem"], solo, context=8)


def load_after(change: Callable[[int], None], root: Path) -> Callable[[Any], Any]:
    """Loads on a rank that does something between the listing and the reading."""

    def load(world: Any) -> Any:
        def broadcast(value: Any, root: int = 0, send: Callable[..., Any] = world.broadcast_object) -> Any:
            received = send(value, root)
            change(world.rank)
            return received

        world.broadcast_object = broadcast
        return Corpus.load([str(root)], world, context=8)

    return load


def the_one_message(results: list[Any]) -> str:
    """The message of the UsageError that every rank raised."""
    assert [type(result) for result in results] == [UsageError] * len(results), results
    (message,) = {str(result) for result in results}
    return message


@pytest.mark.parametrize("size", [1, 2, 4])
def test_all_ranks_have_the_same(tree: Tree, run_ranks: RunRanks, size: int) -> None:
    root = tree({name: name.encode() * 10 for name in TRAINS[:5] + VALIDATES[:2]})
    loaded = run_ranks(size, lambda world: Corpus.load([str(root)], world, context=8))
    assert [bytes(corpus.train) for corpus in loaded] == [
        "".join(n * 10 for n in sorted(TRAINS[:5])).encode()
    ] * size
    assert len({bytes(corpus.validation) for corpus in loaded}) == 1


def test_what_rank_0_cannot_list_is_raised_on_all(tmp_path: Path, run_ranks: RunRanks) -> None:
    results = run_ranks(3, lambda world: Corpus.load([str(tmp_path / "none")], world, context=8))
    assert "none does not exist" in the_one_message(results)


def test_a_file_that_vanishes_is_named_by_all(tree: Tree, run_ranks: RunRanks) -> None:
    root = tree({"a": b"x" * 100, "b": b"x" * 100})
    results = run_ranks(2, load_after(lambda _: (root / "b").unlink(missing_ok=True), root))
    assert the_one_message(results) == f"cannot read {root}/b: No such file or directory"


@pytest.mark.parametrize("content", [b"x" * 99, b"x" * 101, b""])
def test_a_file_that_changes_is_named(tree: Tree, run_ranks: RunRanks, content: bytes) -> None:
    root = tree({"a": b"x" * 100})
    results = run_ranks(1, load_after(lambda _: (root / "a").write_bytes(content), root))
    assert f"{root}/a changed while it was read: start again" in the_one_message(results)


def test_a_job_reads_one_corpus(tree: Tree) -> None:
    """On the real ranks: each names files of its own, and all have those of rank 0."""
    everyone = world()
    root = tree({"a": bytes([everyone.rank]) * 100})
    corpus = Corpus.load([str(root)], everyone, context=8)
    assert bytes(corpus.train) == bytes(91)


def test_a_job_raises_one_error(tmp_path: Path) -> None:
    everyone = world()
    missing = tmp_path / "none" / str(everyone.rank)
    with pytest.raises(UsageError, match=r"does not exist: there is no /.*/none/0$"):
        Corpus.load([str(missing)], everyone, context=8)
