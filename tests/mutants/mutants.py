"""Mistakes that one could make in mpipar, each with the law that must fail where it is made.

`-p mutants.mutants` and MPIPAR_MUTANT=name put one of them into a pytest run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple
from unittest.mock import patch

import mpipar.optim
from mpipar import ops
from mpipar.backend import Array, DType
from mpipar.layout import Cut, Layout, Partial, Placement, Replicate, Shard
from mpipar.models import Block
from mpipar.nn import head, pieces, recompute
from mpipar.nn.gradients import Bucket
from mpipar.ops import Context
from mpipar.ops.base import Vjps
from mpipar.optim import LossScale, clip_grad_norm
from mpipar.optim.masters import Masters
from mpipar.parallel import sync
from mpipar.parallel.schedule import Action
from mpipar.parallel.step import Step
from mpipar.tensor import Tensor, changes, tape
from mpipar.tensor.moves import TABLE

Row = tuple[type[Placement], type[Placement]]


class Mutant(NamedTuple):
    """A mistake, and the law that it breaks: a file below tests/, and a word of the names of tests there."""

    make: Callable[[], None]
    file: str
    word: str = ""


def swap_rows(one: Row, other: Row) -> Callable[[], None]:
    """Of two rows with shapes that fit, so that only the numbers are wrong."""

    def make() -> None:
        TABLE[one], TABLE[other] = TABLE[other], TABLE[one]

    return make


def drop_a_sum_over_tp() -> None:
    """Gradients are summed over dp and not over tp."""
    summed = sync.summed

    def without_tp(bucket: Bucket, wire: DType | None) -> sync.Moves:
        bucket.owed = tuple(axis for axis in bucket.owed if axis != "tp")
        yield from summed(bucket, wire)

    sync.summed = without_tp


def gather_the_outer_cut_first() -> None:
    """Of two cuts of a dim any may move: its pieces are joined as they come, the rows out of order."""
    inner_sizes = Layout.sizes

    def without(layout: Layout, axis: str) -> Layout:
        dim = layout.cut_dims.get(axis)
        if dim is None:
            return Layout(layout.grid, layout.cuts, layout.partial - {axis})
        cut = Cut((), (0, layout.shape[dim]))
        for other in layout.cuts[dim].axes:
            cut = cut if other == axis else cut.split(other, layout.grid.size(other))
        return layout.with_cut(dim, cut)

    def sizes(layout: Layout, axes: tuple[str, ...], dim: int, coords: tuple[int, ...]) -> tuple[int, ...]:
        if layout.cuts[dim].axes[-1] in axes:
            return inner_sizes(layout, axes, dim, coords)
        place = layout.grid.axes.index(axes[0])
        return tuple(
            len(layout.piece(dim, (*coords[:place], rank, *coords[place + 1 :])))
            for rank in range(layout.grid.size(axes[0]))
        )

    Layout._without, Layout.sizes = without, sizes


def seed_every_rank() -> None:
    """A loss that all ranks have counts once on each of them."""
    Tensor._seed = lambda loss: loss.mesh.xp.full((), 1.0, loss.mesh.xp.widen(loss.local).dtype)


def reduce_once_more() -> None:
    """A block ends with an allreduce that changes nothing but the price."""
    forward = Block.__call__

    def call(block: Block, *args: Any) -> Tensor:
        return forward(block, *args).redistribute(tp=Partial()).redistribute(tp=Replicate())

    Block.__call__ = call


def drop_by_local_index() -> None:
    """The masks of dropout begin anew on every rank."""
    Context.index = lambda context, layout: [
        context.xp.arange(0, n) for n in layout.local_shape(context.coords)
    ]


def turn_by_local_position() -> None:
    """Rotary positions begin anew with every piece of a sequence."""

    def forward(context: Context, x: Array, *, base: float) -> tuple[Array, Vjps]:
        positions = context.xp.arange(0, context.out_shape[-3])
        return context.xp.rotary(x, positions, base), (lambda g: context.xp.rotary(g, -positions, base),)

    ops.rotary = replace(ops.rotary, forward=forward)


def repeat_the_whole() -> None:
    """Heads of keys are repeated a, b, a, b: a blind cut then gives a rank keys that are not those of its queries."""
    repeat = ops.repeat_interleave.forward

    def forward(context: Context, x: Array, *, dim: int, n: int) -> tuple[Array, Vjps]:
        y, (vjp,) = repeat(context, x, dim=dim, n=n)

        def mixed(y: Array, rows: int, columns: int) -> Array:
            """Element i of `columns` in row j goes to row i of `rows`."""
            split = y.reshape(*y.shape[:dim], rows, columns, *y.shape[dim + 1 :])
            return split.swapaxes(dim, dim + 1).reshape(y.shape)

        return mixed(y, x.shape[dim], n), (lambda g: vjp(mixed(g, n, x.shape[dim])),)

    ops.repeat_interleave = replace(ops.repeat_interleave, forward=forward)


def count_every_copy() -> None:
    """A gradient that several ranks hold alike counts on each of them."""

    def clip(parameters: list[Tensor], max_norm: float) -> Tensor:
        with patch.object(Layout, "is_first", lambda layout, coords: True):
            return clip_grad_norm(parameters, max_norm)

    mpipar.optim.clip_grad_norm = clip


def note_no_change() -> None:
    """Backward does not hear of what was changed in place."""
    changes.note = lambda xp, x: None


def wait_for_ever() -> None:
    """`check` looks at each rank alone, and not at who waits for whom."""
    import_module("mpipar.parallel.schedule.check").walk = lambda schedule: iter(())


def do_without_what_is_needed() -> None:
    """`check` lets an action stand before what it needs."""
    import_module("mpipar.parallel.schedule.check").check_order = lambda schedule, places: None


def run_forwards_first() -> None:
    """Every schedule runs as GPipe does: right numbers, and all activations are kept."""
    run = Step.run

    def reordered(step: Step, actions: Sequence[Action]) -> None:
        run(step, sorted(actions, key=lambda action: "backward" in action.kind or action.kind == "sync"))

    Step.run = reordered


def work_on_weights_at_once() -> None:
    """Zero bubble's backward for the weights runs with that for the input."""
    backward_input, backward_weight = Step.backward_input, Step.backward_weight

    def both(step: Step, stage: int, k: int) -> None:
        backward_input(step, stage, k)
        backward_weight(step, stage, k)

    Step.backward_input, Step.backward_weight = both, lambda step, stage, k: None


