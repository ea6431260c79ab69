"""What an array library must offer to carry mpipar: the names that everything above uses as `xp`.

Arrays carry their own operators (arithmetic with **, comparison, and & | ^ ~ of booleans), `shape`, `ndim`, `size`,
`nbytes`, `dtype`, `reshape`, `transpose`, `swapaxes`, `__dlpack_device__`, indexing with whole numbers and slices (of
negative steps too), and in-place updates of the arrays that a function made itself. All else goes through these
names. No function copies between host and device but `from_host`, `from_bytes`, `to_host`, `item` and `text`.
Functions never change their arguments, except those whose name or text says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

Array: TypeAlias = Any  # an array of whichever library carries this rank
DType: TypeAlias = Any  # a name ("float32") or that library's dtype
Shape: TypeAlias = tuple[int, ...]


class Device(Protocol):
    """Carries the bytes of a memory that is not the host's to MPI and back. A `wire` is as the backend makes it."""

    @property
    def gpu_aware(self) -> bool:
        """Whether MPI itself reads and fills this memory."""

    def synchronize(self) -> None:
        """Returns when the device has done all that it was asked to."""

    def host_buffer(self, size: int) -> Any:
        """So many bytes of the host, as a flat array: the copies from and to it may go on behind Python."""

    def download(self, wire: Any, host: Any) -> None:
        """Asks for a copy into the host buffer, done when `synchronize` returns."""

    def upload(self, host: Any, wire: Any) -> None:
        """Asks for a copy from the host buffer, which must stay as it is until `synchronize` returns."""


class Arena(Protocol):
    """Memory of this process that others of its machine read and write. `memory` is what `attach` returns."""

    least: int  # bytes of an array from which it pays

    def open(self, share: int) -> Any:
        """Makes it, at most a `share`-th of the machine's; what others hand to `attach`, None where it fails."""

    def attach(self, place: Any) -> Any:
        """The memory of a process that has opened its own; None where it cannot be had."""

    def empty(self, shape: Shape, dtype: DType) -> Array | None:
        """An array in this process's memory; None where there is no room."""

    def start(self, x: Array) -> int:
        """Where in this process's memory a contiguous array begins; -1 where it is not there."""

    def view(self, memory: Any, start: int, shape: Shape, dtype: DType) -> Array:
        """The contiguous array that begins there."""

    def fold(self, outs: Sequence[Array], terms: Sequence[Array], op: str) -> None:
        """outs[k] ← terms[0] op terms[1] op …, 16-bit floats in float32: "sum", "max" or "min" of arrays (R, K).

        outs[k] may be terms[k] itself.
        """


