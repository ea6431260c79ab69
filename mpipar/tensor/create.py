"""Making Tensors: each rank makes only its own piece, and the values do not depend on the mesh.

The order of the placements is the order of the cuts: ``tp=Shard(0), dp=Shard(0)`` is dp inside tp.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import sqrt
from typing import Any

from mpipar.backend import Array, DType
from mpipar.errors import PlacementError
from mpipar.layout import Layout, Misfit, Placement, Shard
from mpipar.mesh import Mesh
from mpipar.random import key
from mpipar.tensor.tape import Leaf
from mpipar.tensor.tensor import Tensor

Shape = tuple[int, ...]


def tensor(
    array: Any, mesh: Mesh, *, dtype: DType | None = None, requires_grad: bool = False, name: str = "",
    **placements: Placement,
) -> Tensor:  # fmt: skip
    """From a global array that every rank has; each keeps its piece (Partial: the first rank keeps the value).

    >>> mesh = Mesh(ranks=[0])
    >>> tensor([[1.0, 2.0]], mesh).shape
    (1, 2)
    """
    xp = mesh.xp
    whole = xp.from_host(array, dtype)
    layout = _layout(mesh, whole.shape, placements)
    pieces = tuple(
        slice(piece.start, piece.stop)
        for piece in (layout.piece(dim, mesh.coords) for dim in range(layout.ndim))
    )
    local = xp.copy(whole[pieces]) if layout.cut_dims else whole
    if not _holds_partial_value(layout, mesh):
        xp.fill(local, 0)
    return _made(local, mesh, layout, name, requires_grad)


def from_local(
    piece: Array,
    mesh: Mesh,
    shape: Shape,
    *,
    requires_grad: bool = False,
    name: str = "",
    **placements: Placement,
) -> Tensor:
    """From the piece that this rank has, an array of the mesh's backend; `shape` is global."""
    layout = _layout(mesh, shape, placements)
    wanted = layout.local_shape(mesh.coords)
    if tuple(piece.shape) != wanted:
        raise PlacementError(
            f"from_local: {name or 'x'} {layout} has a piece of {wanted} on rank {mesh.rank}, not {tuple(piece.shape)}"
        )
    return _made(piece, mesh, layout, name, requires_grad)


def from_dlpack(
    piece: Any, mesh: Mesh, shape: Shape | None = None, *, requires_grad: bool = False, name: str = "",
    **placements: Placement,
) -> Tensor:  # fmt: skip
    """From the piece that this rank has in another library (anything with ``__dlpack__``), without a copy.

    `shape` is global and may be left out where no dim is cut. Both see what either writes: an in-place change on the
    other side is unknown to the tape. BufferError where the array is on another device.
    """
    if not hasattr(piece, "__dlpack__"):
        raise TypeError(
            f"from_dlpack: a {type(piece).__name__} has no __dlpack__: write  mp.tensor(value, mesh, …)"
        )
    try:
        local = mesh.xp.from_dlpack(piece)
    except (BufferError, RuntimeError) as error:
        kind, number = piece.__dlpack_device__()
        raise BufferError(
            f"from_dlpack: a {type(piece).__name__} on DLPack's device {int(kind)}:{number}, and the arrays of this "
            f"mesh are on {mesh.xp.name!r}: {error}"
        ) from None
    if shape is None and any(isinstance(placement, Shard) for placement in placements.values()):
        raise PlacementError(
            f"from_dlpack: {tuple(local.shape)} is the piece of this rank; write  from_dlpack(piece, mesh, shape, …)  "
            "with the global shape"
        )
    if requires_grad and mesh.xp.addresses(mesh.xp.contiguous(local)) != mesh.xp.addresses(local):
        raise ValueError(
            "from_dlpack: a leaf that requires a gradient lies in C order; write  mp.from_local(copy, …)"
        )
    whole = tuple(local.shape) if shape is None else shape
    return from_local(local, mesh, whole, requires_grad=requires_grad, name=name, **placements)


def to_dlpack(x: Tensor) -> Any:
    """A DLPack capsule of my piece, in the same memory; ``torch.from_dlpack(x)`` and its like ask for it themselves."""
    return x.__dlpack__()


def full(
    shape: Shape, value: float, mesh: Mesh, *, dtype: DType = "float32", requires_grad: bool = False, name: str = "",
    **placements: Placement,
) -> Tensor:  # fmt: skip
    """Every element the same number."""
    layout = _layout(mesh, shape, placements)
    here = value if _holds_partial_value(layout, mesh) else 0
    return _made(
        mesh.xp.full(layout.local_shape(mesh.coords), here, dtype), mesh, layout, name, requires_grad
    )


def zeros(shape: Shape, mesh: Mesh, **options: Any) -> Tensor:
    """`full` of 0; takes dtype, requires_grad, name and placements as `full` does."""
    return full(shape, 0, mesh, **options)


def ones(shape: Shape, mesh: Mesh, **options: Any) -> Tensor:
    """`full` of 1."""
    return full(shape, 1, mesh, **options)


