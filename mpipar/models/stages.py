"""A GPT cut between its blocks. Names and values of the weights are those of the whole model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from mpipar.blocks import balanced, offsets
from mpipar.errors import UsageError
from mpipar.mesh import Mesh
from mpipar.models.gpt import GPT, STYLES, GPTConfig, token_embedding


def split_layers(layers: int, stages: int) -> tuple[range, ...]:
    """The blocks of each stage: consecutive, the first ``layers % stages`` stages one more, as all pieces are cut.

    >>> split_layers(5, 2)
    (range(0, 3), range(3, 5))
    """
    if not 1 <= stages <= layers:
        raise UsageError(f"{layers} layers over {stages} stages: each stage needs at least one layer")
    return tuple(range(first, last) for first, last in pairwise(offsets(balanced(layers, stages))))


def gpt_stages(config: GPTConfig, mesh: Mesh, places: Sequence[int]) -> dict[int, GPT]:
    """The stages that this rank holds, by number; stage s is at ``mesh.at(pp=places[s])``.

    The first also has the embedding, the last the final norm and the head. A tied embedding is one weight on the mesh
    of both, Replicate there: so its gradient is Partial, and `sync_gradients` sums it.
    """
    me = mesh.coords[mesh.grid.axes.index("pp")]
    here, ends = mesh.at(pp=me), mesh.at(pp=(places[0], places[-1]))
    blocks = split_layers(config.layers, len(places))
    shared = token_embedding(config, ends) if ends.here and STYLES[config.style].tied_head else None
    return {
        stage: GPT(config, here, blocks[stage], shared if stage in (0, len(places) - 1) else None)
        for stage, place in enumerate(places)
        if place == me
    }
