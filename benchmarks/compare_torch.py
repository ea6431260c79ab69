"""mpipar against torch: the same model, data and cores, in turns: ``python benchmarks/compare_torch.py --sizes S``.

torch is installed for this alone, by hand: ``pip install torch==2.13.0``; no extra of mpipar needs it. From PyPI it
comes with CUDA (several GB); ``--index-url https://download.pytorch.org/whl/cpu`` has the one for CPUs.

Each competitor has processes of its own: mpipar's ranks under mpirun, torch's with gloo; rank r on core r, BLAS on one
thread, but for the contest of one rank on two threads. All are started, then they take turns at one step each; those
that wait are asleep. From the same initial weights the losses of all steps must be equal to 1e-4, or the exit code
is 1. A ratio is the median over the steps of torch's time / mpipar's time, of turns that follow each other.

    python benchmarks/compare_torch.py --sizes S,M --json found.json
    python benchmarks/compare_torch.py --sizes S --only one_rank,tensor_parallel/dtensor --steps 8
    python benchmarks/compare_torch.py --width 384 --layers 3 --heads 6 --context 100 --batch 7 --vocabulary 5000
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "against_torch"))

from contest import DATA_PARALLEL, ONE, TENSOR_PARALLEL, TWO_THREADS, Competitor, contest, why_not
from picture import draw
from report import Contest, table
from shape import SIZES, Shape

from mpipar.profile import machine

# contest: who takes part, and its ratios: the competitors of torch's side, of which the fastest counts
CONTESTS: dict[str, tuple[list[Competitor], dict[str, list[str]]]] = {
    "one_rank": (ONE, {"torch": ["torch"], "torch_tuned": ["torch, tuned malloc"]}),
    "tensor_parallel": (
        TENSOR_PARALLEL,
        {"dtensor": ["DTensor"], "best_torch": [c.name for c in TENSOR_PARALLEL[1:]]},
    ),
    "data_parallel": (DATA_PARALLEL, {"ddp": ["DDP"], "ddp_tuned": ["DDP, tuned malloc"]}),
    "two_threads": (TWO_THREADS, {"torch": ["torch"], "torch_tuned": ["torch, tuned malloc"]}),
}
NAMES = [f"{name}/{ratio}" for name, (_, ratios) in CONTESTS.items() for ratio in ratios]


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sizes", default="S", help="of S and M, with commas; flags of the shape change them"
    )
    for field in SIZES["S"].__dataclass_fields__:
        parser.add_argument(
            f"--{field}", type=int, help="of the model or its batch; starts from the first size"
        )
    parser.add_argument("--only", default="", help=f"contests or ratios, with commas: {', '.join(NAMES)}")
    parser.add_argument("--steps", type=int, default=20, help="that all train; their losses must agree")
    parser.add_argument("--warmup", type=int, default=2, help="of these, steps that are not timed")
    parser.add_argument("--ranks", type=int, default=2, help="of the parallel contests")
    parser.add_argument("--mpirun", default="mpirun", help="how MPI's ranks are started, up to -n")
    parser.add_argument("--json", type=Path, help="a file for all numbers")
    parser.add_argument("--plot", type=Path, help="a file for a picture of the medians (needs matplotlib)")
    given = parser.parse_args()
    if unknown := [word for word in words(given.only) if not any(fits(name, word) for name in NAMES)]:
        parser.error(f"--only {unknown[0]} is unknown; known are {', '.join([*CONTESTS, *NAMES])}")
    if unknown := [size for size in words(given.sizes) if size not in SIZES]:
        parser.error(f"--sizes {unknown[0]} is unknown; known are {', '.join(SIZES)}")
    if not words(given.sizes):
        parser.error("--sizes is empty: write S, M or S,M")
    if not 0 <= given.warmup < given.steps:
        parser.error(f"--steps {given.steps} with --warmup {given.warmup}: no step would be timed")
    for name, path in (("--json", given.json), ("--plot", given.plot)):
        if path and (path.is_dir() or not path.absolute().parent.is_dir()):
            parser.error(f"{name} {path}: name a file in a directory that is there")
    if given.plot and find_spec("matplotlib") is None:
        parser.error(
            f"--plot {given.plot} needs matplotlib: write  pip install matplotlib,  or leave --plot out"
        )
    return given


def words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def fits(name: str, word: str) -> bool:
    return word in (name, name.partition("/")[0])


def shapes(given: argparse.Namespace) -> dict[str, Shape]:
    """The sizes that were asked for, or one of one's own."""
    changed = {name: getattr(given, name) for name in SIZES["S"].__dataclass_fields__}
    changed = {name: value for name, value in changed.items() if value is not None}
    if not changed:
        return {size: SIZES[size] for size in words(given.sizes)}
    shape = replace(SIZES[words(given.sizes)[0]], **changed)
    for name, value in asdict(shape).items():
        if value < 1:
            raise SystemExit(f"--{name} {value}: must be at least 1")
    if shape.width % shape.heads:
        raise SystemExit(f"--width {shape.width} is not divisible by --heads {shape.heads}")
    return {" ".join(f"{name}={value}" for name, value in changed.items()): shape}


def run(name: str, s: Shape, given: argparse.Namespace) -> Contest:
    """One contest with those who are needed for the ratios that were asked for."""
    competitors, ratios = CONTESTS[name]
    wanted = {
        ratio: them
        for ratio, them in ratios.items()
        if not given.only or any(fits(f"{name}/{ratio}", word) for word in words(given.only))
    }
    needed = {"mpipar"}.union(*wanted.values())
    out = {c.name: why for c in competitors if (why := why_not(c, s, given.ranks))}
    taking_part = [c for c in competitors if c.name in needed and c.name not in out]
    entries = contest(taking_part, s, given.ranks, given.steps, given.mpirun)
    return Contest(name, s, given.warmup, entries, wanted, {n: why for n, why in out.items() if n in needed})


def main() -> int:
    given = flags()
    found: dict[str, Any] = {"command": sys.argv, "ranks": given.ranks, **machine(), "sizes": {}}
    equal = True
    for size, s in shapes(given).items():
        contests = []
        for name in CONTESTS:
            if not given.only or any(word.partition("/")[0] == name for word in words(given.only)):
                contests.append(run(name, s, given))
                print(table(size, contests[-1]), flush=True)
                equal = equal and contests[-1].equal
        found["sizes"][size] = {
            "shape": asdict(s),
            "useful_gflop": s.useful_flops / 1e9,
            "ratios": {f"{c.name}/{ratio}": spread for c in contests for ratio, spread in c.ratios.items()},
            "contests": {c.name: c.as_json() for c in contests},
        }
        if given.json:
            given.json.write_text(json.dumps(found, indent=1))
    if given.plot:
        draw(found["sizes"], given.plot)
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
