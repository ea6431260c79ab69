"""The Tensor: a local array, the mesh it is spread over, and the layout that says what the array is a piece of."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from mpipar import ops
from mpipar.backend import Array, DType
from mpipar.errors import GraphError, PlacementError
from mpipar.layout import Layout, Partial, Placement, Replicate, Shard
from mpipar.ops.base import normalized, normalized_dims
from mpipar.tensor import moves, tape
from mpipar.tensor.apply import apply, recorded
from mpipar.tensor.indexing import parsed_key

if TYPE_CHECKING:
    from mpipar.mesh import Mesh

Number = int | float


class Tensor:
    """A tensor spread over the ranks of a mesh, with a placement on every axis.

    No operation communicates but the moves: `allreduce`, `allgather`, `reduce_scatter`, `alltoall`, `redistribute`;
    and `numpy()`, which gathers the whole array for a person. `repr`, `local` and `item` never communicate.
    """

    __slots__ = ("layout", "local", "mesh", "name", "node")
    __array_ufunc__ = None  # numpy_array * tensor must not loop over elements
    __hash__ = object.__hash__

    def __init__(
        self,
        local: Array,
        mesh: Mesh,
        layout: Layout,
        *,
        name: str = "",
        node: tape.Node | tape.Leaf | None = None,
    ) -> None:
        self.local, self.mesh, self.layout, self.name, self.node = local, mesh, layout, name, node

    # ---- asking -----------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """The global shape."""
        return self.layout.shape

    @property
    def ndim(self) -> int:
        return self.layout.ndim

    @property
    def dtype(self) -> Any:
        return self.local.dtype

    @property
    def placements(self) -> dict[str, Placement]:
        """The placement on every axis of the mesh."""
        return self.layout.placements

    @property
    def is_floating(self) -> bool:
        return self.mesh.xp.is_floating(self.local)

    @property
    def requires_grad(self) -> bool:
        return self.node is not None

    @property
    def is_leaf(self) -> bool:
        return isinstance(self.node, tape.Leaf)

    @property
    def leaf(self) -> tape.Leaf:
        """Where this leaf's gradient arrives. Raises GraphError where this is no leaf that requires one."""
        if not isinstance(self.node, tape.Leaf):
            raise GraphError(f"{self.name or 'this tensor'!r} is no leaf that requires a gradient")
        return self.node

    @property
    def grad(self) -> Tensor | None:
        """The gradient that has arrived at this leaf, with the dual layout (or the one that sync gave it)."""
        if not isinstance(self.node, tape.Leaf) or self.node.value is None:
            return None
        name = f"{self.name}.grad" if self.name else ""
        return Tensor(self.node.value, self.mesh, self.node.layout, name=name)

    def clear_grad(self) -> None:
        """Forgets the gradient of this leaf."""
        self.leaf.clear()

    def __repr__(self) -> str:
        name = f"{self.name!r} " if self.name else ""
        here = self.mesh.xp.text(self.local)
        return f"Tensor({name}{self.layout} {self.dtype}, here {tuple(self.local.shape)}: {here})"

    def item(self) -> Number:
        """The number in a tensor of one element, which must be Replicate. Copies it to the host."""
        if self.layout.partial or self.layout.cut_dims:
            axis = min(self.layout.partial or self.layout.cut_dims)
            move = "allreduce" if self.layout.partial else "allgather"
            raise PlacementError(
                f'item of {self.name or "x"} {self.layout}: the number is not here. Write  x.{move}("{axis}").item()'
            )
        number: Number = self.mesh.xp.item(self.local)
        return number

    def numpy(self) -> Any:
        """The whole array as NumPy, on every rank. **Collective**: inside ``if rank == 0`` it hangs."""
        with tape.no_grad():
            x = self
            for cut in self.layout.cuts:
                for axis in reversed(cut.axes):
                    x = x.allgather(axis)
            for axis in self.mesh.grid.axes:
                x = x.allreduce(axis) if axis in x.layout.partial else x
        return self.mesh.xp.to_host(x.local)

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            "a Tensor is no array: write x.numpy() for the whole (collective), x.local for my piece"
        )

    def __bool__(self) -> bool:
        raise TypeError("the truth of a Tensor: write x.item() for a number that every rank has")

    def __iter__(self) -> Any:
        raise TypeError("a Tensor is not iterated over: write x[i], or x.split(1)")

    def detach(self) -> Tensor:
        """The same values, off the tape."""
        return Tensor(self.local, self.mesh, self.layout, name=self.name)

    def backward(self, gradient: Tensor | None = None, *, keep: bool = False) -> None:
        """Adds the gradient of this scalar to every leaf it depends on. Right on a Partial loss too.

        `gradient` seeds a tensor of any shape and must have the dual layout. The graph is freed unless `keep`.
        """
        if self.node is None:
            raise GraphError("backward: nothing here requires a gradient")
        if gradient is None:
            seed = self._seed()
        elif gradient.layout != self.layout.dual:
            raise PlacementError(f"backward: the gradient is {gradient.layout}, {self.layout.dual} is wanted")
        else:
            seed = gradient.local
        tape.backward(self.node, seed, self.mesh.xp, keep)

    def _seed(self) -> Array:
        """1 where this is Partial; on the Replicate axes, 1 on the first rank: the dual of the loss."""
        if self.shape != ():
            raise GraphError(
                f"backward of a tensor {self.layout}: a scalar is wanted; write x.sum() or pass gradient="
            )
        one = 1.0 if self.layout.is_first(self.mesh.coords) else 0.0
        dtype = self.mesh.xp.widen(self.local).dtype
        return self.mesh.xp.full((), one, dtype)

    # ---- the moves --------------------------------------------------------------------------------------

    def redistribute(self, **to: Placement) -> Tensor:
        """Any move, one axis after the other as written: ``x.redistribute(tp=Replicate())``."""
        x = self
        for axis, placement in to.items():
            x = moves.moved(x, (axis,), placement) if x.layout.placement(axis) != placement else x
        return x

    def allreduce(self, *axes: str) -> Tensor:
        """Partial → Replicate: the sum, on every rank. Several axes: one collective over all of them."""
        return self._collective("allreduce", axes, Partial, Replicate())

    def allgather(self, *axes: str) -> Tensor:
        """Shard → Replicate: the pieces joined, on every rank."""
        return self._collective("allgather", axes, Shard, Replicate())

    def reduce_scatter(self, *axes: str, dim: int) -> Tensor:
        """Partial → Shard(dim): my piece of the sum; the axis becomes the innermost cut of `dim`."""
        return self._collective("reduce_scatter", axes, Partial, Shard(normalized(dim, self.ndim)))

    def alltoall(self, *axes: str, dim: int) -> Tensor:
        """Shard → Shard(dim): cut along another dim."""
        return self._collective("alltoall", axes, Shard, Shard(normalized(dim, self.ndim)))

    def _collective(self, name: str, axes: tuple[str, ...], source: type[Placement], to: Placement) -> Tensor:
        if not axes:
            raise PlacementError(f'{name}: name the axis, as x.{name}("tp")')
        for axis in axes:
            if axis not in self.mesh.shape:
                raise PlacementError(f"{name}: axis {axis!r} is not one of {', '.join(self.mesh.shape)}")
            found = self.layout.placement(axis)
            if not isinstance(found, source):
                raise PlacementError(
                    f"{name} of {self.name or 'x'} {self.layout}: it is {found} on axis {axis!r}, "
                    f"{source.__name__} is wanted. Write  x.redistribute({axis}={to})  to move it from whatever it is"
                )
        return moves.moved(self, axes, to)

    # ---- arithmetic -------------------------------------------------------------------------------------

    def __add__(self, other: Tensor | Number) -> Tensor:
        if isinstance(other, Tensor):
            return apply(ops.add, self, other)
        return apply(ops.add_number, self, number=_number(other))

    __radd__ = __add__

    def __sub__(self, other: Tensor | Number) -> Tensor:
        if isinstance(other, Tensor):
            return apply(ops.subtract, self, other)
        return apply(ops.add_number, self, number=-_number(other))

    def __rsub__(self, other: Number) -> Tensor:
        return apply(ops.add_number, -self, number=_number(other))

    def __mul__(self, other: Tensor | Number) -> Tensor:
        if isinstance(other, Tensor):
            return apply(ops.multiply, self, other)
        return apply(ops.scale, self, by=_number(other))

    __rmul__ = __mul__

    def __truediv__(self, other: Tensor | Number) -> Tensor:
        if isinstance(other, Tensor):
            return apply(ops.divide, self, other)
        return apply(ops.scale, self, by=1 / _number(other))

    def __rtruediv__(self, other: Number) -> Tensor:
        return apply(ops.reciprocal, self, number=_number(other))

    def __neg__(self) -> Tensor:
        return apply(ops.negative, self)

    def __matmul__(self, other: Tensor) -> Tensor:
        """(…, K) @ (K, N), or batches of matrices."""
        if not isinstance(other, Tensor):
            raise TypeError(
                f"a Tensor @ {type(other).__name__}: write mp.tensor(value, mesh, …) with placements"
            )
        if other.ndim == 2:
            return self.contract(other)
        return apply(ops.matmul, self, other)

    def contract(self, weight: Tensor, n: int = 1, *, transposed: bool = False) -> Tensor:
        """Sums my last `n` dims with the weight's first `n` (transposed: its last `n`)."""
        mine = self.shape[self.ndim - n :]
        theirs = weight.shape[weight.ndim - n :] if transposed else weight.shape[:n]
        if mine != theirs:
            raise ValueError(f"contract: {self.layout} with {weight.layout}: {mine} against {theirs}")
        return apply(ops.contract, self, weight, n=n, transposed=transposed)

    # ---- functions --------------------------------------------------------------------------------------

    def exp(self) -> Tensor:
        return apply(ops.exp, self)

    def log(self) -> Tensor:
        return apply(ops.log, self)

    def sqrt(self) -> Tensor:
        return apply(ops.sqrt, self)

    def square(self) -> Tensor:
        return apply(ops.square, self)

    def tanh(self) -> Tensor:
        return apply(ops.tanh, self)

    def sigmoid(self) -> Tensor:
        return apply(ops.sigmoid, self)

    def relu(self) -> Tensor:
        return apply(ops.relu, self)

    def gelu(self) -> Tensor:
        """The tanh form of GELU."""
        return apply(ops.gelu, self)

    def silu(self) -> Tensor:
        return apply(ops.silu, self)

    def softmax(self, dim: int = -1) -> Tensor:
        """The dim must be whole."""
        return apply(ops.softmax, self, dim=normalized(dim, self.ndim))

    def sum(self, dim: int | Sequence[int] | None = None, *, keepdims: bool = False) -> Tensor:
        """Partial on the axes that cut a summed dim."""
        return apply(ops.sum_, self, dims=normalized_dims(dim, self.ndim), keepdims=keepdims)

    def mean(self, dim: int | Sequence[int] | None = None, *, keepdims: bool = False) -> Tensor:
        """The sum divided by the global size; Partial on the axes that cut a dim."""
        return apply(ops.mean, self, dims=normalized_dims(dim, self.ndim), keepdims=keepdims)

    def max(self, dim: int | Sequence[int] | None = None, *, keepdims: bool = False) -> Tensor:
        """The dims must be whole."""
        return apply(ops.max_, self, dims=normalized_dims(dim, self.ndim), keepdims=keepdims)

    # ---- shape and dtype --------------------------------------------------------------------------------

    def reshape(self, *shape: int) -> Tensor:
        """A cut survives where every offset falls on a row of the result. One length may be -1."""
        return apply(ops.reshape, self, shape=_completed(shape, self.shape))

    def permute(self, *order: int) -> Tensor:
        """The dims in another order."""
        dims = tuple(normalized(dim, self.ndim) for dim in order)
        if sorted(dims) != list(range(self.ndim)):
            raise ValueError(f"permute{order} of a tensor of {self.ndim} dims: name each dim once")
        return apply(ops.permute, self, order=dims)

    def transpose(self, i: int, j: int) -> Tensor:
        """Two dims exchanged."""
        order = list(range(self.ndim))
        i, j = normalized(i, self.ndim), normalized(j, self.ndim)
        order[i], order[j] = j, i
        return self.permute(*order)

    def __getitem__(self, key: Any) -> Tensor:
        """Slices and indices of whole dims; a dim that is cut may only be taken whole."""
        return apply(ops.slice_, self, key=parsed_key(key, self.shape))

    def split(self, sizes: int | Sequence[int], dim: int = 0) -> list[Tensor]:
        """Consecutive parts along a whole dim: of the given sizes, or of one size (the last may be shorter)."""
        dim = normalized(dim, self.ndim)
        length = self.shape[dim]
        if isinstance(sizes, int):
            sizes = [min(sizes, length - start) for start in range(0, length, sizes)]
        if sum(sizes) != length:
            raise ValueError(f"split: sizes {list(sizes)} of a dim of {length}")
        parts, start = [], 0
        for size in sizes:
            parts.append(self[(*(slice(None),) * dim, slice(start, start + size))])
            start += size
        return parts

    def astype(self, dtype: DType) -> Tensor:
        """The same values in another dtype; gradients stay as wide as they are."""
        xp, source = self.mesh.xp, self.mesh.xp.widen(self.local).dtype
        local = xp.cast(self.local, dtype)
        return recorded(self, local, self.layout, "astype", (self,), (lambda g: xp.cast(g, source),))


def _number(value: Any) -> Number:
    """A Python number, so that a NumPy scalar does not widen what it meets."""
    if isinstance(value, Real):
        return int(value) if isinstance(value, Integral) else float(value)
    raise TypeError(
        f"a Tensor and a {type(value).__name__} do not mix: write mp.tensor(value, mesh, …) with placements"
    )


def _completed(shape: tuple[int, ...], old: tuple[int, ...]) -> tuple[int, ...]:
    """With -1 replaced. Raises ValueError where the number of elements differs."""
    count = 1
    for length in old:
        count *= length
    known = 1
    for length in shape:
        known *= 1 if length == -1 else length
    if shape.count(-1) > 1 or (known and count % known) or (-1 not in shape and known != count):
        raise ValueError(f"reshape of {old} to {shape}: the numbers of elements differ")
    return tuple((count // known if known else 0) if length == -1 else length for length in shape)
