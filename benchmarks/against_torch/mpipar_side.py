"""A rank of mpipar's side, under mpirun. The step is that of train.py, without clipping on both sides."""

from __future__ import annotations

from typing import Any

import numpy as np
from shape import BETAS, DECAY, EPS, LR, Shape, batch, rows, weights
from turns import Player

from mpipar import Mesh, Shard, Tensor, __version__, from_local
from mpipar.job.threads import use_threads
from mpipar.models import GPT, GPTConfig
from mpipar.optim import AdamW
from mpipar.parallel import sync_gradients


def prepare(job: dict[str, Any]) -> Player:
    s, mode, ranks = Shape(**job["shape"]), job["mode"], job["ranks"]
    use_threads(job["threads"])
    mesh = Mesh(dp=ranks if mode == "dp" else 1, tp=ranks if mode == "tp" else 1)
    model = GPT(GPTConfig(s.vocabulary, s.context, s.layers, s.heads, s.width), mesh)
    model.load_state_dict(weights(s))
    optimizer = AdamW(model.parameters(), LR, betas=BETAS, eps=EPS, weight_decay=DECAY)
    mine = rows(s, mesh.coords[mesh.grid.axes.index("dp")], mesh.shape["dp"])

    def make(step: int) -> list[Tensor]:
        return [
            from_local(np.ascontiguousarray(ids[mine]), mesh, (s.batch, s.context), dp=Shard(0))
            for ids in batch(s, step)
        ]

    def step(pair: list[Tensor]) -> float:
        loss = model.loss(*pair) / s.tokens
        loss.backward()
        sync_gradients(model)
        optimizer.step()
        return loss.local.item() if loss.layout.is_first(mesh.coords) else 0.0

    return Player(
        make, step, {"mpipar": __version__, "numpy": np.__version__, "computed_by": mesh.xp.computed_by()}
    )
