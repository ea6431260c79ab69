"""A rank of torch's side. Ranks meet by gloo."""

from __future__ import annotations

from contextlib import nullcontext
from importlib import import_module
from typing import Any

import torch
import torch.distributed as dist
from shape import Shape, batch, rows
from torch import Tensor, nn
from torch_model import GPT, Form, load, make_optimizer, torch_weights
from turns import Player


def make_form(s: Shape, mode: str) -> Form:
    if mode in ("dtensor", "hand"):
        form: Form = import_module(f"torch_{mode}").make(s)
        return form
    model = GPT(s)
    load(model, torch_weights(s))
    if mode == "dp":
        return Form(nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True), nullcontext)
    return Form(model, nullcontext)


def prepare(job: dict[str, Any]) -> Player:
    s, mode, rank, ranks = Shape(**job["shape"]), job["mode"], job["rank"], job["ranks"]
    torch.set_num_threads(job["threads"])
    if ranks > 1:
        dist.init_process_group("gloo", init_method=f"file://{job['store']}", rank=rank, world_size=ranks)
    model, around = make_form(s, mode)
    optimizer = make_optimizer(model)
    mine = rows(s, rank, ranks) if mode == "dp" else rows(s, 0, 1)
    share = (mine.stop - mine.start) / s.batch  # of the step's tokens
    uneven = share * ranks if mode == "dp" else 1.0  # DDP takes the mean over ranks, whatever their rows
    counts = share if mode == "dp" or rank == 0 else 0.0  # of the loss, once

    def make(step: int) -> list[Tensor]:
        return [torch.from_numpy(ids[mine]).clone() for ids in batch(s, step)]

    def step(pair: list[Tensor]) -> float:
        with around():
            loss = model(*pair)
            (loss if uneven == 1.0 else loss * uneven).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return (loss.to_local() if mode == "dtensor" else loss).item() * counts

    return Player(make, step, {"torch": torch.__version__})
