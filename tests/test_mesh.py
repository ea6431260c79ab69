"""A mesh: which rank stands where, who is on each axis and in which order, and what is said about one that cannot be.

A failure of an order shows the mesh ranks that a communicator joins, as its allgather found them.
"""

from __future__ import annotations

import re
from itertools import product
from typing import Any

import numpy as np
import pytest
from double import DoubleBackend

from mpipar import Mesh, UsageError
from mpipar.backend import cpu
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


def members(comm: Comm, number: int) -> list[int]:
    """The numbers of the ranks of a communicator, in its order."""
    return [int(found) for found in comm.allgather(np.array([number]))]


@grids
def test_the_last_axis_varies_fastest(axes: dict[str, int]) -> None:
    mesh = Mesh(**axes, device="cpu")
    every = list(product(*(range(size) for size in axes.values())))
    assert (mesh.rank, mesh.size) == (RANK, SIZE)
    assert mesh.coords[:3] == every[RANK]
    assert tuple(mesh[axis].rank for axis in axes) == every[RANK]
    assert {axis: mesh[axis].size for axis in axes} == axes


@grids
def test_the_order_in_which_axes_are_written_is_the_order_of_the_ranks(axes: dict[str, int]) -> None:
    mesh = Mesh(**dict(reversed(axes.items())), device="cpu")
    sizes = list(reversed(axes.values()))
    assert tuple(mesh[axis].rank for axis in reversed(axes)) == np.unravel_index(RANK, sizes)


@grids
@pytest.mark.parametrize(
    "names", [("dp",), ("tp",), ("dp", "tp"), ("tp", "dp"), ("tp", "pp", "dp"), ("cp", "tp")]
)
def test_a_communicator_joins_the_ranks_that_differ_on_its_axes_only(
    axes: dict[str, int], names: tuple[str, ...]
) -> None:
    """In the order of the axes as they are named, the last one fastest."""
    mesh = Mesh(**axes, device="cpu")
    grid = np.arange(SIZE).reshape(*axes.values(), 1)
    mine = [np.argwhere(grid == RANK)[0][place] for place in range(4)]
    places = [[*axes, "cp"].index(name) for name in names]
    picked = grid[tuple(slice(None) if place in places else mine[place] for place in range(4))]
    wanted = picked.transpose(np.argsort(np.argsort(places))).reshape(-1).tolist()
    comm = mesh[names]
    assert members(comm, RANK) == wanted
    assert (comm.rank, comm.size, comm.label) == (wanted.index(RANK), len(wanted), ",".join(names))
    assert mesh.comm(*names) is comm, "made once"


def test_five_axes_always_exist_and_others_may_be_added() -> None:
    mesh = Mesh(rows=SIZE)
    assert mesh.shape == {"rows": SIZE, "dp": 1, "pp": 1, "cp": 1, "tp": 1, "ep": 1}
    assert (mesh["rows"].size, mesh["ep"].size, mesh["ep"].rank) == (SIZE, 1, 0)
    with pytest.raises(
        KeyError, match="axis 'columns' is not one of the mesh's, which are rows, dp, pp, cp, tp, ep"
    ):
        mesh["columns"]


def test_how_a_mesh_shows_itself() -> None:
    assert repr(Mesh(dp=SIZE)) == (f"Mesh(dp={SIZE}; rank {RANK})" if SIZE > 1 else "Mesh(one rank; rank 0)")
    assert repr(Mesh(ranks=[RANK], tp=1)) == "Mesh(one rank; rank 0)"


def test_the_device_is_that_of_all_its_communicators() -> None:
    xp = DoubleBackend()
    mesh = Mesh(device=xp, tp=SIZE)
    assert mesh.xp is mesh.world.xp is mesh["tp"].xp is mesh["dp"].xp is xp
    assert Mesh(tp=SIZE, device="cpu").xp is cpu(), "NumPy's kernels, or the compiled ones"
    with pytest.raises(UsageError, match="device 'tpu' is not known; write device='auto', 'cpu' or 'gpu'"):
        Mesh(device="tpu", tp=SIZE)


# ---- some of the ranks ------------------------------------------------------------------------------------


def test_a_mesh_of_one_needs_no_other_rank() -> None:
    """The serial reference inside a parallel test: each rank makes its own, at its own time, or alone."""
    mesh = Mesh(ranks=[RANK], device="cpu")
    assert (mesh.rank, mesh.size, mesh.world.size, set(mesh.shape.values())) == (0, 1, 1, {1})
    assert members(mesh["tp"], RANK) == [RANK]
    if RANK == 0:
        assert Mesh(ranks=[0], dp=1, tp=1)["dp", "tp"].size == 1


