"""The layout rules of operations: layouts of the operands in, that of the result out, Misfit where they do not fit.

Dims are matched by labels, as in einsum: `aligned([("bc", x), ("cf", w)], "bf", "one")` is matmul. The rule, axis by
axis: if an operand is cut on a label, every operand that has the label is cut there alike and the others are whole;
the result is cut on that label, or Partial if the label is summed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from math import prod
from typing import Literal, TypeAlias

from mpipar.layout.layout import Cut, Fix, Layout, Misfit, Recut
from mpipar.layout.placement import Partial, Replicate, Shard

Label: TypeAlias = object  # anything that can be compared; None: a dim that must not be cut
Operand: TypeAlias = tuple[Sequence[Label], Layout]
Owed: TypeAlias = Literal["one", "all", "none", "first", "others", "last"]


def aligned(operands: Sequence[Operand], out: Sequence[Label], owed: Owed) -> Layout:
    """The rule over labelled dims. `owed` says which operands may be Partial on an axis:

    "one" (a product: at most one), "all" (a sum: all or none), "none" (nonlinear), "first" (a quotient), "others" (all
    but the first, or none: a choice), "last" (linear in that alone).
    """
    grid = operands[0][1].grid
    partial = {axis for axis in grid.axes if _axis_is_partial(axis, operands, out, owed)}
    cuts = _cuts_by_label(operands)
    lengths = {label: cut.length for labels, x in operands for label, cut in zip(labels, x.cuts, strict=True)}
    return Layout(
        grid,
        tuple(cuts.get(label) or Cut((), (0, lengths[label])) for label in out),
        frozenset(partial),
    )


def _axis_is_partial(axis: str, operands: Sequence[Operand], out: Sequence[Label], owed: Owed) -> bool:
    """Whether the result is Partial on the axis; raises Misfit where the operands do not fit there."""
    cut = {k: x.cut_dims[axis] for k, (_, x) in enumerate(operands) if axis in x.cut_dims}
    partial = [k for k, (_, x) in enumerate(operands) if axis in x.partial]
    if cut:
        return _cut_axis_is_partial(axis, operands, out, cut, partial)
    if partial:
        _check_owed(axis, operands, partial, owed)
        return True
    return False


def _cut_axis_is_partial(
    axis: str, operands: Sequence[Operand], out: Sequence[Label], cut: dict[int, int], partial: list[int]
) -> bool:
    first, dim = next(iter(cut.items()))
    label = operands[first][0][dim]
    if label is None:
        raise Misfit(
            f"dim {dim} of {{{first}}} must be whole and is sharded over axis {axis!r}",
            Fix(first, axis, Replicate()),
        )
    if partial:
        raise Misfit(
            f"dim {dim} of {{{first}}} is sharded over axis {axis!r}, {{{partial[0]}}} is Partial there",
            Fix(partial[0], axis, Replicate()),
            Fix(first, axis, Replicate()),
        )
    for k, (labels, x) in enumerate(operands):
        wanted = labels.index(label) if label in labels else None
        found = x.cut_dims.get(axis)
        if wanted == found:
            continue
        fixes = [
            Fix(k, axis, Replicate() if wanted is None else Shard(wanted)),
            Fix(first, axis, Replicate()),
        ]
        where = f"dim {wanted} of {{{k}}} is" if wanted is not None else f"{{{k}}} lacks that dim and is"
        state = "whole" if found is None else f"sharded over dim {found}"
        raise Misfit(f"dim {dim} of {{{first}}} is sharded over axis {axis!r}, {where} {state}", *fixes)
    return label not in out


def _check_owed(axis: str, operands: Sequence[Operand], partial: list[int], owed: Owed) -> None:
    """Raises Misfit unless these Partial operands are legal for the operation."""
    every = range(len(operands))
    linear = {"all": every, "others": every[1:], "first": every[:1], "last": every[-1:]}.get(owed, ())
    if partial == list(linear) or (owed == "one" and len(partial) == 1):
        return
    fixes = [Fix(k, axis, Replicate()) for k in partial]
    if owed in ("all", "others") and set(partial) < set(linear):
        whole = next(k for k in linear if k not in partial)
        raise Misfit(
            f"{{{partial[0]}}} is Partial on axis {axis!r}, {{{whole}}} is not: it would be added once on each rank",
            fixes[0],
            *([Fix(whole, axis, Partial())] if operands[whole][1].placement(axis) == Replicate() else []),
        )
    if owed == "one":
        raise Misfit(f"the product of two Partial sums on axis {axis!r} is not a sum of products", *fixes[:1])
    fix = next(fix for fix in reversed(fixes) if fix.operand not in linear)
    raise Misfit(f"{{{fix.operand}}} is Partial on axis {axis!r}, and the operation is not linear in it", fix)


def _cuts_by_label(operands: Sequence[Operand]) -> dict[Label, Cut]:
    """How each label is cut; the operands must agree in order and offsets."""
    found: dict[Label, tuple[int, int]] = {}  # the first operand and dim that are cut there
    for k, (labels, x) in enumerate(operands):
        for dim, (label, cut) in enumerate(zip(labels, x.cuts, strict=True)):
            if label is None or not cut.axes:
                continue
            first = found.setdefault(label, (k, dim))
            if operands[first[0]][1].cuts[first[1]] != cut:
                raise _cut_otherwise(operands, (k, dim), first)
    return {label: operands[k][1].cuts[dim] for label, (k, dim) in found.items()}


def _cut_otherwise(operands: Sequence[Operand], here: tuple[int, int], there: tuple[int, int]) -> Misfit:
    """Two dims that the same axes cut in another order, or at other offsets."""
    cuts = {(k, dim): operands[k][1].cuts[dim] for k, dim in (here, there)}
    whats = [
        f"dim {dim} of {{{k}}} is cut by {', '.join(c.axes)} at {c.offsets}" for (k, dim), c in cuts.items()
    ]
    grid, fixes = operands[0][1].grid, []
    for (k, dim), order in ((here, cuts[there].axes), (there, cuts[here].axes)):
        wanted = reduce(
            lambda cut, axis: cut.split(axis, grid.size(axis)), order, Cut((), (0, cuts[k, dim].length))
        )
        if cuts[k, dim] != wanted:
            fixes.append(Recut(k, dim, order))
    return Misfit(", ".join(whats), *fixes)


def broadcast(layouts: Sequence[Layout], owed: Owed) -> Layout:
    """Element by element with NumPy's broadcasting: dims are matched from the right."""
    ndim = max(x.ndim for x in layouts)
    shape = broadcast_shape([x.shape for x in layouts])
    operands: list[Operand] = []
    for x in layouts:
        first = ndim - x.ndim
        labels = [first + dim if length == shape[first + dim] else None for dim, length in enumerate(x.shape)]
        operands.append((labels, x))
    return aligned(operands, range(ndim), owed)


