"""What all optimizers share: which weights decay, and the piece of a weight that this rank updates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from mpipar.backend import Array
from mpipar.comm import Handle
from mpipar.errors import GraphError, UsageError
from mpipar.nn.gradients import Bucket, buckets
from mpipar.nn.pieces import is_cut, piece, target
from mpipar.optim.masters import Masters
from mpipar.tensor import Tensor, changes

Decays: TypeAlias = Callable[[Tensor], bool]


def decays(parameter: Tensor) -> bool:
    """Weights decay; biases and the gains of norms do not. Decided by the last word of the name."""
    return parameter.name.rsplit(".", 1)[-1] not in ("bias", "gain")


def checked(parameters: Sequence[Tensor]) -> list[Tensor]:
    """The parameters, each a leaf and each once."""
    listed = list(parameters)
    if not listed:
        raise UsageError("an optimizer without parameters: pass model.parameters()")
    if len({id(parameter) for parameter in listed}) != len(listed):
        raise UsageError("an optimizer was given a parameter twice; model.parameters() names each once")
    for parameter in listed:
        _ = parameter.leaf  # raises where it is none
    return listed


def check_synced(parameters: Sequence[Tensor]) -> None:
    """Raises GraphError where a sum is still owed, before any update."""
    for parameter in parameters:
        leaf, wanted = parameter.leaf, target(parameter)
        if leaf.watch is not None or (leaf.value is not None and leaf.layout != wanted):
            raise GraphError(
                f"optimizer.step: the gradient of {parameter.name!r} is {leaf.layout}, wanted is {wanted}. "
                "Call sync_gradients(model) after backward"
            )


def updates(parameters: Sequence[Tensor], masters: Masters) -> Iterator[tuple[Tensor, Array, Array]]:
    """Each parameter that has a gradient, the piece of it that this rank updates in place, and the piece's gradient.

    The piece is in C order and has the layout `target(parameter)`, as the gradient and the optimizer's state. Of a
    16-bit weight it is its float32 master.
    """
    for parameter in parameters:
        grad, xp = parameter.leaf.value, parameter.mesh.xp
        if grad is None:
            continue
        changes.note(xp, parameter.local)  # the caller is about to
        mine = piece(parameter)
        master = masters.of(parameter)
        flat = xp.contiguous(mine) if master is None else master
        yield parameter, flat, grad
        if flat is not mine:
            xp.copy_into(mine, xp.cast(flat, mine.dtype))


def finish(parameters: Sequence[Tensor]) -> None:
    """After the updates: pieces that other ranks updated come here (ZeRO 1 and 2), and all gradients are cleared."""
    gather_pieces([p for p in parameters if is_cut(p) and p.leaf.value is not None])
    for parameter in parameters:
        parameter.clear_grad()


def gather_pieces(parameters: Sequence[Tensor]) -> None:
    """Makes weights whole again whose pieces were updated on several ranks: one allgather a bucket.

    While one bucket is put in place the next is on its way.
    """
    under_way: list[tuple[Bucket, Handle]] = []
    for bucket in buckets(parameters):
        if bucket.carrier is not None:
            mine = bucket.carrier.joined([piece(p) for p in bucket.parameters])
            comm = bucket.mesh.comm(*bucket.scattered)
            under_way.append((bucket, comm.iallgather(mine, 0, bucket.carrier.sizes)))
        while len(under_way) > 1:
            put_in_place(*under_way.pop(0))
    for bucket, handle in under_way:
        put_in_place(bucket, handle)


def put_in_place(bucket: Bucket, handle: Handle) -> None:
    assert bucket.carrier is not None
    flat = handle.wait()
    for k, parameter in enumerate(bucket.parameters):
        bucket.carrier.take(k, flat, parameter.local)


def zeros_as_gradient(parameter: Tensor) -> Array:
    """Zeros for the state of a parameter: the shape of the piece that is updated here, as wide as its gradient."""
    xp = parameter.mesh.xp
    dtype = xp.widen(xp.empty((0,), parameter.dtype)).dtype  # gradients of 16-bit weights are float32
    return xp.zeros(target(parameter).local_shape(parameter.mesh.coords), dtype)


def as_tensors(kind: str, parameters: Sequence[Tensor], state: Mapping[str, Array]) -> dict[str, Tensor]:
    """State of one kind ("m") as ``m/<name of the parameter>``: the arrays themselves, laid out as the gradients."""
    return {
        f"{kind}/{p.name}": Tensor(state[p.name], p.mesh, target(p), name=f"{kind}/{p.name}")
        for p in parameters
    }


def copy_state(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Copies Tensors into those of a `state_dict`. Raises UsageError, before anything is changed, where they differ in
    names, in layout, or in the kind of the optimizer.
    """
    missing, extra = sorted(mine.keys() - theirs.keys()), sorted(theirs.keys() - mine.keys())
    if missing or extra or mine["kind"] != theirs["kind"]:
        raise UsageError(
            f"load_state_dict: this optimizer is {mine['kind']}, the state is of {theirs.get('kind')}; "
            f"missing {missing[:5] or 'nothing'}, not known {extra[:5] or 'nothing'}"
        )
    tensors = {name: value for name, value in mine.items() if isinstance(value, Tensor)}
    for name, value in tensors.items():
        if not isinstance(theirs[name], Tensor) or theirs[name].layout != value.layout:
            raise UsageError(f"load_state_dict: {name!r} is {value.layout}, what came is {theirs[name]!r}")
    for name, value in tensors.items():
        if theirs[name].local is not value.local:
            value.mesh.xp.copy_into(value.local, value.mesh.xp.cast(theirs[name].local, value.dtype))
