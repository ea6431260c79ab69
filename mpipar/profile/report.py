"""What was measured of a step on all ranks, as one object and as a table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import median
from typing import Any

from mpipar.log import human_bytes
from mpipar.profile.watch import BACKWARD, COLLECTIVE, MOVE


def report(ranks: Sequence[dict[str, Any]], about: dict[str, Any]) -> dict[str, Any]:
    """`ranks` has what `measured` returned on each, with its `peak_flops` and `peak_memory`.

    A step takes as long as on the rank where it takes longest. Operations and collectives are seconds a step, means
    over the steps that were watched and over the ranks; each operation without the collectives inside it.
    """
    seconds = [max(each) for each in zip(*(rank["seconds"] for rank in ranks), strict=True)]
    step, peak = median(seconds), sum(rank["peak_flops"] for rank in ranks)
    found = {
        **about,
        "seconds": seconds,
        "step_s": step,
        "tokens_per_s": about["tokens"] / step,
        "gflops": about["flops"] / step / 1e9,
        "peak_gflops": [rank["peak_flops"] / 1e9 for rank in ranks],
        "share_of_peak": about["flops"] / step / peak,
        "peak_memory": [rank["peak_memory"] for rank in ranks],
        "page_faults": [median(rank["faults"]) for rank in ranks],
        "operations": operations(ranks),
        "communication": communication(ranks),
    }
    accounted = sum(its["forward_s"] + its["backward_s"] for its in found["operations"])
    accounted += sum(its["seconds"] for its in found["communication"])
    watched = sum(rank["watched"] for rank in ranks) / len(ranks)
    return found | {"watched_s": watched, "other_s": watched - accounted}


def operations(ranks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The longest first. A move, whose direction is not known, and the optimizer's step count as forward."""
    found: dict[str, dict[str, Any]] = defaultdict(
        lambda: {"calls": 0.0, "forward_s": 0.0, "backward_s": 0.0}
    )
    for row in all_rows(ranks):
        if row["kind"] != COLLECTIVE:
            name = f"{row['name']} (move)" if row["kind"] == MOVE else row["name"]
            found[name]["calls"] += row["calls"] if row["kind"] != BACKWARD else 0
            found[name]["backward_s" if row["kind"] == BACKWARD else "forward_s"] += row["seconds"]
    listed = [{"name": name, **each(its, len(ranks))} for name, its in found.items()]
    return sorted(listed, key=lambda its: -its["forward_s"] - its["backward_s"])


def communication(ranks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """By axis and collective, waiting for the others included."""
    found: dict[tuple[str, str], dict[str, Any]] = defaultdict(
        lambda: {"calls": 0.0, "bytes": 0.0, "seconds": 0.0}
    )
    for row in all_rows(ranks):
        if row["kind"] == COLLECTIVE and row["bytes"]:
            for name in ("calls", "bytes", "seconds"):
                found[row["axis"], row["name"]][name] += row[name]
    listed = [{"axis": axis, "name": name, **each(its, len(ranks))} for (axis, name), its in found.items()]
    return sorted(listed, key=lambda its: -its["seconds"])


def all_rows(ranks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for rank in ranks for row in rank["rows"]]


def each(sums: dict[str, float], ranks: int) -> dict[str, float]:
    return {name: value / ranks for name, value in sums.items()}


def table(found: dict[str, Any]) -> str:
    """For a person."""
    step, watched, f = found["step_s"], found["watched_s"], found
    low, high = 1e3 * min(f["seconds"]), 1e3 * max(f["seconds"])
    peaks = ", ".join(f"{peak:.1f}" for peak in f["peak_gflops"])
    facts = {
        "step": f"{1e3 * step:.1f} ms, median of {len(f['seconds'])} ({low:.1f} to {high:.1f})",
        "speed": f"{f['tokens_per_s']:,.0f} tokens/s",
        "model": f"{f['parameters']:,} weights, {f['flops'] / 1e9:.4g} GFLOP a step, {f['gflops']:.4g} GFLOP/s",
        "peak": f"{100 * f['share_of_peak']:.1f} % of that of square products: {peaks} GFLOP/s by rank",
        "memory": f"{', '.join(human_bytes(each) for each in f['peak_memory'])} at most, by rank",
        "page faults": f"{', '.join(f'{each:,.0f}' for each in f['page_faults'])} a step, by rank",
        "computed by": f["computed_by"],
    }
    lines = [f"{name:<13}{text}" for name, text in facts.items()]
    lines += ["", f"{'operation, ms a step':<28}{'calls':>7}{'forward':>10}{'backward':>10}{'share':>8}"]
    lines += [operation_line(its, watched) for its in f["operations"]]
    lines += ["", f"{'communication, ms a step':<28}{'calls':>7}{'bytes':>10}{'time':>10}{'share':>8}"]
    lines += [communication_line(its, watched) for its in f["communication"]] or ["none"]
    lines += [
        "",
        f"{'neither: tape, Python':<45}{1e3 * f['other_s']:>10.2f}{f['other_s'] / watched:>8.1%}",
    ]
    return "\n".join(lines)


def operation_line(its: dict[str, Any], step: float) -> str:
    share = (its["forward_s"] + its["backward_s"]) / step
    times = f"{1e3 * its['forward_s']:>10.2f}{1e3 * its['backward_s']:>10.2f}"
    return f"{its['name']:<28}{its['calls']:>7.0f}{times}{share:>8.1%}"


def communication_line(its: dict[str, Any], step: float) -> str:
    name, time = f"{its['name']} over {its['axis']}", 1e3 * its["seconds"]
    return f"{name:<28}{its['calls']:>7.0f}{human_bytes(its['bytes']):>10}{time:>10.2f}{its['seconds'] / step:>8.1%}"
