"""What collectives are asked for, checked: each mistake is one message, before anything has been sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mpipar.backend import Array, DType, Shape
from mpipar.blocks import balanced
from mpipar.comm.steps import LAST_TAG
from mpipar.errors import CommError

if TYPE_CHECKING:
    from mpipar.comm.comm import Comm


def pieces(comm: Comm, shape: Shape, dim: int, sizes: Sequence[int] | None) -> tuple[int, tuple[int, ...]]:
    """The dim, counted from the front, and the lengths into which it is cut: given, or balanced."""
    dim = from_front(dim, len(shape))
    if sizes is None:
        return dim, balanced(shape[dim], comm.size)
    if len(sizes) != comm.size or sum(sizes) != shape[dim] or min(sizes) < 0:
        raise ValueError(
            f"sizes {tuple(sizes)} on {comm.label!r}: {comm.size} pieces that sum to {shape[dim]} are wanted"
        )
    return dim, tuple(sizes)


def lengths(comm: Comm, x: Array, dim: int, sizes: Sequence[int] | None) -> tuple[int, tuple[int, ...]]:
    """The dim, counted from the front, and the lengths of all ranks' arrays: given, or told by each."""
    dim = from_front(dim, len(x.shape))
    if sizes is None:
        told = comm.allgather_object((x.shape, str(x.dtype)))
        alike(comm, [(shape[:dim], shape[dim + 1 :], dtype) for shape, dtype in told], told)
        return dim, tuple(shape[dim] for shape, _ in told)
    if len(sizes) != comm.size or sizes[comm.rank] != x.shape[dim] or min(sizes) < 0:
        raise CommError(
            f"sizes {tuple(sizes)} on {comm.label!r}: "
            f"rank {comm.rank} of {comm.size} has a piece of {x.shape[dim]}"
        )
    return dim, tuple(sizes)


def fits(comm: Comm, x: Array, out: Array | None) -> None:
    if out is not None and (out.shape, out.dtype) != (x.shape, x.dtype):
        raise ValueError(
            f"out on {comm.label!r} is {out.dtype} {out.shape}, the array {x.dtype} {x.shape}: they must be alike"
        )


def alike(comm: Comm, what: Sequence[object], told: Sequence[tuple[Shape, str]]) -> None:
    """Raises CommError, the same on all ranks, where one of them came with another shape or dtype."""
    for rank, its in enumerate(what):
        if its != what[0]:
            (first, first_dtype), (shape, dtype) = told[0], told[rank]
            raise CommError(
                f"the arrays on {comm.label!r} do not fit: rank 0 has {first_dtype} {first}, "
                f"rank {rank} has {dtype} {shape}"
            )


def counts(comm: Comm, sizes: Sequence[int], name: str, total: int | None = None) -> tuple[int, ...]:
    """Numbers of rows, one for each rank."""
    short = len(sizes) != comm.size or min(sizes) < 0
    if short or (total is not None and sum(sizes) != total):
        that = "" if total is None else f" that sum to {total}"
        raise ValueError(
            f"{name} {tuple(sizes)} on {comm.label!r}: {comm.size} numbers of rows{that} are wanted"
        )
    return tuple(sizes)


def rank_of(comm: Comm, rank: int, name: str) -> int:
    if not 0 <= rank < comm.size:
        raise ValueError(f"{name}={rank} on {comm.label!r}: the ranks are 0 to {comm.size - 1}")
    return rank


def tag_of(tag: int) -> int:
    if not 0 <= tag <= LAST_TAG:
        raise ValueError(f"tag={tag}: tags are 0 to {LAST_TAG}")
    return tag


def of_root(comm: Comm, told: tuple[Shape, str] | None, root: int) -> tuple[Shape, str]:
    if told is None:
        raise ValueError(f"scatter on {comm.label!r}: rank {root} is the root and handed in None")
    return told


def told_shapes(
    comm: Comm, sends: Mapping[int, Array], dtype: DType | None
) -> tuple[dict[int, Shape], DType | None]:
    """The shapes of what comes to me by rank, and its dtype: every rank tells, and all see the same mistakes."""
    told = comm.allgather_object({to: (x.shape, str(x.dtype)) for to, x in sends.items()})
    for to in (to for its in told for to in its):
        rank_of(comm, to, "a neighbour")
    dtypes = sorted({name for its in told for _, name in its.values()})
    if len(dtypes) > 1:
        raise CommError(
            f"exchange on {comm.label!r}: one dtype a call; the ranks send {' and '.join(dtypes)}"
        )
    shapes = {source: its[comm.rank][0] for source, its in enumerate(told) if comm.rank in its}
    return shapes, dtypes[0] if dtypes else dtype


def one_dtype(comm: Comm, sends: Sequence[Array], dtype: DType | None, *, needed: bool) -> DType:
    """The dtype of all messages of an exchange: named, or that of what is sent."""
    names = {str(x.dtype) for x in sends} | ({str(comm.xp.dtype(dtype))} if dtype is not None else set())
    if len(names) > 1:
        raise TypeError(f"exchange on {comm.label!r}: one dtype a call, not {' and '.join(sorted(names))}")
    if not names and needed:
        raise TypeError(
            f"exchange on {comm.label!r}: nothing is sent from here; name the dtype of what comes"
        )
    return names.pop() if names else "float32"


def from_front(dim: int, ndim: int) -> int:
    if not -ndim <= dim < ndim:
        raise ValueError(f"dim {dim} of an array of {ndim} dims")
    return dim % ndim
