"""One rank alone: the same steps without MPI."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from mpipar.comm.handle import Request
from mpipar.comm.steps import (
    Allgatherv,
    Alltoallv,
    Buffer,
    Exchange,
    Fetch,
    Gatherv,
    Receive,
    Scatterv,
    Send,
    Step,
    check_length,
)
from mpipar.errors import CommError


class Done:
    """The request of a step that is complete already."""

    def test(self) -> bool:
        return True

    def wait(self) -> None:
        return None


class Own:
    """A buffer exposed to nobody else."""

    def __init__(self, buffer: Buffer) -> None:
        self.buffer = buffer

    def close(self) -> None:
        return None


class Solo:
    """A transport of one rank."""

    rank = 0
    size = 1
    memories: Mapping[int, Any] = MappingProxyType({})

    def run(self, step: Step) -> None:
        match step:
            case Allgatherv() | Alltoallv() | Gatherv() | Scatterv():
                step.recv[:] = step.send  # type: ignore[index]
            case Exchange(send, sends, recv, receives, _):
                for (_, start, stop), (_, first, last) in zip(sends, receives, strict=True):
                    here = recv[first:last]  # type: ignore[index]
                    check_length(stop - start, here, 0)
                    here[:] = send[start:stop]  # type: ignore[index]
            case Fetch(buffer, window, _, start):
                buffer[:] = window.buffer[start : start + len(buffer)]
            case Send() | Receive():
                raise CommError("send and recv need a second rank; this communicator has one")

    def start(self, step: Step) -> Request:
        self.run(step)
        return Done()

    def expose(self, buffer: Buffer) -> Own:
        return Own(buffer)

    def machine(self) -> tuple[int, ...]:
        return (0,)

    def group(self, ranks: tuple[int, ...]) -> Solo:
        return self

    def duplicate(self) -> Solo:
        return self

    def broadcast_object(self, value: Any, root: int) -> Any:
        return value

    def allgather_object(self, value: Any) -> list[Any]:
        return [value]

    def abort(self, code: int) -> None:
        os._exit(code)
