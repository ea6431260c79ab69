"""Combinations of everything that cuts a run, each against the run of one rank: what the law is checked on.

``python tests/parallel/matrix.py --write docs/parallel-equals-serial.md`` starts mpirun with 1 to 8 ranks, on each of
which ``--run`` trains the combinations of so many ranks, and writes the table. The suite runs those that fit its ranks.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from itertools import combinations, product
from math import prod
from pathlib import Path

from mpipar import Mesh
from mpipar.data import Batches, Corpus, MicroBatch, TextBatches, on_first_rank
from mpipar.job import world
from mpipar.models import GPT, GPTConfig, gpt_stages
from mpipar.optim import AdamW, clip_grad_norm, cosine
from mpipar.parallel import Pipeline, sharded, sync_gradients, sync_in_backward
from mpipar.parallel.schedule import NAMES, make
from mpipar.random import Noise
from mpipar.testing import Finished, launch

RANKS = range(1, 9)
VOCABULARY, CONTEXT, BATCH, STEPS = 23, 9, 7, 20  # nothing divides by 2, tokens and rows not by 3
HEADS, BOUND = 9, 1e-9
WIDTH = {"gpt2": 18, "llama": 36}  # llama: an even number a head
TEXT = memoryview(bytes(7 * i * i % VOCABULARY for i in range(400)))
CHUNKS = {"interleaved": 2}  # stages a rank
AXES = ("dp", "pp", "tp")


@dataclass(frozen=True)
class Combination:
    """A mesh and what is on; a field that has no meaning on the mesh has its first value."""

    sizes: tuple[int, int, int]  # of AXES
    schedule: str = ""
    sequence_parallel: bool = False
    zero: int = 0
    recompute: str = "none"
    micro_batch: int = 0  # sequences a forward pass on a dp rank; 0: all
    style: str = "gpt2"  # tied; llama has a head of its own

    @property
    def ranks(self) -> int:
        return prod(self.sizes)

    @property
    def axes(self) -> dict[str, int]:
        return dict(zip(AXES, self.sizes, strict=True))

    @property
    def layers(self) -> int:
        """One more than there are stages: they are uneven."""
        pp = self.axes["pp"]
        return pp * CHUNKS.get(self.schedule, 1) + 1

    @property
    def micro_batches(self) -> int:
        return -(-BATCH // (self.micro_batch * self.axes["dp"] or BATCH))

    @property
    def mesh(self) -> str:
        return ",".join(f"{axis}={n}" for axis, n in self.axes.items() if n > 1) or "dp=1"

    @property
    def options(self) -> str:
        """What is on."""
        words = [
            self.style,
            f"{self.layers} layers",
            self.schedule,
            "sequence parallel" if self.sequence_parallel else "",
            f"zero {self.zero}" if self.zero else "",
            f"recompute {self.recompute}" if self.recompute != "none" else "",
            f"{self.micro_batches} micro-batches" if self.micro_batches > 1 else "",
        ]
        return ", ".join(filter(None, words))


# ---- which -------------------------------------------------------------------------------------------------------


def matrix() -> list[Combination]:
    """Of each kind of mesh (which axes are cut) so many that every pair of options is in one; and every mesh is."""
    found = [each for kind in product((False, True), repeat=3) for each in of_kind(kind)]
    return sorted(found, key=lambda c: (c.ranks, c.sizes[::-1]))


def of_kind(kind: tuple[bool, ...]) -> Iterator[Combination]:
    """Each mesh once, then those of few ranks in turn, always with the options that add most pairs."""
    meshes = [
        sizes
        for sizes in product(RANKS, repeat=3)
        if prod(sizes) in RANKS and all((n > 1) == cut for n, cut in zip(sizes, kind, strict=True))
    ]
    missing = {pair for sizes in meshes for each in choices(sizes) for pair in pairs(each)}
    cheap = [sizes for sizes in meshes if prod(sizes) <= 4] or meshes
    turn = 0
    while missing or turn < len(meshes):
        here = list(choices(meshes[turn] if turn < len(meshes) else cheap[turn % len(cheap)]))
        best = max(here, key=lambda each: len(pairs(each) & missing))
        # which has nothing new: at another place for each mesh
        best = best if pairs(best) & missing else here[7 * turn % len(here)]
        if turn < len(meshes) or pairs(best) & missing:
            yield best
        missing -= pairs(best)
        turn += 1


def most_on(found: list[Combination]) -> list[Combination]:
    """Those with most options first."""
    return sorted(found, key=lambda c: -len(c.options.split(",")))


def choices(sizes: tuple[int, int, int]) -> Iterator[Combination]:
    """All options on a mesh. Micro-batches: as many as the pipeline has ranks if rows allow it."""
    dp, pp, tp = sizes
    yield from (
        Combination(sizes, *each)
        for each in product(
            NAMES if pp > 1 else ("",),
            (False, True) if tp > 1 else (False,),
            range(4) if dp > 1 else (0,),
            ("none", "selective", "full"),
            (1,) if pp > 2 else (2, 1) if pp > 1 else (0, 1 if dp > 1 else 2),
            ("gpt2", "llama"),
        )
    )


def pairs(c: Combination) -> set[tuple[tuple[str, object], ...]]:
    """Every two of its options."""
    options = [(field.name, getattr(c, field.name)) for field in fields(c) if field.name != "sizes"]
    return set(combinations(options, 2))


# ---- a run -------------------------------------------------------------------------------------------------------


def curve(mesh: Mesh, c: Combination, seed: int = 0) -> list[tuple[float, float]]:
    """Loss and gradient norm of each AdamW step, dropout on; `seed` is that of the masks."""
    shape = GPTConfig(
        VOCABULARY, CONTEXT, c.layers, HEADS, WIDTH[c.style], 0.1, c.sequence_parallel, seed=3, dtype="float64",
        style=c.style, kv_heads=3 if c.style == "llama" else 0, recompute=c.recompute,
    )  # fmt: skip

    def made() -> GPT | Pipeline:
        if mesh.shape["pp"] == 1:
            return GPT(shape, mesh)
        schedule = make(c.schedule, mesh.shape["pp"], c.micro_batches)
        return Pipeline(mesh, schedule, gpt_stages(shape, mesh, schedule.places))

    model = sharded(made, c.zero)
    optimizer = AdamW(model.parameters(), 0.01)
    batches = Batches(TextBatches(Corpus(TEXT, TEXT, 1), 0, BATCH, CONTEXT), model.mesh, c.micro_batch)
    found = []
    for step in range(STEPS):
        optimizer.lr = cosine(step, lr=0.01, steps=STEPS, warmup_steps=4)
        loss = gradients(model, batches, step, seed)
        sync_gradients(model)
        found.append((loss, clip_grad_norm(model.parameters(), 0.5).item()))
        optimizer.step()
    return found


def gradients(model: GPT | Pipeline, batches: Batches, step: int, seed: int) -> float:
    """Of a step; its loss."""

    def noise(part: MicroBatch) -> Noise:
        return Noise(seed, step, part.first_row)

    if isinstance(model, Pipeline):
        return model.forward_backward(list(batches.training(step)), noise, 1 / batches.tokens).item()
    total = 0.0
    for part in batches.training(step):
        loss = model.loss(part.tokens, part.targets, noise(part)) / batches.tokens
        sync_in_backward(model, last=part.last)
        loss.backward()
        total += loss.detach().allreduce(*batches.axes, "tp").item()
    return total


@cache
def serial(style: str, layers: int) -> list[tuple[float, float]]:
    """The same model on rank 0 alone, the whole batch at once, nothing on."""
    alone = Combination((1, layers - 1, 1), style=style)  # so many layers
    return on_first_rank(world(), lambda: curve(Mesh(ranks=[0]), alone))


def worst(c: Combination, seed: int = 0) -> tuple[float, float]:
    """The largest relative difference of the loss, and of the norm, over the steps. Collective."""
    expected, found = serial(c.style, c.layers), curve(Mesh(**c.axes), c, seed)
    loss, norm = (
        max(abs(one[k] - other[k]) / abs(one[k]) for one, other in zip(expected, found, strict=True))
        for k in (0, 1)
    )
    return loss, norm


# ---- the page ----------------------------------------------------------------------------------------------------

HEAD = """# Parallel equals serial

