"""Batches are functions of the seed, the step and the row.

A failure shows windows that overlap, leave the text, or are not the same twice.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpipar.data import Corpus, TextBatches

pytestmark = pytest.mark.alone

COUNTED = b"".join(n.to_bytes(4, "big") for n in range(5000))


def batches(train: bytes = COUNTED, validation: bytes = COUNTED, **changes: int) -> TextBatches:
    corpus = Corpus(memoryview(train), memoryview(validation), files=1)
    return TextBatches(corpus, **{"seed": 0, "batch": 4, "context": 16, **changes})


def test_a_row_is_a_window_of_the_training_bytes() -> None:
    row = batches().row(3, 2)
    assert len(row) == 17
    assert row in COUNTED


def test_a_row_does_not_depend_on_what_was_asked_before() -> None:
    asked = [(step, index) for step in range(5) for index in range(4)]
    forwards = {each: batches().row(*each) for each in asked}
    one = batches()
    assert {each: one.row(*each) for each in reversed(asked)} == forwards


def test_a_row_does_not_depend_on_the_size_of_the_batch() -> None:
    assert batches(batch=2).row(3, 1) == batches(batch=8).row(3, 1)


def test_seed_step_and_row_all_count() -> None:
    rows = [
        batches(seed=seed).row(step, index) for seed in (0, 1) for step in range(20) for index in range(20)
    ]
    assert len(set(rows)) > 0.97 * len(rows)


def test_rows_come_from_everywhere() -> None:
    text = bytes(range(20))
    starts = {batches(text).row(step, 0)[0] for step in range(100)}
    assert starts == {0, 1, 2, 3}


def test_a_text_of_one_window_is_that_window() -> None:
    assert batches(bytes(17)).row(7, 3) == bytes(17)


def starts(rows: list[bytes], text: bytes) -> list[int]:
    return [text.index(row) for row in rows]


def test_validation_rows_are_spread_over_all_bytes() -> None:
    found = starts(batches().validation_rows(8), COUNTED)
    assert (found[0], found[-1]) == (0, len(COUNTED) - 17)
    gaps = {after - before for before, after in pairwise(found)}
    assert max(gaps) - min(gaps) <= 1


def test_validation_rows_are_the_same_for_every_seed() -> None:
    assert batches(seed=1).validation_rows(8) == batches(seed=2).validation_rows(8)


@pytest.mark.parametrize(
    ("targets", "count", "rows"),
    [
        (16 * 8, 8, 8),  # just enough
        (16 * 8 - 1, 8, 4),  # one row short of two batches: one batch
        (16 * 100, 8, 8),  # more than enough
        (16 * 3, 8, 4),  # less than a batch: one batch, which overlaps
        (16, 8, 4),
        (16, 3, 3),
    ],
)
def test_short_bytes_give_fewer_batches(targets: int, count: int, rows: int) -> None:
    assert len(batches(validation=COUNTED[: targets + 1]).validation_rows(count)) == rows


@settings(database=None, derandomize=True, deadline=None)
@given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 50), st.integers(0, 900))
def test_targets_overlap_only_where_there_is_not_one_batch(
    context: int, batch: int, count: int, more: int
) -> None:
    text = COUNTED[: context + 1 + more]
    several = batches(validation=text, context=context, batch=batch)
    places = spread(several, count)
    assert 1 <= len(places) <= count
    assert places[0] == 0
    assert places[-1] <= len(text) - context - 1
    if (len(text) - 1) // context >= batch:
        assert all(after - before >= context for before, after in pairwise(places))
    assert len(places) == count or len(places) % batch == 0


def spread(several: TextBatches, count: int) -> list[int]:
    """Where the rows start, found by reading a text in which position n holds n modulo 256."""
    length = len(several.corpus.validation)
    low = bytes(n % 256 for n in range(length))
    high = bytes(n // 256 for n in range(length))
    rows = [
        batches(validation=text, context=several.context, batch=several.batch).validation_rows(count)
        for text in (low, high)
    ]
    return [a[0] + 256 * b[0] for a, b in zip(*rows, strict=True)]
