"""The Tensor: a local array, the mesh it is spread over, and the layout that says what the array is a piece of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mpipar import ops
from mpipar.backend import Array
from mpipar.errors import GraphError, PlacementError
from mpipar.layout import Layout, Partial, Placement, Replicate, Shard
from mpipar.ops.base import normalized
from mpipar.tensor import indexing, inplace, moves, operators, places, protocols, reductions, shapes, tape
from mpipar.tensor.apply import apply
from mpipar.tensor.operators import number
from mpipar.tensor.split import Deferred, backward_input

if TYPE_CHECKING:
    from mpipar.mesh import Mesh

Number = int | float


class Tensor:
    """A tensor spread over the ranks of a mesh, with a placement on every axis.

    No operation communicates but the moves: `allreduce`, `allgather`, `reduce_scatter`, `alltoall`, `redistribute`;
    and `numpy()`, which gathers the whole array for a person. `repr`, `local` and `item` never communicate.

    Methods that are listed by name only are functions of the files beside this one.
    """

    __slots__ = ("layout", "local", "mesh", "name", "node")

    def __init__(
        self,
        local: Array,
        mesh: Mesh,
        layout: Layout,
        *,
        name: str = "",
        node: tape.Node | tape.Leaf | None = None,
    ) -> None:
        self.local, self.mesh, self.layout = local, mesh, layout
        self.name, self.node = name, node

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

    def detach(self) -> Tensor:
        """The same values, off the tape."""
        return Tensor(self.local, self.mesh, self.layout, name=self.name)

    def backward(self, gradient: Tensor | None = None, *, keep: bool = False) -> None:
        """Adds the gradient of this scalar to every leaf it depends on. Right on a Partial loss too.

        `gradient` seeds a tensor of any shape and must have the dual layout. The graph is freed unless `keep`.
        """
        node, seed = self.root(gradient)
        tape.backward(node, seed, self.mesh.xp, keep)

    def backward_input(self, *inputs: Tensor, gradient: Tensor | None = None) -> Deferred:
        """`backward` as far as the gradients of these leaves need it; ``.run()`` of what comes back does the rest.

        Until then what the gradients of weights need is kept.
        """
        node, seed = self.root(gradient)
        return backward_input(node, seed, self.mesh.xp, [x.leaf for x in inputs])

    def root(self, gradient: Tensor | None = None) -> tuple[tape.Node | tape.Leaf, Array]:
        """Where backward starts, and with what."""
        if self.node is None:
            raise GraphError("backward: nothing here requires a gradient")
        if gradient is None:
            return self.node, self._seed()
        if gradient.layout != self.layout.dual:
            raise PlacementError(f"backward: the gradient is {gradient.layout}, {self.layout.dual} is wanted")
        return self.node, gradient.local

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

    at, send_to = places.at, places.send_to

    # ---- arithmetic -------------------------------------------------------------------------------------

    def __add__(self, other: Tensor | Number) -> Tensor:
        if isinstance(other, Tensor):
            return apply(ops.add, self, other)
        return apply(ops.add_number, self, number=number(other))

    __radd__ = __add__

    def __sub__(self, other: Tensor | Number) -> Tensor:
        if isinstance(other, Tensor):
            return apply(ops.subtract, self, other)
        return apply(ops.add_number, self, number=-number(other))

    def __rsub__(self, other: Number) -> Tensor:
        return apply(ops.add_number, -self, number=number(other))

    def __mul__(self, other: Tensor | Number) -> Tensor:
        if isinstance(other, Tensor):
            return apply(ops.multiply, self, other)
        return apply(ops.scale, self, by=number(other))

    __rmul__ = __mul__

    def __truediv__(self, other: Tensor | Number) -> Tensor:
        if isinstance(other, Tensor):
            return apply(ops.divide, self, other)
        return apply(ops.scale, self, by=1 / number(other))

    def __rtruediv__(self, other: Number) -> Tensor:
        return apply(ops.reciprocal, self, number=number(other))

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

    def contract(
        self, weight: Tensor, n: int = 1, *, transposed: bool = False, bias: Tensor | None = None
    ) -> Tensor:
        """Sums my last `n` dims with the weight's first `n` (transposed: its last `n`), and adds a `bias`."""
        mine = self.shape[self.ndim - n :]
        theirs = weight.shape[weight.ndim - n :] if transposed else weight.shape[:n]
        if mine != theirs:
            raise ValueError(f"contract: {self.layout} with {weight.layout}: {mine} against {theirs}")
        if bias is None:
            return apply(ops.contract, self, weight, n=n, transposed=transposed)
        others = weight.shape[: weight.ndim - n] if transposed else weight.shape[n:]
        if bias.shape != others:
            raise ValueError(
                f"contract: the bias is {bias.layout}, what it is added to is {others} in each row"
            )
        return apply(ops.affine, self, weight, bias, n=n, transposed=transposed)

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

    def abs(self) -> Tensor:
        return apply(ops.absolute, self)

    def clip(self, low: Number | None = None, high: Number | None = None) -> Tensor:
        """Between two numbers, either of which may be left out."""
        if low is None and high is None:
            raise ValueError("clip: give low=, high= or both")
        low, high = (None if bound is None else number(bound) for bound in (low, high))
        if low is not None and high is not None and low > high:
            raise ValueError(f"clip: low={low} is above high={high}")
        return apply(ops.clip, self, low=low, high=high)

    def isnan(self) -> Tensor:
        return apply(ops.isnan, self)

    def isfinite(self) -> Tensor:
        return apply(ops.isfinite, self)

    def clone(self) -> Tensor:
        """The same in memory of its own; gradients pass."""
        return apply(ops.clone, self)

    # ---- comparison, logic, powers (operators.py) -------------------------------------------------------

    __lt__, __le__ = operators.less, operators.less_equal
    __gt__, __ge__ = operators.greater, operators.greater_equal
    __eq__, __ne__ = operators.equal, operators.not_equal  # type: ignore[assignment]
    __hash__ = object.__hash__
    __and__, __or__ = operators.logical_and, operators.logical_or
    __xor__, __invert__ = operators.logical_xor, operators.logical_not
    __pow__, __rpow__, __abs__ = operators.power, operators.power_of, abs

    # ---- over dims (reductions.py) ----------------------------------------------------------------------

    sum, mean = reductions.sum_, reductions.mean
    max, min = reductions.max_, reductions.min_
    any, all = reductions.any_, reductions.all_
    argmax, argmin = reductions.argmax, reductions.argmin
    var, cumsum = reductions.var, reductions.cumsum
    softmax, log_softmax, logsumexp = reductions.softmax, reductions.log_softmax, reductions.logsumexp

    # ---- shape and dtype (shapes.py), elements (indexing.py) --------------------------------------------

    reshape, expand = shapes.reshape, shapes.expand
    permute, transpose = shapes.permute, shapes.transpose
    squeeze, unsqueeze = shapes.squeeze, shapes.unsqueeze
    split, flip, pad = shapes.split, shapes.flip, shapes.pad
    astype = shapes.astype
    __getitem__, __setitem__ = indexing.getitem, indexing.setitem
    gather, scatter_add = indexing.gather, indexing.scatter_add

    # ---- in place (inplace.py) --------------------------------------------------------------------------

    copy_, fill_, zero_ = inplace.copy_, inplace.fill_, inplace.zero_
    add_, mul_ = inplace.add_, inplace.mul_

    # ---- what Python, NumPy and other libraries ask (protocols.py) --------------------------------------

    item, __float__, __int__ = protocols.item, protocols.as_float, protocols.as_int
    __repr__, __format__, __len__ = protocols.text, protocols.formatted, protocols.length
    __copy__, __deepcopy__ = protocols.copied, protocols.deep_copied
    __dlpack__, __dlpack_device__ = protocols.dlpack, protocols.dlpack_device
    __array_ufunc__ = None  # numpy_array * tensor must not loop over elements
    __array__, __array_function__ = protocols.no_array, protocols.no_numpy_function
    __bool__, __iter__, __contains__ = protocols.no_truth, protocols.no_iteration, protocols.no_search
    __reduce_ex__ = protocols.no_pickle
