"""Counter-based randomness: nothing here has a state, so no rank can be out of step with another.

A number is a function of a key and of a global index. A key is made of the seed and of what the numbers are
for: ``key(seed, "blocks.0.mlp.up.weight")`` for weights, ``key(seed, "dropout", name, step)`` for a mask.
A rank that holds rows 3 to 5 computes exactly rows 3 to 5, whatever the mesh. `docs/random.md` shows how to draw noise
of one's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b


def key(seed: int, *parts: str | int) -> int:
    """64 bits that depend on every part, its type included: a seed for a tensor's numbers, or a choice by itself.

    >>> key(0, "a") == key(0, "a"), key(0, "a") == key(1, "a"), key(0, "1") == key(0, 1)
    (True, False, False)
    >>> key(7, "which file", 3) % 10  # step 3: the same on every rank, which no rank has to tell the others
    8
    """
    text = "\0".join(f"{type(part).__name__}:{part}" for part in (seed, *parts))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


@dataclass(frozen=True)
class Noise:
    """Where a forward pass stands: what dropout needs to draw the mask of this step and of these rows.

    `first_row` is the row in the step's whole batch at which this micro-batch starts, so that masks do not depend on
    how a batch is cut into micro-batches.
    """

    seed: int
    step: int
    first_row: int = 0
