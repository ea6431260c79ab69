"""Optimizers, gradient clipping and learning-rate schedules."""

from __future__ import annotations

from mpipar.optim.adam import Adam, AdamW
from mpipar.optim.clip import clip_grad_norm
from mpipar.optim.common import decays
from mpipar.optim.scale import LossScale, skip_step
from mpipar.optim.schedule import constant, cosine
from mpipar.optim.sgd import SGD

__all__ = [
    "SGD", "Adam", "AdamW", "LossScale", "clip_grad_norm", "constant", "cosine", "decays", "skip_step",
]  # fmt: skip
