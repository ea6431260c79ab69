"""The law of the matrix: 20 AdamW steps give the loss and the gradient norm of one rank, whatever is combined.

A failure names the combination, and the largest relative difference of loss and norm. One of 1e-3 in both is a mask or
an order of rows; one that begins in the norm, a gradient that counts twice or not at all.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from grids import one_device
from parallel.matrix import BOUND, RANKS, Combination, choices, matrix, most_on, pairs, said, serial, worst

from mpipar.job import world
from mpipar.testing import launch

SIZE = world().size
SHARE = 3  # combinations of each mesh: those with most things on; the script runs all
FITTING = [
    c
    for sizes in dict.fromkeys(c.sizes for c in matrix() if c.ranks == SIZE)
    for c in most_on([c for c in matrix() if c.sizes == sizes])[:SHARE]
]
PAGE = Path(__file__).parents[2] / "docs" / "parallel-equals-serial.md"


def name_of(c: Combination) -> str:
    return f"{c.mesh}: {c.options}"


@one_device
@pytest.mark.parametrize("c", FITTING, ids=name_of)
def test_a_combination_gives_the_curve_of_one_rank(c, device):
    assert max(worst(c)) <= BOUND, worst(c)


@one_device
def test_a_wrong_mask_or_weight_would_show(device):
    """And the serial run learns."""
    c = Combination((SIZE, 1, 1))
    assert min(worst(c, seed=1)) > 1e-4
    for style in ("gpt2", "llama"):
        losses = [loss for loss, _ in serial(style, c.layers)]
        assert losses[-1] < losses[0] - 0.3


@pytest.mark.launches
@pytest.mark.parametrize("ranks", [5, 6, 8])
def test_more_ranks_than_the_suite_has(ranks, tmp_path):
    c = most_on([c for c in matrix() if c.ranks == ranks])[0]
    finished = launch(
        ranks,
        Path(matrix.__code__.co_filename),
        "--run",
        "1",
        cwd=tmp_path,
        timeout=110,
        env={"OMP_NUM_THREADS": "1"},
    )
    ((mesh, options, *found),) = said(finished)
    assert (mesh, options) == (c.mesh, c.options)
    assert max(found) <= BOUND


def test_every_mesh_and_every_pair_of_options_is_in_it():
    found = matrix()
    assert len(found) >= 60
    assert {c.ranks for c in found} == set(RANKS)
    for kind in {tuple(n > 1 for n in c.sizes) for c in found}:
        here = [c for c in found if tuple(n > 1 for n in c.sizes) == kind]
        possible = {
            pair for sizes in {c.sizes for c in here} for each in choices(sizes) for pair in pairs(each)
        }
        assert set().union(*map(pairs, here)) == possible


def test_the_page_is_of_this_matrix():
    rows = [line.split(" | ")[:3] for line in PAGE.read_text().splitlines() if line.startswith("| ")][1:]
    assert rows == [[f"| {c.ranks}", c.mesh, c.options] for c in matrix()]
