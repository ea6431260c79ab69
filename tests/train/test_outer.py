"""--outer: replicas that train apart are runs of their own, which one meets by hand.

In float64, with dropout, clipping, warm-up and a last round that is shorter. A failure shows two curves, two weights,
or bytes that the ledger has and the formula of docs/local-sgd.md has not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import Run, attempt, write_text

from mpipar import Mesh, checkpoint, no_grad, tensor
from mpipar.config import TrainConfig, parse
from mpipar.data import Corpus, TextBatches
from mpipar.job import world
from mpipar.models import GPT, GPTConfig
from mpipar.optim import AdamW, clip_grad_norm, cosine
from mpipar.random import Noise

pytestmark = pytest.mark.launches

FLAGS = (
    "--batch 4 --context 16 --width 24 --heads 3 --layers 2 --dtype float64 --sample 0 --steps 8 --warmup 2 "
    "--dropout 0.1 --clip 0.5 --val-every 4 --val-batches 1"
)
OUTER = "--outer dp --inner-steps 3"
NUMBERS = ("loss", "grad_norm", "lr", "val_loss")
Runs = Callable[[int, str], Run]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs")
    write_text(path / "words.txt", 4000)
    return path


@pytest.fixture(scope="module")
def run(here: Path) -> Runs:
    """``run(2, "--outer dp …")``: that run, made once."""
    made: dict[tuple[int, str], str] = {}

    @cache
    def start(ranks: int, flags: str) -> Run:
        out = made.setdefault((ranks, flags), f"run-{len(made)}")
        line = f"{FLAGS} {flags} --data words.txt --out {out}"
        finished = attempt(ranks, line.split(), here)
        assert finished.returncode == 0, finished.stdout + finished.stderr
        return Run(finished, here / out)

    return start


def curve(run: Run) -> list[list[float]]:
    return [[record[name] for name in NUMBERS if name in record] for record in run.records]


# ---- against a simulation in one process ----------------------------------------------------------------


class Replica:
    """A model of its own on one rank, which takes some rows of each batch."""

    def __init__(self, c: TrainConfig, text: TextBatches, rows: range) -> None:
        shape = GPTConfig(
            text.corpus.vocabulary, c.context, c.layers, c.heads, c.width, c.dropout, False, c.seed, c.dtype
        )
        self.config, self.text, self.rows = c, text, rows
        self.model = GPT(shape, Mesh(ranks=[world().rank]))
        self.optimizer = AdamW(self.model.parameters(), c.lr, weight_decay=c.weight_decay)

    def step(self, step: int) -> tuple[float, float]:
        """The loss before a step of the inner optimizer, and the gradient norm."""
        c = self.config
        self.optimizer.lr = cosine(step, lr=c.lr, steps=c.steps, warmup_steps=c.warmup)
        x, y = self.tokens([self.text.row(step, row) for row in self.rows])
        loss = self.model.loss(x, y, Noise(c.seed, step, self.rows.start)) / (len(self.rows) * c.context)
        loss.backward()
        norm = clip_grad_norm(self.model.parameters(), c.clip).item()
        self.optimizer.step()
        return loss.detach().allreduce("tp").item(), norm

    def tokens(self, rows: list[bytes]) -> tuple[Any, Any]:
        ids = np.array([np.frombuffer(row, "uint8") for row in rows]).astype("int64")
        return tuple(tensor(part, self.model.mesh) for part in (ids[:, :-1], ids[:, 1:]))  # type: ignore[return-value]

    def validation(self) -> float:
        self.model.eval()
        rows = self.text.validation_rows(self.config.batch)
        with no_grad():
            loss = self.model.loss(*self.tokens(rows)).allreduce("tp").item()
        self.model.train()
        return loss / (len(rows) * self.config.context)

    @property
    def weights(self) -> list[Any]:
        return [p.local for p in self.model.parameters()]

    def put(self, weights: list[Any]) -> None:
        for mine, x in zip(self.weights, weights, strict=True):
            mine[...] = x


def simulated(c: TrainConfig, count: int) -> Iterator[list[float]]:
    """Loss, gradient norm, learning rate and validation loss of each step. Douillard et al. 2023, algorithm 1."""
    text = TextBatches(Corpus.load(c.data, world(), c.context), c.seed, c.batch, c.context)
    share = c.batch // count
    replicas = [Replica(c, text, range(k * share, (k + 1) * share)) for k in range(count)]
    theta = [x.copy() for x in replicas[0].weights]
    velocity = [np.zeros_like(x) for x in theta]
    since = 0
    for done in range(1, c.steps + 1):
        losses, norms = zip(*(replica.step(done - 1) for replica in replicas), strict=True)
        since += 1
        if since == c.inner_steps or done == c.steps:
            since = 0
            for k, start in enumerate(theta):
                delta = start - sum(replica.weights[k] for replica in replicas) / count
                velocity[k] = c.outer_momentum * velocity[k] + delta
                theta[k] = start - c.outer_lr * (delta + c.outer_momentum * velocity[k])
            for replica in replicas:
                replica.put(theta)
        record = [sum(losses) / count, sum(norms) / count, replicas[0].optimizer.lr]
        if done % c.val_every == 0:
            own = [x.copy() for x in replicas[0].weights]
            replicas[0].put(theta)
            record.append(replicas[0].validation())
            replicas[0].put(own)
        yield record


@pytest.mark.parametrize(
    ("ranks", "flags"),
    [
        (2, ""),
        (4, "--mesh dp=4 --inner-steps 2 --outer-lr 1 --outer-momentum 0"),
        (4, "--mesh dp=2,tp=2 --micro-batch 1"),
        (4, "--mesh dp=2,tp=2 --sequence-parallel --recompute full"),
        (4, "--mesh dp=2,pp=2 --micro-batch 1"),
    ],
)
def test_the_curve_is_that_of_the_replicas_one_after_the_other(
    run: Runs, here: Path, ranks: int, flags: str
) -> None:
    found = curve(run(ranks, f"{OUTER} {flags}"))
    config = parse(f"{FLAGS} {OUTER} {flags} --data {here}/words.txt".split())
    expected = list(simulated(config, 4 if "dp=4" in flags else 2))
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-12, abs=0)


def test_meeting_at_each_step_after_plain_sgd_is_the_synchronous_run(run: Runs) -> None:
    """Without momentum outside; that inside is linear in the gradients, and so is their mean. Not clipped."""
    plain = "--optimizer sgd --clip 0 --lr 0.1 --val-batches 2"
    apart = run(2, f"{plain} --outer dp --inner-steps 1 --outer-lr 1 --outer-momentum 0")
    assert apart.numbers("loss") == pytest.approx(run(2, plain).numbers("loss"), rel=1e-12, abs=0)
    assert apart.numbers("val_loss") == pytest.approx(run(2, plain).numbers("val_loss"), rel=1e-12, abs=0)


# ---- going on -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ranks", "flags", "stop"),
    [
        (2, "", 3),
        (2, "--dtype bfloat16 --save-async", 5),
        (2, "--optimizer sgd --lr 0.1", 7),
        (4, "--mesh dp=2,tp=2", 5),
        (4, "--mesh dp=2,pp=2 --micro-batch 1", 4),
    ],
)
def test_it_goes_on_bit_for_bit(run: Runs, here: Path, ranks: int, flags: str, stop: int) -> None:
    """From the middle of a round, and from a meeting."""
    line = f"{OUTER} {flags}"
    whole = run(ranks, f"{line} --save-every 1 --keep 8")
    source = f"{whole.out.name}/checkpoints/step-{stop:08}"
    again = run(ranks, f"{line} --save-every 8 --resume {source}")
    assert curve(again) == curve(whole)[stop:]
    mine, theirs = (checkpoint.read(each.out / "checkpoints") for each in (again, whole))
    assert {name: x.tobytes() for name, x in mine.items()} == {
        name: x.tobytes() for name, x in theirs.items()
    }


def test_on_another_mesh_inside_it_goes_on_to_1e_9(run: Runs) -> None:
    whole = run(2, f"{OUTER} --save-every 1 --keep 8")
    again = run(4, f"{OUTER} --mesh dp=2,tp=2 --resume {whole.out.name}/checkpoints/step-00000005")
    for mine, theirs in zip(curve(again), curve(whole)[5:], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-9, abs=0)


def test_its_weights_begin_any_other_run(run: Runs) -> None:
    """A checkpoint in the middle of a round has the outer weights for a model."""
    whole = run(2, f"{OUTER} --save-every 1 --keep 8")
    for step, flags in ((4, "--mesh tp=2"), (8, "--outer dp --inner-steps 5")):
        source = f"{whole.out.name}/checkpoints/step-{step:08}"
        begun = run(2, f"{flags} --init {source} --steps 0 --val-every 1")
        told = f"validation loss {whole.records[step - 1]['val_loss']:.4f} nats"
        assert told in begun.finished.stdout


def test_other_replicas_are_refused(run: Runs, here: Path) -> None:
    whole = run(2, f"{OUTER} --save-every 1 --keep 8")
    source = f"{whole.out.name}/checkpoints/step-00000005"
    for ranks, flags, message in (
        (4, OUTER, f"{source} holds 2 replicas, this run has dp=4 of them: write a mesh with dp=2, or begin"),
        (
            2,
            "",
            f"{source} was trained with --outer dp, this run has --outer none: write the former, or begin",
        ),
    ):
        refused = attempt(ranks, f"{FLAGS} {flags} --data words.txt --resume {source}".split(), here)
        assert refused.returncode == 2
        assert message in refused.stderr
        assert len(refused.stderr.splitlines()) == 1


# ---- bytes, and what goes wrong -------------------------------------------------------------------------


def test_bytes_are_those_of_the_formula(run: Runs) -> None:
    """P at a meeting, P at each step of the synchronous run; both have 16 bytes for loss and gradient norm."""
    apart, together = run(2, f"{OUTER} --save-every 1 --keep 8"), run(2, "")
    weights = checkpoint.read(apart.out / "checkpoints", "model").values()
    size = sum(x.nbytes for x in weights)
    assert together.numbers("comm_bytes") == [size + 16] * 8
    meets = [False, False, True, False, False, True, False, True]
    assert apart.numbers("comm_bytes") == [16 + size * meet for meet in meets]


def test_a_replica_that_diverges_stops_all_and_is_named(here: Path) -> None:
    line = f"{FLAGS} {OUTER} --optimizer sgd --clip 0 --lr 1e200 --warmup 0 --data words.txt --out diverged"
    stopped = attempt(2, line.split(), here)
    assert stopped.returncode == 2, stopped.stderr
    assert "Gradients that are not finite: rank 0 (first in " in stopped.stderr
    assert ", rank 1 (first in " in stopped.stderr
    assert stopped.stderr.count("the loss is") == 1  # NumPy warns besides