def update_the_first_piece() -> None:
    """Under ZeRO every rank updates as many rows as its piece has, but the first ones."""
    piece_index = pieces.piece_index

    def first(*args: Any) -> tuple[slice, ...]:
        return tuple(slice(0, part.stop - part.start) for part in piece_index(*args))

    pieces.piece_index = first


def leave_with_the_first_gradient() -> None:
    """A bucket is complete when the first of its gradients is."""
    arrived = sync.Sync.arrived

    def at_once(self: sync.Sync, leaf: tape.Leaf) -> None:
        self._missing[id(leaf.home)].clear()
        arrived(self, leaf)

    sync.Sync.arrived = at_once


def leave_with_the_first_use() -> None:
    """A gradient is complete when the first of its terms has arrived."""
    deposit = tape.Leaf.deposit

    def once(leaf: tape.Leaf, g: Array) -> None:
        leaf.uses = 0
        deposit(leaf, g)

    tape.Leaf.deposit = once


def drop_other_numbers_the_second_time() -> None:
    """In the second pass of a recomputation dropout draws new masks."""
    gradients, index = recompute._gradients, Context.index

    def again(*args: Any) -> Any:
        with patch.object(Context, "index", lambda *where: [i + 1 for i in index(*where)]):
            return gradients(*args)

    recompute._gradients = again


def round_every_update() -> None:
    """Optimizers update 16-bit weights themselves, and the masters stay as they were."""
    of = Masters.of

    def rounded(masters: Masters, parameter: Tensor) -> Array | None:
        return None if of(masters, parameter) is None else pieces.piece(parameter).astype("float32")

    Masters.of = rounded


