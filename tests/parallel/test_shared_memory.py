"""What ranks of one machine will sum is made in memory that they share, and a step takes no more of it than the last.

A failure of the first kind costs a copy, one of the second kind is a leak or memory that was not used again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mpipar import Mesh, Shard, parameter, randn, tensor
from mpipar.backend import cpu
from mpipar.job import world
from mpipar.models import GPT, GPTConfig
from mpipar.nn.gradients import buckets
from mpipar.optim import AdamW
from mpipar.parallel import sync_gradients

SIZE = world().size
MEMORY: Any = cpu().arena

pytestmark = pytest.mark.skipif(world().shared is None, reason="needs ranks that share memory")


@pytest.fixture(autouse=True)
def _every_array_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MEMORY, "least", 0)


def is_shared(x: Any) -> bool:
    return bool(MEMORY.start(x) >= 0)


@pytest.mark.parametrize("transposed", [False, True])
def test_products_whose_sum_is_owed(transposed: bool) -> None:
    mesh = Mesh(tp=SIZE, device="cpu")
    x = randn("x", (6, 10), mesh, tp=Shard(1))
    down = parameter("down", (4, 10) if transposed else (10, 4), mesh, tp=Shard(1 if transposed else 0))
    y = x.contract(down, transposed=transposed)
    assert y.layout.partial == {"tp"}
    assert is_shared(y.local)
    assert not is_shared(x.allgather("tp").contract(down.allgather("tp"), transposed=transposed).local)


def test_gradients_whose_sum_is_owed() -> None:
    """Of what is whole and is multiplied by columns: the gradient that a move to whole hands to its reduction."""
    mesh = Mesh(tp=SIZE, device="cpu")
    x = parameter("x", (2 * SIZE, 10), mesh, tp=Shard(0))
    up = parameter("up", (10, 8), mesh, tp=Shard(1))
    seen: list[bool] = []
    comm = mesh["tp"]
    reduce_scatter = comm.reduce_scatter
    comm.reduce_scatter = lambda g, *rest: seen.append(is_shared(g)) or reduce_scatter(g, *rest)  # type: ignore[method-assign]
    try:
        (x.allgather("tp") @ up).square().sum().backward()
    finally:
        del comm.reduce_scatter
    assert seen == [True]


def test_buckets() -> None:
    mesh = Mesh(dp=SIZE, device="cpu")
    weights = [parameter(f"w{k}", (3, 5), mesh) for k in range(3)]
    (bucket,) = buckets(weights)
    assert is_shared(bucket.buffer)


MESHES: list[Callable[[], Mesh]] = [
    lambda: Mesh(dp=SIZE, device="cpu"),
    lambda: Mesh(tp=SIZE, device="cpu"),
]


@pytest.mark.parametrize("make", MESHES, ids=["dp", "tp"])
@pytest.mark.parametrize("sequence", [False, True], ids=["", "sequence parallel"])
def test_steps_take_no_more_memory_than_the_second(make: Callable[[], Mesh], sequence: bool) -> None:
    mesh = make()
    model = GPT(GPTConfig(11, 8, 2, 4, 16, 0.0, sequence), mesh)
    optimizer = AdamW(model.parameters(), lr=1e-3)
    tokens = tensor(
        [[(row + 3 * place) % 11 for place in range(8)] for row in range(SIZE)], mesh, dp=Shard(0)
    )
    tops = []
    for _ in range(8):
        model.loss(tokens, tokens).backward()
        sync_gradients(model)
        optimizer.step()
        tops.append(MEMORY._top)
    assert len(set(tops[2:])) == 1, tops
