"""What a contest found: medians with their spread, ratios, losses that must agree; as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

from contest import Entry
from shape import Shape

CLOSE = 1e-4  # losses, in nats


@dataclass(frozen=True)
class Spread:
    """A median, and the quartiles on both sides of it."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Spread:
        low, _, high = quantiles(numbers, n=4) if len(numbers) > 1 else [numbers[0]] * 3
        return cls(median(numbers), max(low, min(numbers)), min(high, max(numbers)))

    def as_json(self, scale: float = 1, digits: int = 4) -> dict[str, float]:
        numbers = {"median": self.middle, "low": self.low, "high": self.high}
        return {name: round(scale * value, digits) for name, value in numbers.items()}


@dataclass(frozen=True)
class Contest:
    name: str
    shape: Shape
    warmup: int
    entries: list[Entry]  # mpipar's is the first
    wanted: dict[str, list[str]]  # ratio: those of whom the fastest counts
    left_out: dict[str, str]

    def timed(self, entry: Entry) -> list[float]:
        return entry.seconds[self.warmup :]

    def ratio(self, entry: Entry) -> Spread:
        """How many times as long as mpipar it takes."""
        pairs = zip(self.timed(entry), self.timed(self.entries[0]), strict=True)
        return Spread.of([theirs / ours for theirs, ours in pairs])

    @property
    def ratios(self) -> dict[str, Any]:
        """By name; of several competitors the fastest counts. None where none could take part."""
        found = {}
        for name, them in self.wanted.items():
            ratios = {e.competitor.name: self.ratio(e) for e in self.entries if e.competitor.name in them}
            best = min(ratios, key=lambda other: ratios[other].middle, default=None)
            found[name] = best and {"against": best, **ratios[best].as_json()}
        return found

    @property
    def furthest(self) -> float:
        """The largest difference between losses of one step, in nats."""
        return max(
            max(losses) - min(losses) for losses in zip(*(e.losses for e in self.entries), strict=True)
        )

    @property
    def equal(self) -> bool:
        return self.furthest <= CLOSE

    def as_json(self) -> dict[str, Any]:
        return {
            "competitors": {e.competitor.name: self.entry_as_json(e) for e in self.entries},
            "left_out": self.left_out,
            "largest_difference_of_losses": self.furthest,
        }

    def entry_as_json(self, e: Entry) -> dict[str, Any]:
        return {
            "ms": Spread.of(self.timed(e)).as_json(1e3, 3),
            "gflops": round(self.shape.useful_flops / 1e9 / median(self.timed(e)), 2),
            "page_faults_a_step": median(e.faults[self.warmup :]),
            "peak_mb": round(e.peak / 1e6, 1),
            "seconds_of_steps": [round(s, 6) for s in e.seconds],
            "losses": e.losses,
            "versions": e.versions,
        }


def table(size: str, c: Contest) -> str:
    """A line a competitor."""
    heads = {
        "ms a step": 10,
        "quartiles": 18,
        "ratio": 7,
        " quartiles": 14,
        "GFLOP/s": 9,
        "faults": 9,
        "peak": 10,
    }
    lines = [
        f"\n{size}, {c.name}: {len(c.timed(c.entries[0]))} steps of {c.shape.useful_flops / 1e9:.1f} GFLOP"
    ]
    lines.append(" " * 24 + "".join(f"{word:>{width}}" for word, width in heads.items()))
    for e in c.entries:
        ms, ratio = Spread.of(c.timed(e)), c.ratio(e)
        lines.append(
            f"{e.competitor.name:24}{1e3 * ms.middle:10.1f} {1e3 * ms.low:8.1f} {1e3 * ms.high:8.1f} "
            f"{ratio.middle:6.3f} {ratio.low:6.3f} {ratio.high:6.3f} {c.shape.useful_flops / 1e9 / ms.middle:8.1f} "
            f"{median(e.faults[c.warmup :]):8.0f} {e.peak / 1e6:6.0f} MB"
        )
    lines += [f"{name:24}takes no part: {why}" for name, why in c.left_out.items()]
    first, last = c.entries[0].losses[0], c.entries[0].losses[-1]
    verdict = "equal" if c.equal else f"NOT EQUAL to {CLOSE}"
    lines.append(f"losses {first:.4f} → {last:.4f}, {verdict}: at most {c.furthest:.1e} apart")
    return "\n".join(lines)