def arange(
    length: int, mesh: Mesh, *, dtype: DType = "int64", requires_grad: bool = False, name: str = "",
    **placements: Placement,
) -> Tensor:  # fmt: skip
    """0, 1, … length - 1."""
    layout = _layout(mesh, (length,), placements)
    piece = layout.piece(0, mesh.coords)
    local = mesh.xp.arange(piece.start, piece.stop, dtype)
    if not _holds_partial_value(layout, mesh):
        mesh.xp.fill(local, 0)
    return _made(local, mesh, layout, name, requires_grad)


def uniform(
    name: str, shape: Shape, mesh: Mesh, *, low: float = 0.0, high: float = 1.0, seed: int = 0,
    dtype: DType = "float32", requires_grad: bool = False, **placements: Placement,
) -> Tensor:  # fmt: skip
    """Uniform numbers between low and high: a function of (seed, name, global index)."""
    x = _drawn("uniform", name, shape, mesh, seed, dtype, placements)
    if (low, high) != (0.0, 1.0):
        x = mesh.xp.cast(mesh.xp.widen(x) * (high - low) + low, dtype)
    return _drawn_tensor(x, name, shape, mesh, requires_grad, placements)


def normal(
    name: str, shape: Shape, mesh: Mesh, *, std: float = 1.0, seed: int = 0, dtype: DType = "float32",
    requires_grad: bool = False, **placements: Placement,
) -> Tensor:  # fmt: skip
    """Normal numbers with mean 0: a function of (seed, name, global index)."""
    x = _drawn("normal", name, shape, mesh, seed, dtype, placements)
    if std != 1:
        x = mesh.xp.cast(mesh.xp.widen(x) * std, dtype)
    return _drawn_tensor(x, name, shape, mesh, requires_grad, placements)


def randn(name: str, shape: Shape, mesh: Mesh, **options: Any) -> Tensor:
    """`normal` with a standard deviation of 1."""
    return normal(name, shape, mesh, **options)


def parameter(
    name: str, shape: Shape, mesh: Mesh, *, std: float | None = None, seed: int = 0, dtype: DType = "float32",
    **placements: Placement,
) -> Tensor:  # fmt: skip
    """A weight: normal with standard deviation `std` (default: 1/√ of its first dim), and it requires a gradient."""
    std = 1 / sqrt(max(1, shape[0] if shape else 1)) if std is None else std
    return normal(name, shape, mesh, std=std, seed=seed, dtype=dtype, requires_grad=True, **placements)


def _layout(mesh: Mesh, shape: Shape, placements: dict[str, Placement]) -> Layout:
    try:
        return Layout.make(mesh.grid, shape, placements)
    except Misfit as misfit:
        raise PlacementError(f"a tensor {tuple(shape)} with {placements}: {misfit.reason}") from None


@contextmanager
def each_leaf(change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside the block every new tensor that requires a gradient is passed through `change` before anybody has it.

    So a weight that is cut further is never held whole beside others: ``with each_leaf(cut): model = GPT(…)``.
    """
    global _change  # noqa: PLW0603
    before, _change = _change, change
    try:
        yield
    finally:
        _change = before


_change: Callable[[Tensor], Tensor] | None = None


def _made(local: Array, mesh: Mesh, layout: Layout, name: str, requires_grad: bool) -> Tensor:
    if requires_grad and not mesh.xp.is_floating(local):
        raise TypeError(f"{name or 'x'}: a tensor of {local.dtype} has no gradient")
    leaf = Leaf(mesh.xp, layout.dual, name, tuple(local.shape)) if requires_grad else None
    local = mesh.xp.contiguous(local) if requires_grad else local  # optimizers update it in place
    made = Tensor(local, mesh, layout, name=name, node=leaf)
    return _change(made) if requires_grad and _change is not None else made


def _holds_partial_value(layout: Layout, mesh: Mesh) -> bool:
    """Whether this rank keeps the value of a Partial tensor: it is the first on all its Partial axes."""
    return all(mesh.comm(axis).rank == 0 for axis in layout.partial)


def _drawn(
    kind: str, name: str, shape: Shape, mesh: Mesh, seed: int, dtype: DType, placements: dict[str, Placement]
) -> Array:
    layout = _layout(mesh, shape, placements)
    pieces = [layout.piece(dim, mesh.coords) for dim in range(layout.ndim)]
    index = [mesh.xp.arange(piece.start, piece.stop) for piece in pieces]
    draw = mesh.xp.uniform if kind == "uniform" else mesh.xp.normal
    return draw(key(seed, name), index, dtype)


def _drawn_tensor(
    local: Array, name: str, shape: Shape, mesh: Mesh, requires_grad: bool, placements: dict[str, Placement]
) -> Tensor:
    layout = _layout(mesh, shape, placements)
    if not _holds_partial_value(layout, mesh):
        mesh.xp.fill(local, 0)
    return _made(local, mesh, layout, name, requires_grad)