def take_every_step() -> None:
    """A gradient that is not finite halves the loss scale, and is applied."""
    accepts = LossScale.accepts

    def always(scale: LossScale, step: int, loss: float, norm: float) -> bool:
        return accepts(scale, step, loss, norm) or True

    LossScale.accepts = always


def keep_every_row() -> None:
    """The head in one with its loss counts a row without a target as the first word."""
    entry = head._linear_cross_entropy

    def forward(context: Context, x: Array, weight: Array, targets: Array, **how: Any) -> tuple[Array, Vjps]:
        return entry.forward(context, x, weight, targets * (targets >= 0), **how)

    head._linear_cross_entropy = replace(entry, forward=forward)


def leave_a_rest() -> None:
    """Parts of equal length for all threads: what does not divide is in none of them."""
    workers = import_module("mpipar.backend.numba.threads").Workers
    over = workers.over

    def equal(self: Any, rows: int, width: int, part: Any) -> None:
        over(self, rows - rows % self.count, width, part)

    workers.over = equal


MOVES = ("tensor/test_moves.py", "every_move")
CHECK = "parallel/schedule/test_check.py"
MUTANTS = {
    "a sum is kept on the first rank": Mutant(swap_rows((Partial, Replicate), (Replicate, Partial)), *MOVES),
    "pieces are padded and not gathered": Mutant(swap_rows((Shard, Replicate), (Shard, Partial)), *MOVES),
    "a slice is a reduce_scatter": Mutant(swap_rows((Replicate, Shard), (Partial, Shard)), *MOVES),
    "a sum over tp is dropped": Mutant(drop_a_sum_over_tp, "parallel/test_sync.py"),
    "the outer cut is gathered first": Mutant(gather_the_outer_cut_first, "tensor/test_redistribute.py"),
    "the loss is seeded on every rank": Mutant(seed_every_rank, "tensor/test_tape.py"),
    "one more allreduce in a block": Mutant(reduce_once_more, "nn/test_collectives.py"),
    "dropout by the local index": Mutant(drop_by_local_index, "nn/test_layers.py", "Dropout"),
    "rotary positions by the local index": Mutant(turn_by_local_position, "ops/test_rotary.py"),
    "heads of keys repeated as a whole": Mutant(repeat_the_whole, "nn/test_layers.py", "Grouped"),
    "clipping counts every copy": Mutant(count_every_copy, "optim/test_clip.py"),
    "a change in place goes unseen": Mutant(note_no_change, "tensor/test_inplace.py", "between"),
    "a schedule may wait for ever": Mutant(wait_for_ever, CHECK, "cycle"),
    "an action may stand before what it needs": Mutant(do_without_what_is_needed, CHECK, "weight_gradient"),
    "a pipeline runs all forwards first": Mutant(
        run_forwards_first, "parallel/pipeline/test_run.py", "freed"
    ),
    "weights do not wait in zero bubble": Mutant(
        work_on_weights_at_once, "parallel/pipeline/test_run.py", "freed"
    ),
    "ZeRO updates the first piece": Mutant(update_the_first_piece, "parallel/test_zero.py", "every_kind"),
    "a bucket leaves with its first gradient": Mutant(
        leave_with_the_first_gradient, "parallel/test_overlap.py", "bits"
    ),
    "a gradient leaves with its first term": Mutant(
        leave_with_the_first_use, "parallel/test_overlap.py", "used_twice"
    ),
    "recomputed with other masks": Mutant(
        drop_other_numbers_the_second_time, "nn/test_recompute.py", "same_bits"
    ),
    "16-bit updates without masters": Mutant(round_every_update, "optim/test_masters.py", "add_up"),
    "a step that overflows is taken": Mutant(take_every_step, "optim/test_scale.py", "skip"),
    "the head counts rows without a target": Mutant(keep_every_row, "nn/test_head.py", "of_the_logits"),
}
if find_spec("numba") is not None:  # the extra `fast`
    MUTANTS["threads leave a rest"] = Mutant(leave_a_rest, "compiled/test_threads.py", "parts_make_up")


def pytest_configure() -> None:
    name = os.environ.get("MPIPAR_MUTANT")
    if name:
        MUTANTS[name].make()
