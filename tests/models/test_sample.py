"""Text from a model is the same on every mesh. A failure shows two texts, or what sampling left behind."""

from __future__ import annotations

from functools import cache

import pytest
from grids import ONE_AXIS, TWO_AXES, grid_name

from mpipar.backend import Backend
from mpipar.job import world
from mpipar.mesh import Mesh
from mpipar.models import GPT, GPTConfig, sample

LENGTH = 6


STYLES = {"gpt2": {}, "llama": {"style": "llama", "kv_heads": 3}}


def model_on(mesh: Mesh, sequence: bool = False, style: str = "gpt2") -> GPT:
    """Large weights, so that the next byte depends on those before it; dropout, which sampling must turn off."""
    config = GPTConfig(256, 6, 1, 6, 12, 0.5, sequence, seed=5, dtype="float64", std=0.5, **STYLES[style])
    return GPT(config, mesh)


@cache
def serial(xp: Backend, style: str) -> bytes:
    """What one rank writes alone."""
    alone = Mesh(ranks=[world().rank], device=xp)
    return sample(model_on(alone, style=style), b"def ", LENGTH, seed=3)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("axes", TWO_AXES, ids=grid_name)
def test_every_mesh_writes_the_same(axes, sequence, style, make_mesh):
    mesh = make_mesh(**axes)
    assert sample(model_on(mesh, sequence, style), b"def ", LENGTH, seed=3) == serial(mesh.xp, style)


def test_a_text_continues_its_prompt(make_mesh):
    model = model_on(make_mesh(**ONE_AXIS))
    text = sample(model, b"def ", LENGTH)
    assert text.startswith(b"def ")
    assert len(text) == 4 + LENGTH
    assert sample(model, b"def ", 0) == b"def "
    assert len(sample(model, b"", 3)) == 1 + 3  # a newline stands for nothing


@pytest.mark.parametrize("style", STYLES)
def test_only_the_context_counts(style, make_mesh):
    model = model_on(make_mesh(**ONE_AXIS), style=style)
    one, other = (sample(model, prompt + b"123456", LENGTH) for prompt in (b"aaa", b"bbb"))
    assert one[3:] == other[3:]


def test_seed_and_temperature_count(make_mesh):
    model = model_on(make_mesh(**ONE_AXIS))
    texts = {sample(model, b"def ", LENGTH, seed=seed) for seed in range(3)}
    assert len(texts) == 3
    likeliest = {sample(model, b"def ", LENGTH, temperature=0, seed=seed) for seed in range(3)}
    assert len(likeliest) == 1
    assert sample(model, b"def ", LENGTH, temperature=1e-3) in likeliest


@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_left_as_it_was(training, make_mesh):
    model = model_on(make_mesh(**ONE_AXIS)).train(training)
    sample(model, b"def ", 2)
    assert {module.training for module in model.modules()} == {training}
    assert all(p.grad is None for p in model.parameters())
