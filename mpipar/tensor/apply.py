"""The one place where an operation meets Tensors: ask the layout rule, run forward, leave a node on the tape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from mpipar.backend import Array
from mpipar.errors import PlacementError
from mpipar.layout import Layout, Misfit
from mpipar.layout.layout import shared
from mpipar.ops.base import NO_GRADIENT, Context, Op, Vjps
from mpipar.tensor.advice import advice
from mpipar.tensor.narrow import lightest
from mpipar.tensor.tape import Leaf, Node, is_recording, note_uses

if TYPE_CHECKING:
    from mpipar.mesh import Mesh
    from mpipar.tensor.tensor import Tensor

PLANS = 10_000  # kept a mesh


class Plan(NamedTuple):
    """All that does not depend on the numbers: the same whenever an operation meets such operands."""

    context: Context
    computed: Any  # the floating dtype that is computed with, None where there is none
    narrow: Any  # the 16-bit dtype in which the result is stored, else None: then nothing is widened either


def apply(op: Op, *operands: Tensor, **static: Any) -> Tensor:
    """The result of an operation, with its layout. Raises PlacementError where the placements do not fit.

    16-bit operands are computed with in float32 and the result is stored in their dtype.
    """
    first = operands[0]
    kinds: list[Any] = [op]
    arrays, nodes = [], []
    for x in operands:  # once, for here Python's time is what a small operation takes
        kinds.append((x.mesh, x.layout, x.local.dtype))
        arrays.append(x.local)
        nodes.append(x.node)
    for name in op.seen:
        kinds.append(static[name])
    key = tuple(kinds)
    plan: Plan = first.mesh.plans.get(key) or _plan(key, op, operands, static)
    xp = plan.context.xp
    wide = arrays if plan.narrow is None else [xp.widen(x) for x in arrays]
    local, vjps = op.forward(plan.context, *wide, **static)
    local = xp.as_array(local)
    if local.dtype != plan.computed:
        _check_mixed(op, operands, local, plan)
    elif plan.narrow is not None:
        local = xp.cast(local, plan.narrow)
        if is_recording() and any(nodes):
            vjps = lightest(op, plan.context, arrays, [node is not None for node in nodes], static, vjps)
    if local.shape != plan.context.out_shape:
        raise _misshapen(first, local, plan.context.out, op.name)
    return _result(first, local, plan.context.out, op.name, operands, nodes, vjps)


def recorded(
    like: Tensor, local: Array, layout: Layout, name: str, operands: tuple[Tensor, ...], vjps: Vjps
) -> Tensor:
    """A Tensor of a result that no Op made, on the tape if an operand is and recording is on."""
    if local.shape != layout.local_shape(like.mesh.coords):
        raise _misshapen(like, local, layout, name)
    return _result(like, local, layout, name, operands, [x.node for x in operands], vjps)


def _result(
    like: Tensor, local: Array, layout: Layout, name: str, operands: tuple[Tensor, ...],
    nodes: list[Node | Leaf | None], vjps: Vjps,
) -> Tensor:  # fmt: skip
    node = None
    if any(nodes) and vjps != NO_GRADIENT:
        if is_recording():
            node = Node(name, nodes, vjps, local.shape)
        else:
            note_uses(name, operands)
    return type(like)(local, like.mesh, layout, node=node)


def _misshapen(like: Tensor, local: Array, layout: Layout, name: str) -> ValueError:
    wanted = layout.local_shape(like.mesh.coords)
    return ValueError(
        f"{name}: the result is {local.shape} on rank {like.mesh.rank}, by its layout {layout} {wanted}"
    )


def _plan(key: tuple[Any, ...], op: Op, operands: tuple[Tensor, ...], static: dict[str, Any]) -> Plan:
    """Made once for each kind of operands, then kept by their mesh."""
    mesh = operands[0].mesh
    if any(x.mesh is not mesh for x in operands):
        raise PlacementError(f"{op.name}: {described(op, operands)} are on different meshes and do not mix")
    layouts = tuple(x.layout for x in operands)
    try:
        out = op.rule(*layouts, **{name: static[name] for name in op.seen})
    except Misfit as misfit:
        raise PlacementError(message(op, operands, misfit)) from None
    except ValueError as error:
        raise ValueError(f"{op.name}: {described(op, operands)}: {error}") from None
    narrow, computed = None, common_dtype(op, operands)
    if computed is not None and computed.itemsize == 2:
        narrow, computed = computed, mesh.xp.dtype("float32")
    context = Context(mesh.xp, layouts, shared(out), mesh.coords)
    plan = Plan(context, computed, narrow)
    keep(mesh, key, plan)
    return plan


def keep(mesh: Mesh, key: tuple[Any, ...], plan: Any) -> None:
    if len(mesh.plans) >= PLANS:  # a program whose shapes never come back
        mesh.plans.clear()
    mesh.plans[key] = plan


def common_dtype(op: Op, operands: tuple[Tensor, ...]) -> Any:
    """The floating dtype of the operands, None where there is none. Two of them do not mix in silence."""
    found = {x.dtype for x in operands if x.is_floating}
    if len(found) > 1:
        raise TypeError(
            f"{op.name}: {described(op, operands)} have different dtypes: write x.astype(…) on one of them"
        )
    return next(iter(found), None)


def _check_mixed(op: Op, operands: tuple[Tensor, ...], local: Array, plan: Plan) -> None:
    """Whole numbers and booleans may come of floating numbers, but no wider ones by mixing them with whole numbers."""
    if plan.computed is not None and plan.context.xp.is_floating(local):
        raise TypeError(
            f"{op.name}: {described(op, operands)} would give {local.dtype}: write x.astype(…) on the whole numbers"
        )


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
