"""A report of known times, its table, its bars, and a picture where matplotlib is there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from mpipar.backend import cpu
from mpipar.errors import UsageError
from mpipar.profile.machine import peak_flops
from mpipar.profile.plot import bars_of, plot, plotting
from mpipar.profile.report import report, table

pytestmark = pytest.mark.alone

ABOUT = {"tokens": 1000, "flops": 4_000_000_000, "parameters": 1234, "computed_by": "NumPy"}


def row(kind: str, name: str, seconds: float, axis: str = "", size: int = 0) -> dict[str, Any]:
    return {"kind": kind, "name": name, "axis": axis, "calls": 2.0, "seconds": seconds, "bytes": size}


def rank(seconds: list[float], product: float) -> dict[str, Any]:
    return {
        "seconds": seconds, "faults": [0, 5, 1], "peak_flops": 4e9, "peak_memory": 10**8, "watched": 1.0,
        "rows": [
            row("forward", "contract", product), row("backward", "contract", 2 * product),
            row("forward", "allreduce", 0.0, "", 0) | {"kind": "move", "seconds": 0.02},
            row("collective", "allreduce", 0.1, "tp", 64), row("collective", "barrier", 0.5, "mesh"),
        ],
    }  # fmt: skip


@pytest.fixture
def found() -> dict[str, Any]:
    return report([rank([1.0, 2.0, 1.0], 0.1), rank([0.5, 1.0, 3.0], 0.3)], ABOUT)


def test_a_step_is_as_long_as_on_the_slowest_rank(found: dict[str, Any]) -> None:
    assert found["seconds"] == [1.0, 2.0, 3.0]
    assert (found["step_s"], found["tokens_per_s"], found["gflops"]) == (2.0, 500.0, 2.0)
    assert (found["peak_gflops"], found["share_of_peak"]) == ([4.0, 4.0], 0.25)
    assert (found["page_faults"], found["peak_memory"]) == ([1, 1], [10**8, 10**8])


def test_times_are_means_over_ranks_and_account_for_the_step(found: dict[str, Any]) -> None:
    product, move = found["operations"]
    assert (product["name"], product["calls"]) == ("contract", 2)
    assert (product["forward_s"], product["backward_s"]) == pytest.approx((0.2, 0.4))
    assert (move["name"], move["forward_s"]) == ("allreduce (move)", pytest.approx(0.02))
    (reduced,) = found["communication"]  # not the barrier, which carries nothing
    assert reduced == {
        "axis": "tp",
        "name": "allreduce",
        "calls": 2,
        "bytes": 64,
        "seconds": pytest.approx(0.1),
    }
    assert found["other_s"] == pytest.approx(1.0 - 0.6 - 0.02 - 0.1)


def test_the_table_has_a_line_for_each(found: dict[str, Any]) -> None:
    lines = table(found).splitlines()
    assert lines[0] == "step         2000.0 ms, median of 3 (1000.0 to 3000.0)"
    assert lines[2] == "model        1,234 weights, 4 GFLOP a step, 2 GFLOP/s"
    assert lines[3] == "peak         25.0 % of that of square products: 4.0, 4.0 GFLOP/s by rank"
    contract, reduced = (
        next(line for line in lines if line.startswith(n)) for n in ("contract", "allreduce over")
    )
    assert contract.split() == ["contract", "2", "200.00", "400.00", "60.0%"]
    assert reduced.split() == ["allreduce", "over", "tp", "2", "64", "B", "100.00", "10.0%"]


def test_bars_are_the_operations_the_collectives_and_the_rest(found: dict[str, Any]) -> None:
    bars = bars_of(found)
    assert [name for name, _ in bars] == [
        "contract",
        "allreduce (move)",
        "allreduce over tp",
        "neither: tape, Python",
    ]
    assert sum(sum(parts.values()) for _, parts in bars) == pytest.approx(1.0)


def test_many_operations_are_one_bar(found: dict[str, Any]) -> None:
    many = [{"name": f"op{k}", "forward_s": 0.5, "backward_s": 0.25} for k in range(15)]
    bars = dict(bars_of(found | {"operations": many}))
    assert bars["3 more operations"] == {"forward": 1.5, "backward": 0.75}


def test_without_matplotlib_one_message_says_what_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"needs matplotlib: write  pip install 'mpipar\[plot\]'"):
        plotting("a.png")


def test_a_picture_is_drawn(found: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plotting("step.png")
    plot(found, tmp_path / "step.png")
    assert (tmp_path / "step.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="a picture ends with one of"):
        plotting("step.doc")


def test_the_peak_is_that_of_a_processor() -> None:
    """No machine does a product of 1024 × 1024 in a nanosecond or in a minute."""
    assert 2**31 / 60 < peak_flops(cpu(), "float32") < 1e18
