"""A training run on cards has the loss curve of the CPU: 20 steps, to 1e-9 in float64 and to 1e-5 in float32.

Dropout is on, so masks must have the CPU's bits. These run where MPIPAR_TEST_DEVICE=gpu. A failure lists
(step, field, CPU, card); where step 1 differs already, a kernel does; where only later ones do, an update.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from math import prod
from pathlib import Path

import pytest
from runs import Run, train, write_text

pytestmark = [pytest.mark.gpu, pytest.mark.launches]

MODEL = (
    "--dropout 0.1 --steps 20 --warmup 5 --batch 12 --context 32 --width 48 --heads 4 --layers 2 --val-every 10 "
    "--val-batches 1 --sample 0"
)
BOUNDS = {"float64": 1e-9, "float32": 1e-5}
dtypes = pytest.mark.parametrize("dtype", BOUNDS)
Curve = Callable[..., Run]


@pytest.fixture(scope="module")
def curve(tmp_path_factory: pytest.TempPathFactory) -> Curve:
    """``curve("dp=2,tp=2", "--device gpu")``: that run, made once."""
    data = write_text(tmp_path_factory.mktemp("data") / "words.txt")

    @cache
    def run(mesh: str, flags: str) -> Run:
        ranks = prod(map(int, re.findall(r"\d+", mesh)))
        out: Path = tmp_path_factory.mktemp("curve") / "out"
        return train(ranks, f"{MODEL} --mesh {mesh} {flags}", out, data)

    return run


def differences(run: Run, wanted: Run, bound: float) -> list[tuple[int, str, float, float]]:
    assert len(run.records) == len(wanted.records) == 20
    return [
        (one["step"], key, one[key], other[key])
        for one, other in zip(wanted.records, run.records, strict=True)
        for key in ("loss", "grad_norm", "val_loss")
        if key in one and not abs(one[key] - other[key]) <= bound * abs(one[key])
    ]


@dtypes
def test_one_rank_has_the_curve_of_the_cpu(curve: Curve, dtype: str) -> None:
    here = curve("dp=1", f"--dtype {dtype} --device cpu")
    there = curve("dp=1", f"--dtype {dtype} --device gpu")
    assert not differences(there, here, BOUNDS[dtype])
    assert " on GPU (" in there.lines[0]
    assert " on the CPU," in here.lines[0]


@dtypes
@pytest.mark.parametrize("mesh", ["dp=2", "tp=2", "dp=2,tp=2", "tp=4"])
def test_ranks_that_share_a_card_have_the_curve_of_one(curve: Curve, mesh: str, dtype: str) -> None:
    one = curve("dp=1", f"--dtype {dtype} --device gpu")
    shared = curve(mesh, f"--dtype {dtype} --device gpu --ranks-per-gpu 4")
    assert not differences(shared, one, BOUNDS[dtype])


@pytest.mark.parametrize("optimizer", ["sgd --lr 0.1", "adam"])
def test_every_optimizer_does(curve: Curve, optimizer: str) -> None:
    flags = f"--dtype float64 --optimizer {optimizer}"
    there = curve("tp=2", f"{flags} --device gpu --ranks-per-gpu 2")
    assert not differences(there, curve("dp=1", f"{flags} --device cpu"), BOUNDS["float64"])
