"""A PlacementError says what does not fit, where, and a line to write with its price; and that line works.

For every operation and every combination of placements that it refuses the advice is followed, as a person would, until
the operation takes its operands; the moves must cost what was told and the result must be that of one rank. A failure
shows the message whose advice leads nowhere.
"""

from __future__ import annotations

import re
from itertools import product

import pytest
from grids import MIXED, ONE_AXIS, cpu_alone
from op_cases import CASES

import mpipar as mp
from mpipar import Partial, PlacementError, Replicate, Shard, Tensor
from mpipar.log.words import human_bytes
from mpipar.testing import count_collectives
from mpipar.testing.findings import Findings
from mpipar.testing.moves import layouts_of
from mpipar.testing.values import placed_as, wholes_of

MESSAGE = re.compile(r"(?P<what>.+)\n  (?P<where>.+)\.\n  Write  (?P<write>.+)")
ADVICE = re.compile(r"(?P<line>\w+\.\w+\(.+\))  \((?P<price>.+)\)")
STEPS = 8  # moves after which advice has led nowhere


@pytest.mark.parametrize("name", CASES)
@cpu_alone
def test_advice_works_on_one_axis(name, make_mesh, count_cases):
    count_cases["errors whose advice was followed"] += follow_all(CASES[name], make_mesh(**ONE_AXIS))


# one for each kind of rule: two cuts of one dim, in both orders, are what two axes add
@pytest.mark.parametrize("name", ["tanh", "softmax", "slice", "reshape", "add", "contract", "embedding"])
@cpu_alone
def test_advice_works_on_two_axes(name, make_mesh, count_cases):
    count_cases["errors whose advice was followed"] += follow_all(CASES[name], make_mesh(**MIXED))


def follow_all(case, mesh) -> int:
    """Follows the advice, the first line and the last by turns, for every combination that is refused; how many."""
    inputs = case.make(mesh)
    wholes = wholes_of(inputs)
    expected = case.f(*inputs).numpy()
    options = [[placed_as(layout) for layout in layouts_of(mesh, x.shape, mesh.grid.named)] for x in inputs]
    findings, refused = Findings(mesh), 0
    for number, combination in enumerate(product(*options)):
        pieces = {whole.name: whole.on(mesh, p) for whole, p in zip(wholes, combination, strict=True)}
        found, steps = followed(case.f, pieces, -(number % 2))
        if steps:
            refused += 1
            findings.value(f"after {steps} lines", found, expected)
    findings.settle("the result after the advice was followed", 1e-12)
    return refused


def followed(f, pieces: dict[str, Tensor], which: int) -> tuple[Tensor, int]:
    """What f gives after the advice has been followed, and the number of lines that it took."""
    text = ""
    for step in range(STEPS):
        try:
            return f(*pieces.values()), step
        except PlacementError as error:
            text = str(error)
        obey(text, pieces, which)
    raise AssertionError(f"the advice leads nowhere:\n{text}")


def obey(text: str, pieces: dict[str, Tensor], which: int) -> None:
    """Runs one of the lines that a message gives."""
    message = MESSAGE.fullmatch(text)
    assert message, f"no advice:\n{text}"
    advice = ADVICE.fullmatch(message["write"].split(",  or  ")[which])
    assert advice, text
    name = advice["line"].split(".")[0]
    name = name if name in pieces else next(iter(pieces))  # of what became of the one operand on the way
    x = pieces[name]
    with count_collectives(x.mesh) as counts:
        line = re.sub(r"^\w+", "x", advice["line"])
        pieces[name] = eval(line, {"x": x, "Shard": Shard, "Partial": Partial, "Replicate": Replicate})
    pieces[name].name = name
    sent = human_bytes(sum(tally.bytes for tally in counts.values()))
    free = advice["price"] == "local, moves nothing" and not counts
    assert free or advice["price"] == f"{sent} from this rank", f"{counts}:\n{text}"


# ---- the words -------------------------------------------------------------------------------------------------


@pytest.fixture
def mesh(make_mesh):
    return make_mesh(**ONE_AXIS)


def test_a_message_names_operation_tensors_shapes_placements_and_the_line(mesh):
    x, up = mp.zeros((8, 16), mesh, name="x", tp=Shard(1)), mp.parameter("mlp.up", (16, 64), mesh)
    with pytest.raises(PlacementError) as caught:
        x @ up
    sent = human_bytes(x.local.nbytes if mesh.size > 1 else 0)
    assert str(caught.value) == (
        "contract: 'x' (8, 16; tp=Shard(1)) by 'mlp.up' (16, 64)\n"
        "  dim 1 of 'x' is sharded over axis 'tp', dim 0 of 'mlp.up' is whole.\n"
        "  Write  mlp.up.redistribute(tp=Shard(0))  (local, moves nothing),"
        f'  or  x.allgather("tp")  ({sent} from this rank)'
    )


