"""Parts of a mesh: which ranks they have, that one place is one object, and what is said to who is not there.

A failure shows a part with other ranks or coordinates than those that were named.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from grids import cpu_alone

from mpipar import Mesh, UsageError, parameter
from mpipar.comm import Comm
from mpipar.job import world

SIZE, RANK = world().size, world().rank
GRIDS = [
    {"dp": dp, "pp": pp, "tp": SIZE // dp // pp}
    for dp in range(1, SIZE + 1)
    if SIZE % dp == 0
    for pp in range(1, SIZE // dp + 1)
    if SIZE // dp % pp == 0
]
grids = pytest.mark.parametrize("axes", GRIDS, ids=lambda axes: "-".join(map(str, axes.values())))


def members(comm: Comm) -> list[int]:
    """The ranks of the job in a communicator, in its order."""
    return [int(found) for found in comm.allgather(np.array([RANK]))]


def pp_of(mesh: Mesh) -> int:
    return mesh.coords[mesh.grid.axes.index("pp")]


@grids
@cpu_alone
def test_a_part_has_the_ranks_at_its_places_in_their_order(axes: dict[str, int], make_mesh: Any) -> None:
    mesh = make_mesh(**axes)
    every = list(product(*(range(size) for size in axes.values())))  # of each rank: dp, pp, tp
    me = pp_of(mesh)
    for places in [*((p,) for p in range(axes["pp"])), (0, -1), tuple(range(axes["pp"]))[1:] or (0,)]:
        part, wanted = mesh.at(pp=places), {p % axes["pp"] for p in places}
        ranks = [rank for rank, coords in enumerate(every) if coords[1] in wanted]
        assert part.here == (RANK in ranks)
        assert (part.size, part.shape["pp"], part.shape["tp"]) == (len(ranks), len(wanted), axes["tp"])
        if part.here:
            assert members(part.world) == ranks
            assert part.rank == ranks.index(RANK)
            assert part.coords[:3] == (every[RANK][0], sorted(wanted).index(me), every[RANK][2])
            assert members(part["dp"]) == [r for r in ranks if every[r][1:] == every[RANK][1:]]
            assert members(part["pp"]) == [r for r in ranks if every[r][::2] == every[RANK][::2]]


@grids
@cpu_alone
def test_one_place_is_one_object(axes: dict[str, int], make_mesh: Any) -> None:
    mesh, pp = make_mesh(**axes), axes["pp"]
    first = mesh.at(pp=0)
    assert first is mesh.at(pp=(0,)) is mesh.at(pp=(0, 0, -pp)) is mesh.at(pp=0).at(pp=0)
    assert mesh.at(pp=(0, -1)) is mesh.at(pp=(-1, 0)) is mesh.at(pp=(0, pp - 1))
    assert mesh.at(pp=tuple(range(pp))) is mesh.at() is mesh
    assert (first is mesh) == (pp == 1)
    assert (mesh.at(pp=(0, -1)) is mesh) == (pp <= 2)
    assert mesh.at(pp=-1).at(dp=0) is mesh.at(dp=0, pp=pp - 1)
    assert first.whole is mesh.whole is mesh
    assert first.ledger is mesh.ledger
    assert first.xp is mesh.xp


@pytest.mark.skipif(SIZE < 2, reason="a part needs two ranks")
def test_what_a_part_says_of_itself() -> None:
    mesh = Mesh(pp=SIZE, device="cpu")
    assert repr(mesh.at(pp=0)) == f"Mesh(at pp=0; {'rank 0' if RANK == 0 else 'not here'})"
    if SIZE > 2:
        where = {0: "rank 0", SIZE - 1: "rank 1"}.get(RANK, "not here")
        assert repr(mesh.at(pp=(0, -1))) == f"Mesh(pp=2, at pp=(0, {SIZE - 1}); {where})"


@pytest.mark.skipif(SIZE < 2, reason="a part needs two ranks")
def test_elsewhere_nothing_can_be_made_or_sent() -> None:
    other = Mesh(pp=SIZE, device="cpu").at(pp=(RANK + 1) % SIZE)
    for use in (
        lambda: parameter("w", (3,), other),
        lambda: other.world,
        lambda: other["tp"],
        lambda: other.rank,
        lambda: other.coords,
    ):
        with pytest.raises(UsageError) as raised:
            use()
        assert str(raised.value) == (
            f"rank {RANK} is not on Mesh(at pp={(RANK + 1) % SIZE}): only its ranks hold tensors there and "
            "communicate; ask mesh.here first"
        )


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ({"pq": 0}, "mesh.at: axis 'pq' is not one of the mesh's, which are pp, dp, cp, tp, ep"),
        ({"pp": SIZE}, f"mesh.at(pp={SIZE}): the places of pp are 0 to {SIZE - 1}; name at least one"),
        ({"pp": -SIZE - 1}, f"mesh.at(pp={-SIZE - 1}): the places of pp are 0 to {SIZE - 1}"),
        ({"pp": ()}, f"mesh.at(pp=()): the places of pp are 0 to {SIZE - 1}; name at least one"),
        ({"pp": (0, "1")}, "mesh.at(pp=(0, '1')): the places of pp are 0 to"),
        ({"pp": True}, "mesh.at(pp=True): the places of pp are 0 to"),
        ({"pp": [0]}, "mesh.at(pp=[0]): the places of pp are 0 to"),
    ],
)
def test_a_place_that_is_none_is_refused(places: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        Mesh(pp=SIZE, device="cpu").at(**places)
    assert str(raised.value).startswith(message)
