"""A training step copies nothing between host and device from the batch going in to the metrics coming out.

But for MPI: one that is not GPU-aware gets what it reads by a copy for each step of a collective, and what it fills
goes back by another.

The steps run on the double of a device (double.py), which counts copies and raises a TypeError on a silent one: its
traceback shows the line that would copy on a GPU. A wrong count names what was copied.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from math import prod
from typing import Any

import numpy as np
import pytest
from double import DoubleBackend

from mpipar import Mesh, no_grad, ops
from mpipar.backend import Backend, numpy
from mpipar.comm import Call
from mpipar.comm.scheme import SMALL
from mpipar.data import Batches, Corpus, TextBatches
from mpipar.job import world
from mpipar.models import GPT, GPTConfig, sample
from mpipar.ops import Context, Op
from mpipar.ops.base import Vjps
from mpipar.optim import SGD, Adam, AdamW, clip_grad_norm
from mpipar.parallel import stop_unless_finite, sync_gradients
from mpipar.random import Noise

TEXT = memoryview(bytes(7 * i * i % 251 for i in range(400)))
STEPS, BATCH, MICRO, CONTEXT = 2, 5, 2, 6
OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda parameters: SGD(parameters, 0.1),
    "nesterov": lambda parameters: SGD(parameters, 0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adam": lambda parameters: Adam(parameters, 0.01, weight_decay=0.1),
    "adamw": lambda parameters: AdamW(parameters, 0.01),
}
LAYOUTS: list[tuple[int, int, bool]] = [  # dp, tp, sequence_parallel
    (dp, world().size // dp, sequence)
    for dp in range(1, world().size + 1)
    if world().size % dp == 0
    for sequence in (False, True)
]
MIXED = LAYOUTS[len(LAYOUTS) // 2]
layouts = pytest.mark.parametrize(("dp", "tp", "sequence"), LAYOUTS)
STYLES: dict[str, dict[str, Any]] = {"gpt2": {}, "llama": {"style": "llama", "kv_heads": 2}}
styles = pytest.mark.parametrize("style", STYLES)


@cache
def double_mesh(dp: int, tp: int, gpu_aware: bool = False) -> Mesh:
    return Mesh(device=DoubleBackend(gpu_aware), dp=dp, tp=tp)


@cache
def numpy_mesh(dp: int, tp: int) -> Mesh:
    """The kernels that the double computes with, also where compiled ones are those of the CPU."""
    return Mesh(device=numpy, dp=dp, tp=tp)


class Run:
    """A small GPT in training, with dropout, uneven heads and micro-batches."""

    def __init__(
        self,
        mesh: Mesh,
        optimizer: str = "adamw",
        sequence: bool = False,
        dtype: str = "float32",
        style: str = "gpt2",
    ) -> None:
        shape = GPTConfig(256, CONTEXT, 1, 6, 24, 0.1, sequence, seed=3, dtype=dtype, **STYLES[style])
        self.model = GPT(shape, mesh)
        self.batches = Batches(TextBatches(Corpus(TEXT, TEXT, 1), 0, BATCH, CONTEXT), mesh, MICRO)
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())

    def step(self, parts: list[Any], step: int) -> tuple[Any, Any]:
        """The loss and the gradient norm, still on the device."""
        total = None
        for part in parts:
            noise = Noise(0, step, part.first_row)
            loss = self.model.loss(part.tokens, part.targets, noise) / self.batches.tokens
            loss.backward()
            total = loss.detach() if total is None else total + loss.detach()
        sync_gradients(self.model)
        norm = clip_grad_norm(self.model.parameters(), 0.5)
        self.optimizer.step()
        return total.allreduce("dp", "tp"), norm

    def losses(self) -> Iterator[tuple[float, float]]:
        for step in range(STEPS):
            loss, norm = self.step(list(self.batches.training(step)), step)
            yield loss.item(), norm.item()


def copies(mesh: Mesh) -> Counter[str]:
    assert isinstance(mesh.xp, DoubleBackend)
    return mesh.xp.copies.copy()


@styles
@layouts
def test_a_step_copies_the_batch_in_and_the_metrics_out(dp: int, tp: int, sequence: bool, style: str) -> None:
    check_steps("adamw", dp, tp, sequence, style)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_with_every_optimizer(optimizer: str) -> None:
    check_steps(optimizer, *MIXED)


@layouts
def test_a_gpu_aware_mpi_costs_no_copy(dp: int, tp: int, sequence: bool) -> None:
    check_steps("adamw", dp, tp, sequence, gpu_aware=True)


def check_steps(
    optimizer: str, dp: int, tp: int, sequence: bool, style: str = "gpt2", gpu_aware: bool = False
) -> None:
    mesh = double_mesh(dp, tp, gpu_aware)
    before = copies(mesh)
    run = Run(mesh, optimizer, sequence, style=style)
    assert copies(mesh) == before, "making the model copied"
    for step in range(STEPS):
        before = copies(mesh)
        parts = list(run.batches.training(step))
        after_batch = copies(mesh)
        assert after_batch - before == {"from_bytes": -(-BATCH // (MICRO * dp))}
        with mesh.ledger.record() as calls:
            loss, norm = run.step(parts, step)
        assert copies(mesh) - after_batch == staged(mesh, calls), "the step copied"
        after_step = copies(mesh)
        stop_unless_finite(step, loss.item(), norm.item(), run.model.parameters())
        assert copies(mesh) - after_step == {"item": 2}


def staged(mesh: Mesh, calls: Sequence[Call]) -> Counter[str]:
    """The copies that these collectives cost: none on one rank, and with a GPU-aware MPI."""
    assert mesh.xp.device is not None
    steps = (
        0 if mesh.xp.device.gpu_aware else sum(steps_of(call, ranks_of(mesh, call.label)) for call in calls)
    )
    return +Counter(download=steps, upload=steps)


def ranks_of(mesh: Mesh, label: str) -> int:
    return mesh.size if label == "mesh" else prod(mesh.shape[axis] for axis in label.split(","))


def steps_of(call: Call, ranks: int) -> int:
    """A large allreduce is an alltoall and an allgather; all else that a step does is one exchange."""
    if ranks == 1:
        return 0
    return 2 if call.operation == "allreduce" and call.bytes * ranks > SMALL else 1


@layouts
def test_evaluation_and_sampling_copy_at_their_borders_only(dp: int, tp: int, sequence: bool) -> None:
    mesh = double_mesh(dp, tp)
    run = Run(mesh, sequence=sequence)
    run.model.eval()
    part = next(iter(run.batches.validation(1)))
    before = copies(mesh)
    with no_grad(), mesh.ledger.record() as calls:
        run.model.loss(part.tokens, part.targets).allreduce("dp", "tp")
    assert copies(mesh) - before == staged(mesh, calls)
    before = copies(mesh)
    with mesh.ledger.record() as calls:
        sample(run.model, b"ab", 3)
    borders = Counter(from_host=3, to_host=3)  # tokens in, logits out
    assert copies(mesh) - before == borders + staged(mesh, calls)


@styles
@layouts
def test_losses_and_weights_are_those_of_numpy_bit_for_bit(
    dp: int, tp: int, sequence: bool, style: str
) -> None:
    check_bits("adamw", "float32", dp, tp, sequence, style)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_in_every_dtype_and_with_every_optimizer(dtype: str, optimizer: str) -> None:
    check_bits(optimizer, dtype, *MIXED)


def check_bits(optimizer: str, dtype: str, dp: int, tp: int, sequence: bool, style: str = "gpt2") -> None:
    there, here = (Run(mesh(dp, tp), optimizer, sequence, dtype, style) for mesh in (double_mesh, numpy_mesh))
    assert list(there.losses()) == list(here.losses())
    for mine, theirs in zip(there.model.parameters(), here.model.parameters(), strict=True):
        assert bits(mine.mesh.xp, mine.local) == bits(theirs.mesh.xp, theirs.local), mine.name


def bits(xp: Backend, x: Any) -> bytes:
    found: bytes = xp.to_host(x).tobytes()
    return found


def test_a_silent_copy_in_an_operation_fails_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    op = ops.self_attention

    def careless(context: Context, qkv: Any, **static: Any) -> tuple[Any, Vjps]:
        return op.forward(context, np.asarray(qkv), **static)

    mesh = double_mesh(1, world().size)
    monkeypatch.setattr(ops, "self_attention", Op(op.name, careless, op.rule, op.operands, op.seen))
    with pytest.raises(TypeError, match=r"np\.array of a DeviceArray would copy it in silence"):
        next(Run(mesh).losses())


def test_a_silent_copy_in_a_vjp_fails_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    op = ops.self_attention

    def careless(context: Context, qkv: Any, **static: Any) -> tuple[Any, Vjps]:
        return op.forward(context, qkv, **static)[0], (lambda g: context.xp.from_host(np.asarray(g) * 1.0),)

    mesh = double_mesh(1, world().size)
    monkeypatch.setattr(ops, "self_attention", Op(op.name, careless, op.rule, op.operands, op.seen))
    with pytest.raises(TypeError, match=r"np\.array of a DeviceArray would copy it in silence"):
        next(Run(mesh).losses())