class Backend(Protocol):
    """The contract. Shapes are written (…, C); N is a number of rows."""

    name: str
    device: Device | None  # None: MPI reads and fills the arrays' own memory
    arena: Arena | None  # None: there is no memory that ranks share

    def __hash__(self) -> int: ...

    def computed_by(self) -> str:
        """By whom numbers are computed, for who reads timings: "Numba, products by MKL"."""

    # the border to the host
    def from_host(self, value: Any, dtype: DType | None = None) -> Array: ...
    def from_bytes(self, data: bytes, shape: Shape, dtype: str = "uint8") -> Array:
        """int64 array of the little-endian numbers (uint8, uint16 or uint32) that lie one after the other in `data`."""

    def to_host(self, x: Array) -> Any:
        """A NumPy array of one's own."""

    def item(self, x: Array) -> Any:
        """The Python number in an array of one element."""

    def text(self, x: Array) -> str:
        """A few of the numbers, for a person."""

    # dtypes
    def dtype(self, name: DType) -> Any: ...
    def cast(self, x: Array, dtype: DType) -> Array:
        """`x` itself where it has that dtype already."""

    def is_floating(self, x: Array) -> bool: ...
    def widen(self, x: Array) -> Array:
        """float32 of a 16-bit array; `x` itself otherwise: what one computes with."""

    # making and joining
    def empty(self, shape: Shape, dtype: DType) -> Array: ...
    def empty_shared(self, shape: Shape, dtype: DType) -> Array:
        """Where the ranks of this machine reach it without a copy, if that pays: what a collective takes next."""

    def zeros(self, shape: Shape, dtype: DType) -> Array: ...
    def full(self, shape: Shape, value: float, dtype: DType) -> Array: ...
    def arange(self, start: int, stop: int, dtype: DType = "int64") -> Array: ...
    def copy(self, x: Array) -> Array: ...
    def contiguous(self, x: Array) -> Array:
        """In C order; 0-d stays 0-d; `x` itself where it is already."""

    def wire(self, x: Array) -> Any:
        """The bytes of a contiguous array as a flat buffer that MPI can read and write."""

    def addresses(self, x: Array) -> tuple[int, int]:
        """What the elements lie between in memory: the first byte, and the one after the last."""

    def to_dlpack(self, x: Array, **asked: Any) -> Any:
        """A DLPack capsule of the array's own memory; `asked` is what ``__dlpack__`` was asked for."""

    def from_dlpack(self, source: Any) -> Array:
        """The array that shares the memory of anything with ``__dlpack__`` on this device. BufferError on another."""

    def concatenate(self, pieces: Sequence[Array], dim: int) -> Array: ...
    def broadcast_to(self, x: Array, shape: Shape) -> Array: ...
    def as_array(self, x: Any) -> Array:
        """A 0-d array of a scalar that the library returned; arrays as they are."""

    def add_into(self, out: Array, x: Array) -> None:
        """``out += x`` in the dtype of `out`."""

    def scale_into(self, out: Array, factor: Array) -> None:
        """``out *= factor``, an array that broadcasts to `out`, in the dtype of `out`."""

    def fill(self, out: Array, value: float) -> None: ...
    def copy_into(self, out: Array, x: Array) -> None: ...
    def copy_scaled(self, out: Array, x: Array, factor: Array) -> None:
        """``out[...] = x * factor``, a 0-d array, all of one dtype."""

    # element by element, and reductions (over dims; all of them where None)
    def add(self, x: Array, y: Array) -> Array: ...
    def exp(self, x: Array) -> Array: ...
    def log(self, x: Array) -> Array: ...
    def sqrt(self, x: Array) -> Array: ...
    def tanh(self, x: Array) -> Array: ...
    def absolute(self, x: Array) -> Array: ...
    def maximum(self, x: Array, y: Array | float) -> Array: ...
    def minimum(self, x: Array, y: Array | float) -> Array: ...
    def where(self, condition: Array, x: Array | float, y: Array | float) -> Array: ...
    def sum(self, x: Array, dims: Sequence[int] | None = None, keepdims: bool = False) -> Array: ...
    def max(self, x: Array, dims: Sequence[int] | None = None, keepdims: bool = False) -> Array:
        """Over nothing -inf, the lowest integer or False."""

    def argmax(self, x: Array, dim: int) -> Array:
        """int64; the first of those that tie."""

    def cumsum(self, x: Array, dim: int) -> Array: ...

    def square_sum(self, x: Array) -> Array:
        """Σ x² as a 0-d array, accumulated in float64."""

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        """Into `out`, a contiguous array of the result's shape and dtype, where it is given."""

    def affine(self, a: Array, b: Array, bias: Array) -> Array:
        """a·b + bias: (N, K), (K, M), (M,) → (N, M)."""

    def add_product(self, out: Array, a: Array, b: Array) -> None:
        """``out += a·b``: (N, M), (N, K), (K, M)."""

    # kernels of networks
    def sigmoid(self, x: Array) -> Array: ...
    def gelu(self, x: Array) -> Array:
        """The tanh form: ½x(1 + tanh(√(2/π)(x + 0.044715x³))). Hendrycks & Gimpel 2016."""

    def gelu_vjp(self, g: Array, x: Array) -> Array: ...
    def biased_gelu(self, x: Array, bias: Array) -> Array:
        """gelu(x + bias): (N, F), (F,) → (N, F)."""

    def biased_gelu_vjp_into(self, g: Array, x: Array, bias: Array) -> Array:
        """g ← g · gelu'(x + bias) in place, (N, F); its sum over the rows, the gradient of the bias: (F,)."""

    def bias_dropout_add(self, x: Array, bias: Array | None, mask: Array | None, residual: Array) -> Array:
        """residual + mask·(x + bias): (…, C), (C,), and twice (…, C) → (…, C). None: without a bias, with all of x."""

    def softmax(self, x: Array, dim: int) -> Array: ...
    def softmax_vjp(self, g: Array, y: Array, dim: int) -> Array: ...
    def layer_norm(self, x: Array, gain: Array, bias: Array, eps: float) -> tuple[Array, Any]:
        """(…, C), (C,), (C,) → (…, C) and what the vjp needs. Ba, Kiros & Hinton 2016."""

    def layer_norm_vjp(self, g: Array, x: Array, gain: Array, saved: Any) -> tuple[Array, Array, Array]: ...
    def rms_norm(self, x: Array, gain: Array, eps: float) -> tuple[Array, Any]:
        """x / √(mean of x² + eps) · gain: (…, C), (C,) → (…, C) and what the vjp needs. Zhang & Sennrich 2019."""

    def rms_norm_vjp(self, g: Array, x: Array, gain: Array, saved: Any) -> tuple[Array, Array]: ...
    def swiglu(self, x: Array) -> Array:
        """silu(a)·b of a = x[…, 0, :] and b = x[…, 1, :]: (…, 2, F) → (…, F). Shazeer 2020."""

    def swiglu_vjp(self, g: Array, x: Array) -> Array: ...
    def rotary(self, x: Array, positions: Array, base: float) -> Array:
        """The pairs (i, i + D/2) turned by position · base^(-2i/D): (…, T, H, D), (T,) integers → (…, T, H, D).

        Angles in float64; negative positions turn back. Su et al. 2021, eq. 34.
        """

    def take_rows(self, table: Array, rows: Array, first: int) -> Array:
        """``table[rows - first]``; a zero row where that is outside the table. (V, C), (…) → (…, C)."""

    def put_rows(self, g: Array, rows: Array, first: int, count: int) -> Array:
        """The transpose of `take_rows`: sums the rows of g into (count, C)."""

    def add_rows(self, out: Array, g: Array, rows: Array, first: int) -> None:
        """``out += put_rows(g, rows, first, len(out))``, of which the other rows of `out` need not be read."""

    def attention(self, q: Array, k: Array, v: Array, scale: float, causal: bool) -> tuple[Array, Array]:
        """softmax(scale·qkᵀ)v for (B, T, H, D), blocked over queries; and the log-sum-exp (B, H, T).

        k and v (B, S, K, D) have as many heads or fewer: each serves H/K consecutive heads of q, unrepeated in memory.
        """

    def attention_vjp(
        self,
        g: Array,
        q: Array,
        k: Array,
        v: Array,
        out: Array,
        lse: Array,
        scale: float,
        causal: bool,
        into: tuple[Array, Array, Array] | None = None,
    ) -> tuple[Array, Array, Array]:
        """The gradients of q, k and v: in arrays of their own, or written `into` three that are given."""

    def exp_sum(self, z: Array, top: Array) -> Array:
        """Σ exp(z - top) of each row: (N, V), (N,) → (N,)."""

    def pick(self, x: Array, columns: Array, first: int) -> Array:
        """x[i, columns[i] - first]; 0 where that is outside. (N, V), (N,) → (N,)."""

    def exp_rows(self, z: Array) -> tuple[Array, Array]:
        """z ← exp(z - top) in place; top, the largest of each row, and the sums of the rows: (N, V) → (N,), (N,)."""

    def subtract_at(self, z: Array, columns: Array, first: int, amounts: Array) -> None:
        """z[i, columns[i] - first] -= amounts[i] in place, where that is inside: (N, V), (N,), (N,)."""

    def softmax_minus_hot(self, z: Array, lse: Array, columns: Array, first: int, scale: Array) -> Array:
        """(exp(z - lse) - onehot(columns - first)) · scale, row by row: (N, V), (N,), (N,), (N,) → (N, V)."""

    # counter-based bits (see mpipar/random.py)
    def uniform(self, key: int, index: Sequence[Array], dtype: DType) -> Array:
        """In (0, 1), a function of the key and of the global index of each element."""

    def keep_mask(self, key: int, index: Sequence[Array], p: float, dtype: DType) -> Array:
        """Dropout's factor: 0 with probability p, else 1 / (1 - p)."""

    def normal(self, key: int, index: Sequence[Array], dtype: DType) -> Array: ...

    # optimizers: update `param` and the state in place
    def sgd(
        self,
        param: Array,
        grad: Array,
        velocity: Array | None,
        lr: float,
        momentum: float,
        nesterov: bool,
        weight_decay: float,
    ) -> None: ...
    def adam(
        self,
        param: Array,
        grad: Array,
        m: Array,
        v: Array,
        step: int,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        decoupled: bool,
    ) -> None: ...
