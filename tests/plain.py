"""Plain formulas in float64, as a textbook writes them, and their exact gradients: what kernels are compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def gelu(x: Any) -> Any:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def softmax(x: Any, dim: int = -1) -> Any:
    return np.exp(x) / np.exp(x).sum(dim, keepdims=True)


def layer_norm(x: Any, gain: Any, bias: Any, eps: float) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred * centred).mean(-1, keepdims=True) + eps) * gain + bias


def rms_norm(x: Any, gain: Any, eps: float) -> Any:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * gain


def swiglu(x: Any) -> Any:
    a, b = x[..., 0, :], x[..., 1, :]
    return a * sigmoid(a) * b


def rotary(x: Any, positions: Any, base: float) -> Any:
    """Channels i and i + D/2 as one complex number, times exp(i·angle); (…, T, H, D)."""
    half = x.shape[-1] // 2
    angles = np.asarray(positions)[:, None, None] / base ** (2 * np.arange(half) / (2 * half))
    turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angles)
    return np.concatenate([turned.real, turned.imag], -1)


def attention(q: Any, k: Any, v: Any, scale: float, causal: bool) -> Any:
    """(B, T, H, D), (B, S, K, D), (B, S, K, D) → (B, T, H, D): the whole matrix of scores; keys repeated to H heads."""
    k, v = (np.repeat(x, q.shape[2] // x.shape[2], 2) for x in (k, v))
    seen = mask(q.shape[1], k.shape[1], causal)
    weights = np.exp(scale * np.einsum("bthd,bshd->bhts", q, k)) * seen
    return np.einsum("bhts,bshd->bthd", weights / weights.sum(-1, keepdims=True), v)


def attention_lse(q: Any, k: Any, scale: float, causal: bool) -> Any:
    """The log-sum-exp of each row of scores: (B, H, T)."""
    k = np.repeat(k, q.shape[2] // k.shape[2], 2)
    weights = np.exp(scale * np.einsum("bthd,bshd->bhts", q, k))
    return np.log((weights * mask(q.shape[1], k.shape[1], causal)).sum(-1))


def mask(queries: int, keys: int, causal: bool) -> Any:
    """1 where a query sees a key: the last query sees all keys, the one before it one less."""
    return np.tri(queries, keys, keys - queries if causal else keys)


def gradient(function: Callable[[Any], Any], x: Any, g: Any) -> Any:
    """Σ g·∂f/∂x for each element of x, exact to rounding: the imaginary part of g·f(x + ih)/h. Squire & Trapp 1998."""
    step = 1e-30
    found = np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        moved = x.astype(complex)
        moved[place] += 1j * step
        found[place] = np.sum(g * function(moved)).imag / step
    return found


def disguised(x: Any) -> dict[str, Any]:
    """The same numbers in other orders of memory."""
    if x.ndim == 0:
        return {"0-d": x}
    wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
    wide[..., ::2] = x
    return {
        "contiguous": x,
        "columns first": np.asfortranarray(x),
        "every second": wide[..., ::2],
        "backwards": x[::-1].copy()[::-1],
    }
