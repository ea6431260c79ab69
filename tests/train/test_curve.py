"""The same curve on every mesh: loss, gradient norm and validation loss do not depend on how a run is cut.

In float64, with dropout, at every step, to 1e-9 relative. A failure lists (step, field, serial, parallel). Where step 1
differs already, a gradient or a mask is wrong; where only later steps differ, an update is, or the rows of a batch are.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from math import prod
from pathlib import Path

import pytest
from runs import Run, train, write_text

pytestmark = pytest.mark.launches

MODEL = (
    "--dtype float64 --dropout 0.1 --steps 20 --warmup 5 --batch 12 --context 32 --width 48 --heads 4 --layers 2 "
    "--val-every 10 --val-batches 1 --sample 0"
)
BOUND = 1e-9
Curve = Callable[..., Run]


@pytest.fixture(scope="module")
def curve(tmp_path_factory: pytest.TempPathFactory) -> Curve:
    """``curve("dp=2,tp=2", "--micro-batch 2")``: that run, made once."""
    data = write_text(tmp_path_factory.mktemp("data") / "words.txt")

    @cache
    def run(mesh: str, flags: str) -> Run:
        ranks = prod(map(int, re.findall(r"\d+", mesh)))
        out: Path = tmp_path_factory.mktemp("curve") / "out"
        return train(ranks, f"{MODEL} --mesh {mesh} {flags}", out, data)

    return lambda mesh, flags="": run(mesh, flags)


def differences(run: Run, serial: Run) -> list[tuple[int, str, float, float]]:
    """What two runs do not agree on."""
    assert [set(record) for record in run.records] == [set(record) for record in serial.records]
    return [
        (one["step"], key, one[key], other[key])
        for one, other in zip(serial.records, run.records, strict=True)
        for key in ("loss", "grad_norm", "val_loss")
        if key in one and not abs(one[key] - other[key]) <= BOUND * abs(one[key])
    ]


@pytest.mark.parametrize(
    ("mesh", "flags"),
    [
        ("dp=4", ""),
        ("tp=4", ""),
        ("dp=2,tp=2", ""),
        ("tp=4", "--sequence-parallel"),
        ("dp=2,tp=2", "--sequence-parallel"),
        ("tp=3", ""),  # 4 heads over 3 ranks
        ("tp=3", "--sequence-parallel"),  # and 32 positions
        ("dp=3", ""),
        ("dp=5", ""),  # 12 rows over 5 ranks
        ("dp=1", "--micro-batch 5"),  # 5, 5 and 2 rows
        ("dp=3", "--micro-batch 3"),  # 3, 3, 3 rows, then 1, 1, 1
        ("dp=2,tp=2", "--micro-batch 2"),
        ("dp=2,tp=2", "--recompute full"),
        ("dp=2,tp=2", "--recompute selective --sequence-parallel --micro-batch 2"),
        ("dp=5", "--micro-batch 1"),  # in the last forward pass three ranks have no row
        ("dp=3", "--zero 1"),
        ("dp=2,tp=2", "--zero 2 --micro-batch 2"),
        ("dp=3", "--zero 3 --micro-batch 2"),
        ("dp=2,tp=2", "--zero 3 --sequence-parallel"),
        ("replica=2,dp=2", "--zero 3"),
        ("pp=2", "--micro-batch 4"),
        ("dp=2,pp=2", "--micro-batch 2 --schedule zero_bubble"),
        ("dp=2,pp=2", "--micro-batch 2 --zero 1"),
        ("dp=2,pp=2", "--micro-batch 2 --zero 3"),
        ("pp=2,tp=2", "--micro-batch 5 --schedule gpipe --sequence-parallel"),  # 5, 5 and 2 rows
    ],
)
def test_every_mesh_gives_the_curve_of_one_rank(curve: Curve, mesh: str, flags: str) -> None:
    run = curve(mesh, flags)
    assert not differences(run, curve("dp=1"))
    assert (run.records[0]["comm_bytes"] > 0) == (mesh != "dp=1")


LLAMA = "--style llama --kv-heads 2"  # 2 of 4: cut over 2 ranks, on 3 and 4 whole on each rank and repeated


@pytest.mark.parametrize(
    ("mesh", "flags"),
    [
        ("tp=2", ""),
        ("tp=3", ""),
        ("tp=4", ""),
        ("tp=2", "--sequence-parallel"),
        ("tp=3", "--sequence-parallel"),
        ("tp=4", "--sequence-parallel"),
        ("dp=2,tp=2", "--sequence-parallel"),
        ("dp=2,tp=2", "--micro-batch 2"),
        ("dp=2,tp=3", "--sequence-parallel --micro-batch 4"),  # 4 and 2 rows
        ("dp=3", "--micro-batch 3"),
        ("pp=2,tp=2", "--micro-batch 4 --sequence-parallel"),
    ],
)
def test_every_mesh_gives_the_curve_of_one_rank_in_llama_style(curve: Curve, mesh: str, flags: str) -> None:
    assert not differences(curve(mesh, f"{LLAMA} {flags}"), curve("dp=1", LLAMA))


def test_all_heads_of_keys_or_one_do(curve: Curve) -> None:
    for flags in ("--style llama", "--style llama --kv-heads 1 --rope-base 100"):
        assert not differences(curve("dp=2,tp=2", flags), curve("dp=1", flags))
        assert differences(curve("dp=1", flags), curve("dp=1", LLAMA))


@pytest.mark.parametrize("optimizer", ["--optimizer sgd --lr 0.1", "--optimizer adam"])
def test_every_optimizer_does(curve: Curve, optimizer: str) -> None:
    assert not differences(curve("dp=2,tp=2", optimizer), curve("dp=1", optimizer))
    assert differences(curve("dp=1", optimizer), curve("dp=1"))  # and each has a curve of its own


def test_the_curve_could_show_a_difference(curve: Curve) -> None:
    """The run learns, dropout has an effect from the first step on, and two validations were made."""
    for style in ("", LLAMA):
        losses = curve("dp=1", style).numbers("loss")
        assert len(losses) == 20
        assert losses[-1] < losses[0] - 1
    assert len(curve("dp=1").numbers("val_loss")) == 2
    for style in ("", f" {LLAMA}"):
        assert differences(curve("dp=1", f"--dropout 0{style}"), curve("dp=1", style.strip()))[0][0] == 1


def test_a_rank_of_tp_4_holds_about_a_quarter_of_the_bytes(curve: Curve) -> None:
    (values, held), (same_values, quarter) = totals(curve("dp=1")), totals(curve("tp=4"))
    assert values == same_values
    assert held == pytest.approx(8 * values, rel=1e-3)  # float64
    assert 0.25 < quarter / held < 0.28  # positions, norms and the biases of rows are whole everywhere


def totals(run: Run) -> tuple[int, float]:
    """The number of values over all ranks and the bytes on rank 0, from the last line of the table."""
    (found,) = re.findall(
        r"^total: \d+ weights +([\d,]+) +([\d.]+) (B|kB|MB)$", run.finished.stdout, re.MULTILINE
    )
    return int(found[0].replace(",", "")), float(found[1]) * {"B": 1, "kB": 1e3, "MB": 1e6}[found[2]]
