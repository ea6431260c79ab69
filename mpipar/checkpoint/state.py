"""What of a model and an optimizer is in a checkpoint, under which name, and which part of it a rank writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from mpipar.backend import numpy as HOST
from mpipar.checkpoint.boxes import Box, held, written
from mpipar.checkpoint.shard import BUCKET, DTYPES, Piece
from mpipar.errors import UsageError
from mpipar.tensor import Tensor

MODEL, OPTIMIZER = "model/", "optimizer/"


class Stateful(Protocol):
    """A model or an optimizer: names with Tensors that *are* its state, and plain values that JSON can hold."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class State(NamedTuple):
    """Tensors by their name in a checkpoint, and the plain values of the optimizer (None: there is no optimizer)."""

    tensors: dict[str, Tensor]
    plain: dict[str, Any] | None


class Together:
    """An optimizer and what else changes from step to step, as one Stateful: the state of ``scale`` is ``scale/NAME``.

    >>> from mpipar.optim import LossScale
    >>> Together(LossScale(8.0), other=LossScale(4.0)).state_dict()["other/value"]
    4.0
    """

    def __init__(self, optimizer: Stateful, **others: Stateful) -> None:
        self.optimizer, self.others = optimizer, others

    def state_dict(self) -> dict[str, Any]:
        state = self.optimizer.state_dict()
        for prefix, other in self.others.items():
            state |= {f"{prefix}/{name}": value for name, value in other.state_dict().items()}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        mine = dict(state)
        for prefix, other in self.others.items():
            names = [name for name in mine if name.startswith(f"{prefix}/")]
            other.load_state_dict({name.removeprefix(f"{prefix}/"): mine.pop(name) for name in names})
        self.optimizer.load_state_dict(mine)


def state_of(model: Stateful, optimizer: Stateful | None) -> State:
    tensors = {MODEL + name: value for name, value in model.state_dict().items()}
    plain: dict[str, Any] = {}
    for name, value in (optimizer.state_dict() if optimizer is not None else {}).items():
        if isinstance(value, Tensor):
            tensors[OPTIMIZER + name] = value
        else:
            plain[name] = value
    if not tensors:
        raise UsageError("a checkpoint of nothing: the model has no parameters")
    return State(tensors, None if optimizer is None else plain)


def my_slices(tensors: Mapping[str, Tensor]) -> dict[str, Box]:
    """What this rank writes. Raises UsageError on a Tensor that has no stored form."""
    found = {}
    for name, tensor in tensors.items():
        if str(tensor.dtype) not in DTYPES or tensor.layout.partial:
            raise UsageError(f"a checkpoint cannot hold {name!r}, {tensor.dtype} {tensor.layout}")
        box = written(tensor.layout, tensor.mesh.coords, name, tensor.dtype.itemsize)
        if box is not None:
            found[name] = box
    return found


def pieces(tensors: Mapping[str, Tensor], slices: Mapping[str, Box], *, snapshot: bool) -> list[Piece]:
    """The bytes of the slices: copied to the host now, or bucket by bucket when they are written."""
    take = snapped if snapshot else streamed
    return [
        Piece(name, str(tensors[name].dtype), box.shape, take(tensors[name], box))
        for name, box in slices.items()
    ]


def streamed(tensor: Tensor, box: Box) -> Callable[[], Iterator[Any]]:
    xp, part = tensor.mesh.xp, part_of(tensor, box)

    def buffers() -> Iterator[Any]:
        flat = xp.contiguous(part).reshape(-1)
        step = max(1, BUCKET // flat.dtype.itemsize)
        for start in range(0, flat.size, step):
            yield HOST.wire(xp.to_host(flat[start : start + step]))

    return buffers


def snapped(tensor: Tensor, box: Box) -> Callable[[], Iterator[Any]]:
    host = HOST.wire(HOST.contiguous(tensor.mesh.xp.to_host(part_of(tensor, box))))
    return lambda: (host[start : start + BUCKET] for start in range(0, len(host), BUCKET))


def part_of(tensor: Tensor, box: Box) -> Any:
    """The piece of this rank, or the rows of it that the box says; a view."""
    mine = held(tensor.layout, tensor.mesh.coords)
    return tensor.local if box == mine else tensor.local[box.within(mine).slices]