Every combination below trains {steps} AdamW steps in float64, with dropout, warm-up and clipping, beside the same model
on one rank. The table has the largest relative difference of the loss and of the gradient norm over the steps; the
bound is {bound:g}. Most meshes divide neither layers nor {heads} heads, {rows} rows of {tokens} tokens, {words} words.
For each kind of mesh (which of dp, pp, tp are cut) every pair of options is in some row, and every mesh of up to 8
ranks has one. gpt2 has a head tied to the embedding, in a pipeline on the first and the last stage; llama has one of
its own. Written by

    python tests/parallel/matrix.py --write docs/parallel-equals-serial.md

{count} combinations; the largest differences are {loss:.1e} (loss) and {norm:.1e} (norm).

| ranks | mesh | options | loss | norm |
|---|---|---|---|---|
"""


def run(most: int | None = None) -> None:
    """All of so many ranks, or those with most options on; rank 0 says what it found, a line each."""
    fitting = [c for c in matrix() if c.ranks == world().size]
    if most is not None:
        fitting = most_on(fitting)[:most]
    for c in fitting:
        found = worst(c)
        if world().rank == 0:
            print(json.dumps([c.mesh, c.options, *found]), flush=True)


def said(finished: Finished) -> list[tuple[str, str, float, float]]:
    """What `run` printed."""
    return [tuple(json.loads(line)) for line in finished.stdout.splitlines() if line.startswith("[")]


def write(path: Path) -> None:
    rows = []
    for ranks in RANKS:
        finished = launch(ranks, __file__, "--run", timeout=3000, env={"OMP_NUM_THREADS": "1"})
        lines, wanted = said(finished), [(c.mesh, c.options) for c in matrix() if c.ranks == ranks]
        print(f"{ranks} ranks: {len(lines)} of {len(wanted)} in {finished.seconds:.0f} s", flush=True)
        if [line[:2] for line in lines] != wanted:
            sys.exit(finished.stdout + finished.stderr)
        rows += [(ranks, *line) for line in lines]
    path.write_text(page(rows))
    if max(max(row[3:]) for row in rows) > BOUND:
        sys.exit(f"a difference is above {BOUND:g}: see {path}")


def page(rows: list[tuple[int, str, str, float, float]]) -> str:
    loss, norm = (max(row[k] for row in rows) for k in (3, 4))
    head = HEAD.format(
        steps=STEPS, bound=BOUND, heads=HEADS, rows=BATCH, tokens=CONTEXT, words=VOCABULARY, count=len(rows),
        loss=loss, norm=norm,
    )  # fmt: skip
    table = [f"| {n} | {mesh} | {options} | {a:.1e} | {b:.1e} |" for n, mesh, options, a, b in rows]
    return head + "\n".join(table) + "\n"


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--run", *most]:
            run(*map(int, most))
        case ["--write", path]:
            write(Path(path))
        case _:
            sys.exit(__doc__)
