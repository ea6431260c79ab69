"""What Python, NumPy and other libraries ask of any object: the right answer, or what to write instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from mpipar.errors import GraphError, PlacementError
from mpipar.tensor import tape

if TYPE_CHECKING:
    from mpipar.tensor.tensor import Number, Tensor


def text(x: Tensor) -> str:
    """Global shape, placements, dtype, and my piece in short. Never communicates."""
    name = f"{x.name!r} " if x.name else ""
    grad = ", requires_grad" if x.requires_grad else ""
    here = x.mesh.xp.text(x.local)
    here = "\n  " + here.replace("\n", "\n  ") if "\n" in here else " " + here
    return f"Tensor({name}{x.layout} {x.dtype}{grad}, here {tuple(x.local.shape)}:{here})"


def item(x: Tensor) -> Number:
    """The number in a tensor of one element, which must be Replicate. Copies it to the host."""
    known = f"item of {x.name or 'x'} {x.layout}"
    if x.layout.partial or x.layout.cut_dims:
        axis = min(x.layout.partial or x.layout.cut_dims)
        move = "allreduce" if x.layout.partial else "allgather"
        raise PlacementError(f'{known}: the number is not here. Write  x.{move}("{axis}").item()')
    if x.local.size != 1:
        zeros = ", ".join("0" * x.ndim)
        raise ValueError(
            f"{known}: it has {x.local.size} elements, not one. Write  x[{zeros}].item()  or x.numpy()"
        )
    number: Number = x.mesh.xp.item(x.local)
    return number


def as_float(x: Tensor) -> float:
    return float(item(x))


def as_int(x: Tensor) -> int:
    return int(item(x))


def formatted(x: Tensor, spec: str) -> str:
    """``f"{loss:.3f}"``: the number of a tensor of one element; without a format what `repr` gives."""
    return format(item(x), spec) if spec else text(x)


def length(x: Tensor) -> int:
    """The global length of dim 0."""
    if not x.ndim:
        raise TypeError("len() of a Tensor without dims")
    return x.shape[0]


def no_array(x: Tensor, *args: Any, **kwargs: Any) -> NoReturn:
    raise TypeError("a Tensor is no array: write x.numpy() for the whole (collective), x.local for my piece")


def no_numpy_function(x: Tensor, function: Any, types: Any, args: Any, kwargs: Any) -> NoReturn:
    name = function.__name__
    raise TypeError(
        f"np.{name} of a Tensor, which is no array: write x.{name}(…) or mp.{name}(…) if there is one, or x.numpy() "
        "for the whole (collective), x.local for my piece"
    )


def no_truth(x: Tensor) -> NoReturn:
    raise TypeError(
        "the truth of a Tensor: write x.item() for a number that every rank has, x.all() or x.any() for many, and to "
        "find it in a list  any(x is y for y in list)"
    )


def no_iteration(x: Tensor) -> NoReturn:
    raise TypeError("a Tensor is not iterated over: write x[i], or x.split(1)")


def no_search(x: Tensor, value: Any) -> NoReturn:
    raise TypeError("a number is not looked for in a Tensor by `in`: write (x == value).any().item()")


def no_pickle(x: Tensor, protocol: Any) -> NoReturn:
    raise TypeError(
        "a Tensor is not pickled, for it belongs to ranks that run: write x.numpy() for the whole (collective), "
        "x.local for my piece"
    )


def copied(x: Tensor) -> Tensor:
    """`copy.copy`: another name for the same memory."""
    return type(x)(x.local, x.mesh, x.layout, name=x.name, node=x.node)


def deep_copied(x: Tensor, memo: Any) -> Tensor:
    """`copy.deepcopy`: of a leaf or of a tensor off the tape, on the same mesh, without its gradient."""
    if isinstance(x.node, tape.Node):
        raise GraphError(f"deepcopy of the result of {x.node.name!r}: write x.detach() first, or x.clone()")
    local = x.mesh.xp.copy(x.local)
    leaf = tape.Leaf(x.mesh.xp, x.layout.dual, x.name, tuple(local.shape)) if x.requires_grad else None
    return type(x)(local, x.mesh, x.layout, name=x.name, node=leaf)


def dlpack(x: Tensor, **asked: Any) -> Any:
    """My piece for another library, in the same memory. Raises BufferError where a gradient is required."""
    if x.requires_grad:
        raise BufferError(
            f"DLPack of {x.name or 'x'} {x.layout}, which requires a gradient: who shares its memory may change it "
            "unseen by the tape. Write  x.detach()"
        )
    return x.mesh.xp.to_dlpack(x.local, **asked)


def dlpack_device(x: Tensor) -> tuple[int, int]:
    """The kind of device and its number, as DLPack counts them."""
    device: tuple[int, int] = x.local.__dlpack_device__()
    return device
