"""Sizes, times and samples as a person reads them. A failure shows what would have been printed."""

from __future__ import annotations

import pytest

from mpipar.log import WeightRow, duration, human_bytes, readable, weights_table

pytestmark = pytest.mark.alone


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (6_291_456, "6.3 MB"),
        (2**40, "1.1 TB"),
        (10**19, "10000.0 PB"),
    ],
)
def test_sizes_are_decimal(count: int, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0:00"), (0.4, "0:00"), (59.6, "1:00"), (61, "1:01"), (3599.4, "59:59"), (360_000, "100:00:00")],
)
def test_times(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_sample_cannot_steer_a_terminal() -> None:
    assert readable(b"def f():\n\treturn 1") == "def f():\n\treturn 1"
    assert readable(b"caf\xc3\xa9") == "caf\xe9"
    assert readable(b"a\x1b[31m\r\x00\x07\xff\xc2\x9b") == "a?[31m?????".replace(
        "?", "\N{REPLACEMENT CHARACTER}"
    )


def test_the_table_has_straight_columns_and_totals() -> None:
    rows = [
        WeightRow("wte", (256, 192), "tp=Shard(0)", 98_304),
        WeightRow("blocks.0.attention.qkv.weight", (192, 3, 6, 32), "tp=Shard(2)", 221_184),
        WeightRow("norm.bias", (192,), "Replicate()", 768),
    ]
    assert weights_table(iter(rows)) == (
        "weight                         shape            placement    bytes here\n"
        "wte                            (256, 192)       tp=Shard(0)     98.3 kB\n"
        "blocks.0.attention.qkv.weight  (192, 3, 6, 32)  tp=Shard(2)    221.2 kB\n"
        "norm.bias                      (192)            Replicate()       768 B\n"
        "total: 3 weights               159,936                         320.3 kB"
    )


def test_a_table_of_nothing_has_a_total() -> None:
    assert weights_table([]).splitlines()[-1].split() == ["total:", "0", "weights", "0", "0", "B"]