def test_the_two_classical_mistakes(mesh):
    product_ = mp.zeros((8, 4), mesh, name="y", tp=Partial())
    with pytest.raises(
        PlacementError, match=r"'y' is Partial on axis 'tp', 'bias' is not: it would be added once on"
    ):
        product_ + mp.zeros((4,), mesh, name="bias")
    with pytest.raises(
        PlacementError, match=r"'y' is Partial on axis 'tp', and the operation is not linear in it"
    ):
        product_.gelu()


def test_tensors_of_different_meshes_do_not_mix(mesh):
    other = mp.Mesh(ranks=[mesh.world.rank if mesh.size > 1 else 0], device=mesh.xp)
    with pytest.raises(PlacementError, match=r"add: 'x' \(5\).*'y' \(5\).*different meshes"):
        mp.zeros((5,), mesh, name="x") + mp.zeros((5,), other, name="y")


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (
            lambda x, y: x + y,
            ValueError,
            r"add: 'x' \(5, 3\) float32 by 'y' \(4, 2\) float32: shapes .* do not broadcast",
        ),
        (lambda x, y: x @ y, ValueError, r"contract: \(5, 3\) with \(4, 2\): \(3,\) against \(4,\)"),
        (
            lambda x, y: x.reshape(4, 4),
            ValueError,
            r"reshape of \(5, 3\) to \(4, 4\): the numbers of elements differ",
        ),
        (lambda x, y: x.reshape(-1, -1), ValueError, "reshape"),
        (lambda x, y: x.reshape(-1, 4), ValueError, "reshape"),
        (
            lambda x, y: x.permute(0, 0),
            ValueError,
            r"permute\(0, 0\) of a tensor of 2 dims: name each dim once",
        ),
        (lambda x, y: x.sum(2), ValueError, "dim 2 of a tensor of 2 dims"),
        (lambda x, y: x.softmax(-3), ValueError, "dim -3 of a tensor of 2 dims"),
        (
            lambda x, y: mp.concatenate([x, y]),
            ValueError,
            r"concatenate along dim 0: shapes .* differ elsewhere",
        ),
        (lambda x, y: x.allreduce(), PlacementError, r'name the axis, as x.allreduce\("tp"\)'),
        (lambda x, y: x.allreduce("tq"), PlacementError, "axis 'tq' is not one of tp, dp"),
        (lambda x, y: x.redistribute(tq=Shard(0)), PlacementError, "axis 'tq' is not an axis of the mesh"),
        (lambda x, y: x.redistribute(tp=Shard(2)), PlacementError, r"Shard\(2\) of a tensor of 2 dims"),
        (lambda x, y: x.reduce_scatter("tp", dim=2), ValueError, "dim 2 of a tensor of 2 dims"),
        (lambda x, y: x[0, 0].transpose(0, 1), (ValueError, IndexError), "dim"),
        (lambda x, y: x @ x[0], ValueError, r"\(5, 3\)"),
        (lambda x, y: mp.layer_norm(x, y, y), ValueError, "layer_norm"),
        (mp.biased_gelu, ValueError, r"biased_gelu: .*\(…, F\) and \(F,\) are wanted"),
        (
            lambda x, y: mp.bias_dropout_add(x, y, x),
            ValueError,
            r"bias_dropout_add: .*\(C,\) and \(…, C\) are wanted",
        ),
        (lambda x, y: mp.bias_dropout_add(x, None, x[0]), ValueError, "no bias and a residual"),
        (
            lambda x, y: mp.bias_dropout_add(x, None, x, 0.5),
            TypeError,
            r"p=0.5 wants a noise: pass noise=Noise",
        ),
        (
            lambda x, y: mp.feed_forward(x, x.transpose(0, 1), x[0], y),
            ValueError,
            r"feed_forward: .*\(F, D\) are wanted",
        ),
        (mp.embedding, TypeError, "ids"),
    ],
)
def test_other_mistakes_have_messages_too(wrong, error, message, mesh):
    x, y = mp.zeros((5, 3), mesh, name="x"), mp.zeros((4, 2), mesh, name="y")
    with pytest.raises(error, match=message):
        wrong(x, y)
