"""torch's own tensor parallelism: DTensor over gloo, the vocabulary cut as well."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from shape import Shape
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    loss_parallel,
    parallelize_module,
)
from torch_model import GPT, Form, load, torch_weights


def make(s: Shape) -> Form:
    model = GPT(s)
    load(model, torch_weights(s))
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    plan: dict[str, Any] = {
        "embedding": RowwiseParallel(input_layouts=Replicate()),
        "head": ColwiseParallel(output_layouts=Shard(-1), use_local_output=False),
    }
    for i in range(s.layers):
        plan |= {f"blocks.{i}.{name}": ColwiseParallel() for name in ("qkv", "up")}
        plan |= {f"blocks.{i}.{name}": RowwiseParallel() for name in ("out", "down")}
    parallelize_module(model, mesh, plan)
    model.tie()
    return Form(model, loss_parallel)
