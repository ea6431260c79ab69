"""A scaling study's table and plot: ``python jobs/gather.py runs/scaling-1234``.

Each run of the study is a directory ``ranks-N`` with the metrics.jsonl of train.py. The first steps, which warm up
caches, are not counted. Writes scaling.md, and scaling.svg where Matplotlib is installed, beside the runs.
Exit code 1 where a run is missing its numbers, 2 where there is none.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median

WARM_UP = 0.2  # share of the steps
NO_PLOT = "no plot: Matplotlib is not installed; write  pip install 'mpipar[plot]'"


@dataclass(frozen=True)
class Measured:
    """One run: medians over its steps."""

    ranks: int
    steps: int
    tokens_per_s: float
    step_s: float
    comm_s: float  # rank 0's, of a step


def read(run: Path) -> Measured | None:
    """None where the run has written no step."""
    try:
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    counted = records[int(len(records) * WARM_UP) :]
    if not counted:
        return None
    middle = {key: median(record[key] for record in counted) for key in ("tokens_per_s", "step_s", "comm_s")}
    return Measured(ranks_of(run), len(counted), **middle)


def ranks_of(run: Path) -> int:
    return int(run.name.removeprefix("ranks-"))


def table(study: list[Measured]) -> str:
    """Speed-up and efficiency are over the smallest number of ranks: of tokens a second, so for weak scaling too."""
    first = study[0]
    rows = [
        f"| ranks | tokens/s | ms a step | of it communication | speed-up over {first.ranks} | efficiency |"
    ]
    rows.append("|" + "---:|" * 6)
    for one in study:
        faster = one.tokens_per_s / first.tokens_per_s
        rows.append(
            f"| {one.ranks} | {one.tokens_per_s:,.0f} | {one.step_s * 1e3:.1f} | {one.comm_s / one.step_s:.0%} "
            f"| {faster:.2f} | {faster * first.ranks / one.ranks:.0%} |"
        )
    return "\n".join(rows) + "\n"


def draw(study: list[Measured], title: str, file: Path) -> None:
    """Tokens a second over ranks, beside what they would be if nothing were lost."""
    import matplotlib  # noqa: PLC0415  (an extra)

    matplotlib.use("svg")
    from matplotlib import pyplot  # noqa: PLC0415  (after the choice)

    ranks = [one.ranks for one in study]
    ideal = [study[0].tokens_per_s * n / ranks[0] for n in ranks]
    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    axes.loglog(ranks, ideal, "--", color="gray", label="nothing lost")
    axes.loglog(ranks, [one.tokens_per_s for one in study], "o-", label="measured")
    axes.set_xticks(ranks, map(str, ranks), minor=False)
    axes.minorticks_off()
    axes.set(xlabel="ranks", ylabel="tokens a second", title=title)
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    figure.savefig(file)
    pyplot.close(figure)


def main(words: list[str]) -> int:
    if len(words) != 1 or words[0].startswith("-"):
        print("usage: python jobs/gather.py runs/scaling-JOB", file=sys.stderr)
        return 2
    folder = Path(words[0])
    runs = sorted((run for run in folder.glob("ranks-*") if run.name[6:].isdecimal()), key=ranks_of)
    found = {run: read(run) for run in runs}
    study = [one for one in found.values() if one is not None]
    if not study:
        print(f"{folder}: no ranks-N/metrics.jsonl with a step in it", file=sys.stderr)
        return 2
    (folder / "scaling.md").write_text(table(study), encoding="utf-8")
    print(table(study))
    if find_spec("matplotlib") is None:
        print(NO_PLOT)
    else:
        draw(study, folder.name, folder / "scaling.svg")
    left_out = [run.name for run, one in found.items() if one is None]
    if left_out:
        print(f"without numbers: {', '.join(left_out)}: their logs say why", file=sys.stderr)
    return 1 if left_out else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
