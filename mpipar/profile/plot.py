"""A picture of what `report` found, by matplotlib, which is the extra `plot`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mpipar.errors import UsageError

LABELS = {"forward": "forward; moves and optimizer"}  # other parts by their name
COLOURS = {"forward": "tab:blue", "backward": "tab:orange", "communication": "tab:red", "other": "tab:gray"}
SHOWN = 12  # operations; the others are one bar


def plotting(path: str) -> Any:
    """matplotlib. Raises UsageError where it is missing or does not know such files."""
    try:
        import matplotlib as library  # noqa: PLC0415  (an extra)
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError:
        raise UsageError(
            f"--plot {path} needs matplotlib: write  pip install 'mpipar[plot]',  or leave --plot out"
        ) from None
    known = Figure().canvas.get_supported_filetypes()
    ending = Path(path).suffix.lstrip(".")
    if ending not in known:
        raise UsageError(f"--plot {path}: a picture ends with one of {', '.join(sorted(known))}")
    return library


def plot(found: dict[str, Any], path: Path) -> None:
    """Bars of the time a step: each operation forward and backward, each collective, and the rest."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    bars = bars_of(found)
    figure = Figure(figsize=(8, 1.4 + 0.3 * len(bars)), layout="constrained")
    axes = figure.subplots()
    places = range(len(bars), 0, -1)
    begin = [0.0] * len(bars)
    for part, colour in COLOURS.items():
        widths = [1e3 * bar.get(part, 0.0) for _, bar in bars]
        if any(widths):
            axes.barh(places, widths, left=begin, label=LABELS.get(part, part), color=colour)
        begin = [left + width for left, width in zip(begin, widths, strict=True)]
    axes.set_yticks(list(places), [name for name, _ in bars])
    axes.set_xlabel("ms a step")
    axes.set_title(
        f"{1e3 * found['step_s']:.1f} ms a step, {found['tokens_per_s']:,.0f} tokens/s, "
        f"{found['gflops']:,.1f} GFLOP/s ({found['share_of_peak']:.0%} of the peak)"
    )
    axes.legend(loc="lower right")
    figure.savefig(path)


def bars_of(found: dict[str, Any]) -> list[tuple[str, dict[str, float]]]:
    """From top to bottom: a name, and seconds by part."""
    listed = found["operations"]
    bars = [
        (its["name"], {"forward": its["forward_s"], "backward": its["backward_s"]}) for its in listed[:SHOWN]
    ]
    rest = listed[SHOWN:]
    if rest:
        sums = {part: sum(its[f"{part}_s"] for its in rest) for part in ("forward", "backward")}
        bars.append((f"{len(rest)} more operations", sums))
    for its in found["communication"]:
        bars.append((f"{its['name']} over {its['axis']}", {"communication": its["seconds"]}))
    return [*bars, ("neither: tape, Python", {"other": found["other_s"]})]
