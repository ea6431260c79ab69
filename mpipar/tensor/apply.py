"""The one place where an operation meets Tensors: ask the layout rule, run forward, leave a node on the tape."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from mpipar.backend import Array
from mpipar.errors import PlacementError
from mpipar.layout import Layout, Misfit
from mpipar.ops.base import Context, Op, Vjps
from mpipar.tensor.advice import advice
from mpipar.tensor.tape import Node, is_recording

if TYPE_CHECKING:
    from mpipar.tensor.tensor import Tensor


def apply(op: Op, *operands: Tensor, **static: Any) -> Tensor:
    """The result of an operation, with its layout. Raises PlacementError where the placements do not fit.

    16-bit operands are computed with in float32 and the result is stored in their dtype.
    """
    first = operands[0]
    mesh, xp = first.mesh, first.mesh.xp
    for other in operands[1:]:
        if other.mesh is not mesh:
            raise PlacementError(
                f"{op.name}: {described(op, operands)} are on different meshes and do not mix"
            )
    layouts = tuple(x.layout for x in operands)
    out = out_layout(op, operands, layouts, static)
    stored = common_dtype(op, operands)
    context = Context(xp, layouts, out, mesh.coords)
    local, vjps = op.forward(context, *(xp.widen(x.local) for x in operands), **static)
    if stored is not None and stored.itemsize == 2:
        local = xp.cast(local, stored)
    return recorded(first, xp.as_array(local), out, op.name, operands, vjps)


def recorded(
    like: Tensor, local: Array, layout: Layout, name: str, operands: tuple[Tensor, ...], vjps: Vjps
) -> Tensor:
    """A Tensor of a result, on the tape if an operand is and recording is on."""
    shape = tuple(local.shape)
    wanted = layout.local_shape(like.mesh.coords)
    if shape != wanted:
        raise ValueError(
            f"{name}: the result is {shape} on rank {like.mesh.rank}, by its layout {layout} {wanted}"
        )
    nodes = tuple(x.node for x in operands)
    on_tape = is_recording() and any(node is not None for node in nodes)
    return type(like)(local, like.mesh, layout, node=Node(name, nodes, vjps, shape) if on_tape else None)


def out_layout(
    op: Op, operands: tuple[Tensor, ...], layouts: tuple[Layout, ...], static: dict[str, Any]
) -> Layout:
    try:
        return cached_rule(op, layouts, tuple(static[name] for name in op.seen))
    except Misfit as misfit:
        raise PlacementError(message(op, operands, misfit)) from None
    except ValueError as error:
        raise ValueError(f"{op.name}: {described(op, operands)}: {error}") from None


@lru_cache(maxsize=10_000)
def cached_rule(op: Op, layouts: tuple[Layout, ...], seen: tuple[Any, ...]) -> Layout:
    return op.rule(*layouts, **dict(zip(op.seen, seen, strict=True)))


def common_dtype(op: Op, operands: tuple[Tensor, ...]) -> Any:
    """The floating dtype of the operands, None where there is none. Two of them do not mix in silence."""
    found = {x.dtype for x in operands if x.is_floating}
    if len(found) > 1:
        raise TypeError(
            f"{op.name}: {described(op, operands)} have different dtypes: write x.astype(…) on one of them"
        )
    return next(iter(found), None)


def described(op: Op, operands: tuple[Tensor, ...]) -> str:
    return " by ".join(f"{name_of(op, operands, k)} {x.layout} {x.dtype}" for k, x in enumerate(operands))


def name_of(op: Op, operands: tuple[Tensor, ...], k: int) -> str:
    """The tensor's own name, or what the operation calls that operand."""
    if operands[k].name:
        return repr(operands[k].name)
    return op.operands[k] if len(op.operands) == len(operands) else f"{op.operands[0]}[{k}]"


def message(op: Op, operands: tuple[Tensor, ...], misfit: Misfit) -> str:
    """What, where, and what to write."""
    names = [name_of(op, operands, k) for k in range(len(operands))]
    whats = " by ".join(f"{name} {x.layout}" for name, x in zip(names, operands, strict=True))
    lines = [f"{op.name}: {whats}", "  " + misfit.reason.format(*names) + "."]
    write = [advice(operands[fix.operand], names[fix.operand], fix) for fix in misfit.fixes]
    if write:
        lines.append("  Write  " + ",  or  ".join(dict.fromkeys(write)))
    return "\n".join(lines)
