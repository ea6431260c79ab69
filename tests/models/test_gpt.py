"""A GPT is one model on every mesh: the same parameters with the same bits, and weights that travel between models.

A failure names the parameter.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from grids import ONE_AXIS, TWO_AXES, grid_name
from weights import local_bytes

from mpipar import Partial, Replicate, Shard, UsageError, tensor
from mpipar.mesh import Mesh
from mpipar.models import GPT, GPTConfig
from mpipar.optim.common import decays
from mpipar.testing.values import serial_mesh

CONFIG = GPTConfig(vocabulary=11, context=6, layers=2, heads=3, width=12, seed=5, dtype="float64")
LLAMA = replace(CONFIG, heads=6, style="llama", kv_heads=3)
both_styles = pytest.mark.parametrize("config", [CONFIG, LLAMA], ids=["gpt2", "llama"])
TOKENS = [[1, 10, 3, 0], [7, 7, 2, 9]]


def numbers(model: GPT) -> dict[str, bytes]:
    """Every whole parameter, bit by bit."""
    return {name: p.numpy().tobytes() for name, p in model.named_parameters().items()}


def logits(model: GPT) -> bytes:
    mesh = model.embedding.weight.mesh
    found: bytes = model(tensor(TOKENS, mesh)).numpy().tobytes()
    return found


@pytest.mark.parametrize(("dtype", "sequence"), [("float32", True), ("float64", False), ("bfloat16", False)])
@both_styles
@pytest.mark.parametrize("axes", TWO_AXES, ids=grid_name)
def test_initial_weights_have_the_same_bits_on_every_mesh(axes, config, dtype, sequence, make_mesh):
    mesh = make_mesh(**axes)
    config = replace(config, dtype=dtype, sequence_parallel=sequence)
    assert numbers(GPT(config, mesh)) == numbers(GPT(config, serial_mesh(mesh)))


def test_initial_weights_depend_on_the_seed_and_on_the_name(make_mesh):
    mesh = make_mesh(**ONE_AXIS)
    one, other = numbers(GPT(CONFIG, mesh)), numbers(GPT(replace(CONFIG, seed=6), mesh))
    weights = [name for name in one if name.endswith(".weight")]
    assert len(weights) == 1 + 1 + 2 * 4
    assert all(one[name] != other[name] for name in weights)
    assert one["blocks.0.mlp.up.weight"] != one["blocks.1.mlp.up.weight"]


@both_styles
def test_the_initial_scale_is_that_of_gpt_2(config, make_mesh):
    """0.02, and for the weights that end a residual branch 0.02/√(2·layers); biases 0, gains 1."""
    config = replace(config, vocabulary=256, width=96, layers=2)
    model = GPT(config, make_mesh(**ONE_AXIS))
    for name, p in model.named_parameters().items():
        x = p.numpy()
        if name.endswith(".weight"):
            ends_branch = name.endswith((".out.weight", ".down.weight"))
            assert x.std() == pytest.approx(0.01 if ends_branch else 0.02, rel=0.1), name
            assert abs(x.mean()) < 0.002, name
        else:
            assert (x == (1 if name.endswith(".gain") else 0)).all(), name


def test_the_tied_embedding_is_one_parameter(make_mesh):
    """It has a gradient from both ends, and the count of values is that of the formula."""
    mesh = make_mesh(**ONE_AXIS)
    model = GPT(CONFIG, mesh)
    names = list(model.named_parameters())
    assert len(names) == len(set(names)) == len(model.parameters())
    assert [name for name in names if "embedding" in name] == ["embedding.weight"]
    c, block = 12, 12 * 12**2 + 13 * 12  # the weights of a block, and its biases and norms
    assert sum(int(np.prod(p.shape)) for p in model.parameters()) == 11 * c + 6 * c + 2 * block + 2 * c


def test_llama_has_its_own_head_no_positions_no_biases_and_fewer_heads_of_keys(make_mesh):
    model = GPT(LLAMA, make_mesh(**ONE_AXIS))
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters().items()}
    block = {
        "norm_1.gain": (12,),
        "attention.query.weight": (12, 6, 2),
        "attention.key_value.weight": (12, 2, 3, 2),
        "attention.out.weight": (6, 2, 12),
        "norm_2.gain": (12,),
        "mlp.gate_up.weight": (12, 2, 32),
        "mlp.down.weight": (32, 12),
    }
    blocks = {f"blocks.{i}.{name}": shape for i in range(2) for name, shape in block.items()}
    outside = {"embedding.weight": (11, 12), "norm.gain": (12,), "head.weight": (12, 11)}
    assert shapes == {**outside, **blocks}
    assert {p.name for p in model.parameters() if not decays(p)} == {n for n in shapes if n.endswith("gain")}


@pytest.mark.parametrize(("width", "hidden"), [(12, 32), (192, 512), (768, 2048), (4096, 10944)])
def test_a_gated_feed_forward_half_has_about_as_many_weights(width, hidden):
    assert replace(LLAMA, width=width).hidden == hidden  # 8·width/3, up to a multiple of 32
    assert replace(CONFIG, width=width).hidden == 4 * width


def test_where_the_heads_of_keys_are(make_mesh):
    """6 over 3 heads fit over 3 ranks and over 1; else each rank has all 3, and a gradient of which it owes a part."""
    mesh = make_mesh(**ONE_AXIS)
    weight = GPT(LLAMA, mesh).blocks[0].attention.key_value
    ranks = mesh.shape["tp"]
    assert weight.placements["tp"] == (Shard(2) if ranks in (1, 3) else Replicate())
    assert weight.layout.dual.placement("tp") == (Shard(2) if ranks in (1, 3) else Partial())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"style": "lama"}, "GPTConfig: style='lama' is unknown. Known: gpt2, llama"),
        ({"kv_heads": 3}, 'GPTConfig: kv_heads and rope_base are of style="llama"'),
        ({"rope_base": 5.0}, 'GPTConfig: kv_heads and rope_base are of style="llama"'),
    ],
)
def test_what_a_style_does_not_have_is_refused(wrong, message):
    with pytest.raises(UsageError) as raised:
        replace(CONFIG, **wrong)
    assert str(raised.value) == message


# ---- state --------------------------------------------------------------------------------------------------


def other_model(mesh: Mesh) -> GPT:
    return GPT(replace(CONFIG, seed=6), mesh)


def host_state(model: GPT) -> dict[str, np.ndarray]:
    return {name: p.numpy() for name, p in model.state_dict().items()}


@both_styles
@pytest.mark.parametrize("kind", ["tensors", "host arrays"])
@pytest.mark.parametrize("axes", TWO_AXES, ids=grid_name)
def test_state_goes_to_another_model(axes, kind, config, make_mesh):
    mesh = make_mesh(**axes)
    teacher, learner = GPT(config, mesh), GPT(replace(config, seed=6), mesh)
    learner.load_state_dict(teacher.state_dict() if kind == "tensors" else host_state(teacher))
    assert numbers(learner) == numbers(teacher)
    assert logits(learner) == logits(teacher)


def test_state_goes_from_one_mesh_to_another_as_host_arrays(make_mesh):
    mesh = make_mesh(**ONE_AXIS)
    teacher, learner = GPT(CONFIG, serial_mesh(mesh)), other_model(mesh)
    learner.load_state_dict(host_state(teacher))
    assert numbers(learner) == numbers(teacher)


def test_state_is_the_weights_themselves_off_the_tape(make_mesh):
    model = GPT(CONFIG, make_mesh(**ONE_AXIS))
    state = model.state_dict()
    for name, p in model.named_parameters().items():
        assert state[name].local is p.local
        assert not state[name].requires_grad
        assert state[name].layout == p.layout


def test_loaded_weights_are_copies_in_the_dtype_of_the_model(make_mesh):
    mesh = make_mesh(**ONE_AXIS)
    teacher, learner = GPT(CONFIG, mesh), GPT(replace(CONFIG, dtype="float32"), mesh)
    learner.load_state_dict(teacher.state_dict())
    assert {p.dtype for p in learner.parameters()} == {np.dtype("float32")}
    before = numbers(learner)
    mesh.xp.fill(teacher.positions.weight.local, 0)
    assert numbers(learner) == before


def wrong_states(model: GPT) -> dict[str, tuple[dict[str, object], str]]:
    state = host_state(model)
    last = list(state)[-1]
    return {
        "missing": (
            {name: x for name, x in state.items() if name != last},
            f"missing ['{last}'], not known nothing",
        ),
        "extra": ({**state, "head.weight": state[last]}, "missing nothing, not known ['head.weight']"),
        "longer": ({**state, last: np.zeros(13)}, f"'{last}' is (12), what came is (13"),
        "more dims": ({**state, last: np.zeros((1, 12))}, f"'{last}' is (12), what came is (1, 12"),
        "fewer dims": (
            {**state, "blocks.0.mlp.up.weight": np.zeros(12)},
            "'blocks.0.mlp.up.weight' is (12, 48",
        ),
        "another model": (
            dict(GPT(replace(CONFIG, width=24), model.embedding.weight.mesh).state_dict()),
            "what came is",
        ),
    }


@pytest.mark.parametrize("case", ["missing", "extra", "longer", "more dims", "fewer dims", "another model"])
def test_state_that_does_not_fit_changes_nothing(case, make_mesh):
    model = GPT(CONFIG, make_mesh(**ONE_AXIS))
    state, message = wrong_states(other_model(model.embedding.weight.mesh))[case]
    before = local_bytes(model.parameters())
    with pytest.raises(UsageError) as raised:
        model.load_state_dict(state)
    assert message in str(raised.value)
    assert str(raised.value).startswith("load_state_dict: ")
    assert local_bytes(model.parameters()) == before