def broadcast_shape(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """NumPy's rule, on global shapes."""
    ndim = max(len(shape) for shape in shapes)
    padded = [(1,) * (ndim - len(shape)) + tuple(shape) for shape in shapes]
    result = []
    for lengths in zip(*padded, strict=True):
        wide = {length for length in lengths if length != 1}
        if len(wide) > 1:
            raise ValueError(f"shapes {' and '.join(map(str, shapes))} do not broadcast")
        result.append(wide.pop() if wide else 1)
    return tuple(result)


def whole(layout: Layout, dims: Sequence[int], *, linear: bool = False) -> Layout:
    """An operation that mixes `dims`: they must not be cut, and nothing may be owed unless it is linear."""
    labels = [None if dim in dims else dim for dim in range(layout.ndim)]
    owed: Owed = "one" if linear else "none"
    kept = aligned([(labels, layout)], [label for label in labels if label is not None], owed)
    cuts = iter(kept.cuts)
    return Layout(
        layout.grid,
        tuple(layout.cuts[dim] if dim in dims else next(cuts) for dim in range(layout.ndim)),
        kept.partial,
    )


def summed(layout: Layout, dims: Sequence[int], keepdims: bool) -> Layout:
    """A sum over dims: Partial on the axes that cut them."""
    kept = [dim for dim in range(layout.ndim) if dim not in dims]
    result = aligned([(range(layout.ndim), layout)], kept, "one")
    if not keepdims:
        return result
    cuts = iter(result.cuts)
    return Layout(
        layout.grid,
        tuple(Cut((), (0, 1)) if dim in dims else next(cuts) for dim in range(layout.ndim)),
        result.partial,
    )


def permuted(layout: Layout, order: Sequence[int]) -> Layout:
    return Layout(layout.grid, tuple(layout.cuts[dim] for dim in order), layout.partial)


def repeated(layout: Layout, dim: int, n: int) -> Layout:
    """Each row of a dim n times in a row: pieces stay on their ranks, n times as long."""
    cut = layout.cuts[dim]
    return layout.with_cut(dim, Cut(cut.axes, tuple(n * offset for offset in cut.offsets)))


def reshaped(layout: Layout, shape: Sequence[int]) -> Layout:
    """A cut survives if its dim leads its group on both sides and every offset falls on a row of the result."""
    cuts = [Cut((), (0, length)) for length in shape]
    for old, new in _groups(layout.shape, tuple(shape)):
        cut_dims = [dim for dim in old if layout.cuts[dim].axes]
        if not cut_dims:
            continue
        lead = _leading(old, layout.shape)
        to = _leading(new, shape) if new else None
        if to is None or cut_dims != [lead]:
            raise _falls_inside(layout, cut_dims[-1], shape)
        row = prod(layout.shape[dim] for dim in old if dim > lead)
        new_row = prod(shape[dim] for dim in new if dim > to)
        places = [offset * row for offset in layout.cuts[lead].offsets]
        if new_row and any(place % new_row for place in places):
            raise _falls_inside(layout, lead, shape)
        carried = tuple(place // new_row for place in places) if new_row else layout.cuts[lead].offsets
        cuts[to] = Cut(layout.cuts[lead].axes, carried)
    return Layout(layout.grid, tuple(cuts), layout.partial)


def _falls_inside(layout: Layout, dim: int, shape: Sequence[int]) -> Misfit:
    axis = layout.cuts[dim].axes[-1]
    return Misfit(
        f"dim {dim} of {{0}} is sharded over axis {axis!r}, and a cut would fall inside a row of {tuple(shape)}",
        Fix(0, axis, Replicate()),
    )


def _leading(dims: Sequence[int], shape: Sequence[int]) -> int:
    """The first dim of a group that is not of length 1."""
    return next((dim for dim in dims if shape[dim] != 1), dims[-1])


def _groups(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Runs of dims on both sides with equal products: (6, 4) → (2, 3, 4) gives ([0], [0, 1]), ([1], [2])."""
    if 0 in old:
        return _groups_of_nothing(old, new)
    groups, i, j = [], 0, 0
    while i < len(old) or j < len(new):
        left, right, a, b = [], [], 1, 1
        if i < len(old):
            a, left, i = old[i], [i], i + 1
        if j < len(new):
            b, right, j = new[j], [j], j + 1
        while a != b:
            if a < b:
                a, left, i = a * old[i], [*left, i], i + 1
            else:
                b, right, j = b * new[j], [*right, j], j + 1
        groups.append((left, right))
    return groups


def _groups_of_nothing(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """An empty tensor: equal leading dims go together, the rest is one group."""
    same = 0
    while same < min(len(old), len(new)) and old[same] == new[same]:
        same += 1
    alone = [([dim], [dim]) for dim in range(same)]
    rest = (list(range(same, len(old))), list(range(same, len(new))))
    return [*alone, rest] if rest[0] or rest[1] else alone
