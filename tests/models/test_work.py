"""The useful work of a step: by the formula, from the weights of a model, and of two models by hand."""

from __future__ import annotations

from math import prod

import pytest

from mpipar import Mesh
from mpipar.job import world
from mpipar.models import GPT, GPTConfig
from mpipar.models.work import multiplied_weights, step_flops


@pytest.mark.parametrize(
    ("config", "batch", "gflop"),
    [
        (GPTConfig(8192, 256, layers=4, heads=8, width=256), 8, 67.6),
        (GPTConfig(16384, 512, layers=6, heads=12, width=768), 4, 705),
    ],
)
def test_two_models_by_hand(config: GPTConfig, batch: int, gflop: float) -> None:
    assert step_flops(config, batch, config.context) / 1e9 == pytest.approx(gflop, rel=1e-3)


@pytest.mark.parametrize(
    "config",
    [
        GPTConfig(100, 8, layers=3, heads=3, width=24),
        GPTConfig(100, 8, layers=3, heads=4, width=24, style="llama"),
        GPTConfig(100, 8, layers=2, heads=6, width=24, style="llama", kv_heads=2),
    ],
)
def test_weights_that_are_multiplied_are_those_of_the_model(config: GPTConfig) -> None:
    """All matrices, but positions, and an embedding that is not the head as well."""
    model = GPT(config, Mesh(ranks=[world().rank]))
    looked_up = ["positions.weight"] + (["embedding.weight"] if model.head is not None else [])
    weights = {name: prod(p.shape) for name, p in model.named_parameters().items() if name.endswith("weight")}
    assert multiplied_weights(config) == sum(weights[name] for name in weights.keys() - set(looked_up))
