"""Optimizer steps in place against the papers' formulas in float64, over several steps.

A failure names the rule and the step after which the weights differ.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from under_test import xp

from mpipar.backend import numpy as cpu

RNG = np.random.default_rng(2)
LR, DECAY = 0.1, 0.02
BETA1, BETA2, EPS = 0.9, 0.95, 1e-8
SHAPES: list[tuple[int, ...]] = [(), (0, 3), (3, 4), (40_000,)]
BOUNDS = {"float64": 1e-13, "float32": 1e-5}


def start(shape: tuple[int, ...], dtype: str) -> tuple[Any, list[Any]]:
    """A weight and the gradients of five steps."""
    draw = RNG.normal(size=(6, *shape)).astype(dtype)
    return np.array(draw[0]), [np.array(grad) for grad in draw[1:]]


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("decay", [0.0, DECAY])
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd(momentum: float, nesterov: bool, decay: float, dtype: str) -> None:
    for shape in SHAPES:
        param, gradients = start(shape, dtype)
        w = param.astype(np.float64)
        velocity = np.zeros_like(param) if momentum else None
        v = np.zeros_like(w)
        for step, grad in enumerate(gradients):
            xp.sgd(param, grad, velocity, LR, momentum, nesterov, decay)
            g = grad + decay * w
            v = momentum * v + g
            w = w - LR * (g + momentum * v if nesterov else v)
            np.testing.assert_allclose(
                param, w, rtol=BOUNDS[dtype], atol=BOUNDS[dtype], err_msg=f"after step {step}"
            )
        if momentum:
            np.testing.assert_allclose(velocity, v, rtol=BOUNDS[dtype], atol=BOUNDS[dtype])


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("decay", [0.0, DECAY])
@pytest.mark.parametrize("decoupled", [True, False])
def test_adam(decoupled: bool, decay: float, dtype: str) -> None:
    for shape in SHAPES:
        param, gradients = start(shape, dtype)
        m, v = np.zeros_like(param), np.zeros_like(param)
        w = param.astype(np.float64)
        mean, square = np.zeros_like(w), np.zeros_like(w)
        for step, grad in enumerate(gradients, start=1):
            xp.adam(param, grad, m, v, step, LR, BETA1, BETA2, EPS, decay, decoupled)
            g = grad.astype(np.float64) if decoupled else grad + decay * w
            mean, square = BETA1 * mean + (1 - BETA1) * g, BETA2 * square + (1 - BETA2) * g * g
            hat = (mean / (1 - BETA1**step)) / (np.sqrt(square / (1 - BETA2**step)) + EPS)
            w = (w * (1 - LR * decay) if decoupled else w) - LR * hat
            np.testing.assert_allclose(
                param, w, rtol=BOUNDS[dtype], atol=BOUNDS[dtype], err_msg=f"after step {step}"
            )
        np.testing.assert_allclose(m, mean, rtol=BOUNDS[dtype], atol=BOUNDS[dtype])
        np.testing.assert_allclose(v, square, rtol=BOUNDS[dtype], atol=BOUNDS[dtype])


@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_the_gradient_stays_as_it_is(rule: str) -> None:
    param, (grad, *_) = start((3, 4), "float64")
    before = grad.copy()
    step(rule, param, grad)
    assert (grad == before).all()


@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_a_gradient_in_another_order_of_memory(rule: str) -> None:
    param, (grad, *_) = start((3, 4), "float64")
    other = param.copy()
    step(rule, param, grad)
    step(rule, other, np.asfortranarray(grad))
    assert (param == other).all()


@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_a_weight_that_is_not_contiguous_is_refused(rule: str) -> None:
    """NumPy's kernels work on flat views: never a silent update of a copy."""
    with pytest.raises(ValueError, match="copy"):
        step(rule, np.ones((4, 3)).T, np.ones((3, 4)), cpu)


@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_bfloat16_weights_with_float32_gradients(rule: str) -> None:
    """The weight is storage: the state is float32, and an update too small for its eight bits is lost, not doubled."""
    param = xp.full((3,), 1, "bfloat16")
    step(rule, param, np.ones(3, np.float32))
    assert param.dtype == xp.dtype("bfloat16")
    np.testing.assert_allclose(xp.widen(param), 1 - LR, rtol=2**-8)


def step(rule: str, param: Any, grad: Any, xp: Any = xp) -> None:
    if rule == "sgd":
        xp.sgd(param, grad, np.zeros_like(grad, order="C"), LR, 0.9, False, 0.0)
    else:
        zeros = np.zeros_like(grad, order="C")
        xp.adam(param, grad, zeros, zeros.copy(), 1, LR, BETA1, BETA2, EPS, 0.0, True)
