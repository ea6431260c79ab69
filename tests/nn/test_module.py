"""Modules: names, tied weights, modes and state dicts; and what layers refuse."""

from __future__ import annotations

import numpy as np
import pytest
from grids import ONE_AXIS, all_grids

import mpipar as mp
from mpipar import Shard, UsageError
from mpipar.blocks import balanced
from mpipar.models import GPT, GPTConfig
from mpipar.nn import (
    Dropout,
    LayerNorm,
    Linear,
    Module,
    ParallelGroupedAttention,
    ParallelMLP,
    ParallelSelfAttention,
    weight_rows,
)
from mpipar.random import Noise
from mpipar.testing import count_collectives

F64 = {"dtype": "float64"}


@pytest.fixture
def mesh(make_mesh):
    return make_mesh(**ONE_AXIS)


class Two(Module):
    """Children in an attribute, a list and a dict, and a weight in two places."""

    def __init__(self, mesh):
        self.first = Linear("first", 3, 4, mesh, **F64)
        self.rest = [LayerNorm("norm", 4, mesh, **F64), {"drop": Dropout("drop", 0.5)}]
        self.tied = self.first.weight
        self.scale = mp.parameter("scale", (4,), mesh, **F64)
        self.not_a_weight = mp.zeros((4,), mesh)
        self.number = 3


def test_parameters_are_found_once_by_name_in_the_order_of_attributes(mesh):
    model = Two(mesh)
    names = [
        "first.weight",
        "scale",
        "first.bias",
        "norm.gain",
        "norm.bias",
    ]  # one's own before the children's
    assert list(model.named_parameters()) == names
    assert len(model.parameters()) == 5
    assert [type(m).__name__ for m in model.modules()] == ["Two", "Linear", "LayerNorm", "Dropout"]


def test_every_parameter_needs_a_name_of_its_own(mesh):
    model = Two(mesh)
    model.extra = mp.parameter("norm.gain", (4,), mesh)
    with pytest.raises(UsageError, match=r"two parameters are named 'norm.gain'"):
        model.parameters()
    model.extra = mp.zeros((4,), mesh, requires_grad=True)
    with pytest.raises(UsageError, match=r"a parameter \(4\) has no name"):
        model.parameters()


def test_train_and_eval_reach_every_module(mesh):
    model = Two(mesh)
    assert all(m.training for m in model.modules())
    assert model.eval() is model
    assert not any(m.training for m in model.modules())
    assert all(m.training for m in model.train().modules())


@all_grids
def test_a_state_dict_goes_to_another_mesh_through_the_host(axes, make_mesh):
    config = GPTConfig(7, 6, 1, 4, 8, dtype="float64")
    source, target = (
        GPT(config, make_mesh(**axes)),
        GPT(GPTConfig(**{**vars(config), "seed": 5}), make_mesh(**ONE_AXIS)),
    )
    with count_collectives(make_mesh(**axes)) as counts:
        state = source.state_dict()
    assert counts == {}
    assert not any(w.requires_grad for w in state.values())
    whole = {name: w.numpy() for name, w in state.items()}
    target.load_state_dict(whole)
    for name, w in target.state_dict().items():
        np.testing.assert_array_equal(w.numpy(), whole[name])
    target.load_state_dict(target.state_dict())


def test_a_state_dict_that_does_not_fit_changes_nothing(mesh):
    model = ParallelMLP("mlp", 4, 6, mesh, **F64)
    before = {name: w.numpy() for name, w in model.state_dict().items()}
    with pytest.raises(UsageError, match=r"missing \['mlp.up.weight'\], not known \['mlp.left.weight'\]"):
        model.load_state_dict(
            {**{k: v for k, v in before.items() if k != "mlp.up.weight"}, "mlp.left.weight": 0}
        )
    with pytest.raises(UsageError, match=r"'mlp.up.weight' is \(4, 6; tp=Shard\(1\)\), what came is \(6, 4"):
        model.load_state_dict({**before, "mlp.up.weight": before["mlp.up.weight"].T})
    for name, w in model.state_dict().items():
        np.testing.assert_array_equal(w.numpy(), before[name])


