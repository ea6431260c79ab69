"""What must hold on all ranks at every step, asked now and then: each check is one small exchange.

That all gradients are finite is seen at each step without one: their norm is on every rank (`finite.py`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from hashlib import blake2b

from mpipar.errors import SanityError
from mpipar.job.agree import named
from mpipar.mesh import Mesh
from mpipar.tensor import Tensor

Copies = dict[
    tuple[str, tuple[int, ...]], bytes
]  # of a piece, by the weight's name and the place of the piece


def check_weights(step: int, parameters: Sequence[Tensor], mesh: Mesh) -> None:
    """Raises SanityError, on all ranks, where ranks that hold the same piece of a weight have other bits.

    Collective over `mesh`: 8 bytes a weight, and its name.
    """
    told: list[Copies] = mesh.world.allgather_object({_place(p): _hash(p) for p in parameters})
    copies: dict[tuple[str, tuple[int, ...]], dict[int, bytes]] = defaultdict(dict)
    for rank, pieces in enumerate(told):
        for place, digest in pieces.items():
            copies[place][rank] = digest
    for (name, _), held in copies.items():
        if len(set(held.values())) > 1:
            raise SanityError(
                f"step {step}: the copies of {name!r} are not the same: {_odd(held)}. A rank has computed or received "
                "something else: go on from a checkpoint before, and look at the memory of its node"
            )


def check_loss(step: int, loss: float, mesh: Mesh) -> None:
    """Raises SanityError, on all ranks, where they do not have the same loss. Collective over `mesh`: one number."""
    held = dict(enumerate(map(float.hex, mesh.world.allgather_object(loss))))
    if len(set(held.values())) > 1:
        raise SanityError(
            f"step {step}: the loss is not the same: {_odd(held)}. It was not summed over all axes that cut batch or "
            "vocabulary, or a rank has computed something else"
        )


def _place(p: Tensor) -> tuple[str, tuple[int, ...]]:
    pieces = (p.layout.piece(dim, p.mesh.coords) for dim in range(p.ndim))
    return p.name, tuple(bound for piece in pieces for bound in (piece.start, piece.stop))


def _hash(p: Tensor) -> bytes:
    return blake2b(p.mesh.xp.to_host(p.local).tobytes(), digest_size=8).digest()


def _odd(held: dict[int, bytes] | dict[int, str]) -> str:
    """The ranks that stand out, or of two values whose they are."""
    counts = Counter(held.values()).most_common(2)
    usual = counts[0][0]
    odd = [rank for rank, value in held.items() if value != usual]
    rest = [rank for rank, value in held.items() if value == usual]
    if counts[0][1] == counts[1][1]:
        return f"{named(rest)} against {named(odd)}"
    return f"{named(odd)} {'differ' if len(odd) > 1 else 'differs'} from {named(rest)}"
