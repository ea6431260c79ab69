"""What ``x[…]`` understands: integers, slices with a positive step, and an ellipsis."""

from __future__ import annotations

from typing import Any

from mpipar.ops.shape import Key


def parsed_key(key: Any, shape: tuple[int, ...]) -> Key:
    """A start, stop and step, or an index, for each dim."""
    parts = list(key) if isinstance(key, tuple) else [key]
    if sum(part is Ellipsis for part in parts) > 1:
        raise IndexError("x[…]: one ellipsis at most")
    if Ellipsis not in [part if part is Ellipsis else None for part in parts]:
        parts.append(Ellipsis)
    place = next(k for k, part in enumerate(parts) if part is Ellipsis)
    missing = len(shape) - (len(parts) - 1)
    if missing < 0:
        raise IndexError(f"x[…]: {len(parts) - 1} indices for {len(shape)} dims")
    parts[place : place + 1] = [slice(None)] * missing
    return tuple(_parsed(part, length) for part, length in zip(parts, shape, strict=True))


def _parsed(part: Any, length: int) -> tuple[int, int, int] | int:
    if isinstance(part, slice):
        start, stop, step = part.indices(length)
        if step < 1:
            raise IndexError(f"x[{part}]: the step must be positive")
        return start, max(start, stop), step
    if isinstance(part, int):
        if not -length <= part < length:
            raise IndexError(f"x[{part}] of a dim of {length}")
        return part % length
    raise TypeError(f"x[…]: {type(part).__name__} is no index; write integers and slices")