@all_grids
def test_weights_are_those_of_one_rank_and_each_rank_makes_its_piece(axes, make_mesh):
    mesh = make_mesh(**axes)
    config = GPTConfig(7, 6, 1, 4, 8, dtype="float64")
    with count_collectives(mesh) as counts:
        model = GPT(config, mesh)
    assert counts == {}
    alone = GPT(config, mp.Mesh(ranks=[mp.job.world().rank])).named_parameters()
    for name, w in model.named_parameters().items():
        np.testing.assert_array_equal(w.numpy(), alone[name].numpy())
        assert tuple(w.local.shape) == w.layout.local_shape(mesh.coords)
    heads = balanced(4, mesh.shape["tp"])[mesh["tp"].rank]
    assert tuple(model.blocks[0].attention.qkv.local.shape) == (8, 3, heads, 2)
    table = {row.name: row for row in weight_rows(model)}
    assert table["embedding.weight"].placement == "tp=Shard(0)"
    assert table["norm.gain"].placement == "Replicate()"
    assert sum(row.bytes for row in table.values()) == sum(w.local.nbytes for w in model.parameters())


def test_the_head_is_tied_to_the_embedding(mesh):
    model = GPT(GPTConfig(7, 6, 1, 4, 8, dtype="float64"), mesh)
    assert [name for name, w in model.named_parameters().items() if 7 in w.shape] == ["embedding.weight"]


# ---- dropout -----------------------------------------------------------------------------------------------------


def test_dropout_is_off_in_evaluation_and_wants_noise_in_training(mesh):
    layer, x = Dropout("drop", 0.4), mp.ones((5, 3), mesh, **F64, tp=Shard(0))
    with pytest.raises(
        UsageError, match=r"Dropout 'drop' in training: pass noise=Noise\(seed, step\), or call model.eval"
    ):
        layer(x, None)
    assert layer.eval()(x, None) is x
    assert Dropout("drop", 0.0)(x, None) is x
    for p in (-0.1, 1.0, 7):
        with pytest.raises(UsageError, match=r"Dropout 'drop': p=.*at least 0 and less than 1"):
            Dropout("drop", p)


@pytest.mark.parametrize("p", [0.0, 0.4])
def test_dropout_onto_a_residual_is_the_same_in_one_pass(p, mesh):
    """The same mask, and the same numbers but for how they are rounded."""
    layer, noise = Dropout("drop", p), Noise(1, 2)
    x, residual = (mp.randn(name, (5, 3), mesh, **F64, tp=Shard(0)) for name in ("x", "residual"))
    bias = mp.randn("bias", (3,), mesh, **F64)
    for found, wanted in (
        (layer.add(x, bias, residual, noise), residual + layer(x + bias, noise)),
        (layer.add(x, None, residual, noise), residual + layer(x, noise)),
        (layer.eval().add(x, bias, residual, None), residual + (x + bias)),
    ):
        np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-14, atol=1e-15)


def test_a_mask_depends_on_seed_step_name_and_row_alone(mesh):
    x = mp.ones((40, 30), mesh, **F64, tp=Shard(0))
    masks = [Dropout(name, 0.25)(x, noise).numpy() for name, noise in (
        ("a", Noise(1, 2)), ("b", Noise(1, 2)), ("a", Noise(2, 2)), ("a", Noise(1, 3)),
    )]  # fmt: skip
    assert len({mask.tobytes() for mask in masks}) == 4
    for mask in masks:
        assert set(np.unique(mask)) == {0, 1 / 0.75}
        assert 0.2 < (mask == 0).mean() < 0.3
    np.testing.assert_array_equal(Dropout("a", 0.25)(x, Noise(1, 2)).numpy(), masks[0])
    micro = mp.ones((10, 30), mesh, **F64)
    np.testing.assert_array_equal(Dropout("a", 0.25)(micro, Noise(1, 2, first_row=7)).numpy(), masks[0][7:17])


def test_heads_must_divide_the_width(mesh):
    with pytest.raises(UsageError, match="'attention': width 8 does not divide into 3 heads"):
        ParallelSelfAttention("attention", 8, 3, mesh)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((8, 3, 1), "width 8 does not divide into 3 heads"),
        ((8, 4, 3), "4 heads do not divide into 3 groups"),
        ((8, 4, 8), "4 heads do not divide into 8 groups"),
        ((8, 4, 0), "4 heads do not divide into 0 groups"),
        ((12, 4, 2), "a head of 3 channels; rotary positions turn pairs"),
    ],
)
def test_grouped_attention_refuses_heads_that_do_not_fit(sizes, message, mesh):
    with pytest.raises(UsageError, match=f"'attention': {message}"):
        ParallelGroupedAttention("attention", *sizes, mesh)