def test_some_of_the_ranks_in_the_order_given() -> None:
    """The even ones backwards, beside the odd ones: each half knows nothing of the other."""
    mine = list(range(RANK % 2, SIZE, 2))[::-1]
    mesh = Mesh(ranks=mine, tp=len(mine), device="cpu")
    assert (mesh.size, mesh.rank) == (len(mine), mine.index(RANK))
    assert members(mesh.world, RANK) == members(mesh["tp"], RANK) == mine


@pytest.mark.skipif(SIZE < 3, reason="three ranks")
def test_two_of_three_ranks_while_the_third_does_something_else() -> None:
    if RANK in (0, 2):
        assert members(Mesh(ranks=[2, 0], dp=2, device="cpu")["dp"], RANK) == [2, 0]


def test_meshes_by_the_hundred_do_not_use_up_the_communicators_of_mpi() -> None:
    for _ in range(700):
        mesh = Mesh(dp=SIZE)
        assert mesh["dp"].size == mesh["dp", "tp"].size == SIZE


# ---- meshes that cannot be --------------------------------------------------------------------------------

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "too many": (
        {"dp": SIZE + 1, "tp": 2},
        f"Mesh(dp={SIZE + 1}, tp=2): the product of the sizes is {2 * SIZE + 2}, the number of ranks {SIZE}; "
        f"write Mesh(dp={SIZE})",
    ),
    "zero": ({"dp": 0, "tp": SIZE}, "axis dp=0; a size is a whole number of at least 1"),
    "negative": ({"tp": -SIZE}, f"axis tp={-SIZE}; a size is a whole number of at least 1"),
    "a fraction": ({"tp": float(SIZE)}, f"axis tp={float(SIZE)}; a size is a whole number of at least 1"),
    "a word": ({"tp": "2"}, "axis tp='2'; a size is a whole number of at least 1"),
    "a truth": ({"tp": True, "dp": SIZE}, "axis tp=True; a size is a whole number of at least 1"),
    "a name that tensors take": ({"shape": SIZE}, "'shape' cannot name an axis; choose another word"),
    "no name": ({"2d": SIZE}, "'2d' cannot name an axis; choose another word"),
    "a rank twice": ({"ranks": [RANK, RANK], "tp": 2}, f"ranks=[{RANK}, {RANK}]; name each rank once"),
    "no rank": ({"ranks": []}, "ranks=[]; name each rank once"),
    "without me": ({"ranks": [SIZE]}, f"rank {RANK} is not in ranks=[{SIZE}]; call it on those ranks only"),
    "a rank that is not": (
        {"ranks": [RANK, SIZE], "tp": 2},
        f"ranks=[{RANK}, {SIZE}]; the ranks are 0 to {SIZE - 1}",
    ),
    "product of some": (
        {"ranks": [RANK], "tp": 2},
        "Mesh(tp=2): the product of the sizes is 2, the number of ranks 1; write Mesh(dp=1)",
    ),
}
if SIZE > 1:
    REFUSED["too few"] = (
        {"tp": 1},
        f"Mesh(tp=1): the product of the sizes is 1, the number of ranks {SIZE}; write Mesh(dp={SIZE})",
    )
    REFUSED["nothing named"] = (
        {},
        f"Mesh(): the product of the sizes is 1, the number of ranks {SIZE}; write Mesh(dp={SIZE})",
    )


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_it_says_what_is_wrong_and_what_to_write(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^Mesh.*{re.escape(message.removeprefix('Mesh'))}"):
        Mesh(**options)


def test_an_axis_twice_in_a_product() -> None:
    with pytest.raises(KeyError, match="axis 'tp' is named twice"):
        Mesh(tp=SIZE)["tp", "tp"]


# ---- as a person writes it --------------------------------------------------------------------------------


def test_parse() -> None:
    mesh = Mesh.parse(f"tp=1, dp={SIZE}")
    assert list(mesh.shape) == ["tp", "dp", "pp", "cp", "ep"]
    assert mesh["dp"].size == SIZE
    assert Mesh.parse("").shape["dp"] == SIZE
    xp = DoubleBackend()
    assert Mesh.parse("", device=xp).xp is xp


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"dp={SIZE},tp=7", f"Mesh(dp={SIZE}, tp=7): the product of the sizes is {7 * SIZE}"),
        ("tpp=2", "unknown axis 'tpp': did you mean tp?"),
        ("dp", "'dp' is no axis; write name=size"),
        ("dp=0", "the size of 'dp' is '0'"),
    ],
)
def test_parse_refuses(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        Mesh.parse(text)
