"""Optimizers against the formulas of the papers, on every layout of a weight, over several steps, to 1e-14.

A failure names the placements of the weight, the parameter and the step. Where all layouts fail the rule is wrong;
where one does, a piece of the state or of the gradient is another than that of the weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from grids import ONE_AXIS, TWO_AXES, grid_name
from weights import every_layout, send_gradient, weight, whole_gradient

from mpipar import Mesh, Tensor
from mpipar.layout import Placement
from mpipar.optim import SGD, Adam, AdamW
from mpipar.parallel import sync_gradients

DECAY = 0.1
RATES = (0.3, 0.1, 0.2)  # the learning rate is set anew before each step
SHAPES = {"layer.weight": (5, 3), "layer.bias": (3,), "norm.gain": (2,), "scale": ()}
Update = Callable[[Any, Any, float], Any]  # (w, g, lr) → w


def sgd(momentum: float = 0.0, nesterov: bool = False, decay: float = 0.0) -> Update:
    """Sutskever et al. 2013, with the velocity free of the learning rate."""
    v = 0.0

    def update(w: Any, g: Any, lr: float) -> Any:
        nonlocal v
        g = g + decay * w
        v = momentum * v + g
        return w - lr * (g + momentum * v if nesterov else v)

    return update


def adam(beta1: float, beta2: float, eps: float, decay: float = 0.0, decoupled: bool = False) -> Update:
    """Kingma & Ba 2015, algorithm 1; `decoupled`: Loshchilov & Hutter 2019, algorithm 2."""
    m = v = t = 0.0

    def update(w: Any, g: Any, lr: float) -> Any:
        nonlocal m, v, t
        t += 1
        g = g if decoupled else g + decay * w
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        change = (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
        return w - lr * (change + (decay * w if decoupled else 0))

    return update


class Case(NamedTuple):
    """An optimizer, and its formula for a parameter with that decay."""

    make: Callable[[list[Tensor]], SGD | Adam | AdamW]
    formula: Callable[[float], Update]


CASES = {
    "sgd": Case(lambda ps: SGD(ps, 1.0), lambda decay: sgd()),
    "sgd, decay": Case(lambda ps: SGD(ps, 1.0, weight_decay=DECAY), lambda decay: sgd(decay=decay)),
    "momentum": Case(
        lambda ps: SGD(ps, 1.0, momentum=0.9, weight_decay=DECAY), lambda decay: sgd(0.9, decay=decay)
    ),
    "nesterov": Case(
        lambda ps: SGD(ps, 1.0, momentum=0.9, nesterov=True, weight_decay=DECAY),
        lambda decay: sgd(0.9, True, decay),
    ),
    "adam": Case(lambda ps: Adam(ps, 1.0), lambda decay: adam(0.9, 0.999, 1e-8)),
    "adam, decay": Case(
        lambda ps: Adam(ps, 1.0, betas=(0.8, 0.9), eps=1e-3, weight_decay=DECAY),
        lambda decay: adam(0.8, 0.9, 1e-3, decay),
    ),
    "adamw": Case(lambda ps: AdamW(ps, 1.0), lambda decay: adam(0.9, 0.95, 1e-8, decay, True)),
    "adamw, other betas": Case(
        lambda ps: AdamW(ps, 1.0, betas=(0.8, 0.9), eps=1e-3, weight_decay=DECAY),
        lambda decay: adam(0.8, 0.9, 1e-3, decay, True),
    ),
}


def steps(optimizer: Any, parameters: list[Tensor]) -> Iterator[int]:
    """Takes the steps, each with a gradient of its own."""
    for step, lr in enumerate(RATES):
        for p in parameters:
            send_gradient(p, f"{p.name} {step}")
        sync_gradients(parameters)
        optimizer.lr = lr
        optimizer.step()
        yield step


def compare(case: Case, mesh: Mesh, placements: dict[str, Placement]) -> None:
    """The parameters after each step against the formula; the weight has these placements, the others are whole."""
    parameters = [
        weight(name, shape, mesh, **(placements if name == "layer.weight" else {}))
        for name, shape in SHAPES.items()
    ]
    expected = {p.name: p.numpy() for p in parameters}
    updates = {p.name: case.formula(DECAY if decays(p) else 0.0) for p in parameters}
    for step in steps(case.make(parameters), parameters):
        for p in parameters:
            w, g = expected[p.name], whole_gradient(p, f"{p.name} {step}")
            expected[p.name] = updates[p.name](w, g, RATES[step])
            what = f"{placements}, {p.name!r} after step {step}"
            np.testing.assert_allclose(p.numpy(), expected[p.name], rtol=1e-14, atol=1e-14, err_msg=what)


def decays(p: Tensor) -> bool:
    return p.name in ("layer.weight", "scale")


@pytest.mark.parametrize("name", CASES)
def test_every_rule_follows_its_formula(name, make_mesh):
    mesh = make_mesh(**ONE_AXIS)
    for placements in every_layout(mesh, SHAPES["layer.weight"]):
        compare(CASES[name], mesh, placements)


@pytest.mark.parametrize("name", ["nesterov", "adamw, other betas"])  # those with the most state and terms
@pytest.mark.parametrize("axes", TWO_AXES, ids=grid_name)
def test_every_layout_follows_the_formula(name, axes, make_mesh, count_cases):
    mesh = make_mesh(**axes)
    for placements in every_layout(mesh, SHAPES["layer.weight"]):
        compare(CASES[name], mesh, placements)
        count_cases["layouts of optimizers"] += 1


@pytest.mark.parametrize("make", [SGD, Adam, AdamW])
def test_what_decays_can_be_chosen(make, make_mesh):
    """With a gradient of 0 nothing but the decay moves a weight."""
    mesh = make_mesh(**ONE_AXIS)
    parameters = [weight(name, (4,), mesh) for name in ("chosen", "layer.weight", "layer.bias")]
    before = [p.numpy() for p in parameters]
    optimizer = make(parameters, 0.1, weight_decay=0.5, decays=lambda p: p.name in ("chosen", "layer.bias"))
    sync_gradients(parameters)
    optimizer.step()
    moved = [bool((p.numpy() != w).any()) for p, w in zip(parameters, before, strict=True)]
    assert moved == [True, False, True]


@pytest.mark.parametrize(("make", "rate"), [(SGD, 1.0), (AdamW, 0.1)])
def test_float32_weights_stay_float32(make, rate, make_mesh):
    p = weight("w", (5,), make_mesh(**ONE_AXIS), "float32")
    send_gradient(p, "g")
    sync_gradients([p])
    make([p], rate).step()
    assert p.dtype == "float32"
