"""``zero_memory.py STAGES [BYTES]`` trains a GPT: nearly all of its memory are weights, gradients and optimizer state.

For each of the stages ("03": two runs) rank 0 prints the peak of the bytes that arrays took (tracemalloc counts them)
and the losses. With BYTES the process may take so many beyond what it has before the model is made.
"""

from __future__ import annotations

import gc
import resource
import sys
import tracemalloc

from mpipar import Mesh
from mpipar.data import Batches, Corpus, TextBatches
from mpipar.job import world
from mpipar.models import GPT, GPTConfig
from mpipar.optim import AdamW, clip_grad_norm
from mpipar.parallel import sharded, sync_gradients, sync_in_backward

WIDTH, LAYERS = 256, 8
LAYER = (
    16 * 12 * WIDTH**2
)  # bytes of weights, gradients and two moments of a block in float32, biases left out
TEXT = memoryview(bytes(7 * i * i % 251 for i in range(400)))


def main(stages: str, most: int) -> None:
    mesh = Mesh(dp=world().size)
    warm_up(mesh)
    if most:
        limit = data_bytes() + most
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    else:
        tracemalloc.start()
    for zero in map(int, stages):
        gc.collect()  # the model before
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        losses = train(mesh, zero)
        if mesh.rank == 0:
            peak = tracemalloc.get_traced_memory()[1] - before
            print(f"zero {zero} peak {peak} losses {' '.join(f'{loss:.9f}' for loss in losses)}")


def train(mesh: Mesh, zero: int) -> list[float]:
    batches = Batches(TextBatches(Corpus(TEXT, TEXT, 1), 0, 4, 2), mesh)
    shape = GPTConfig(256, 2, LAYERS, 4, WIDTH, seed=1)
    model = sharded(lambda: GPT(shape, mesh), zero)
    optimizer = AdamW(model.parameters(), 1e-3)
    losses = []
    for step in range(2):
        for part in batches.training(step):
            loss = model.loss(part.tokens, part.targets) / batches.tokens
            sync_in_backward(model)
            loss.backward()
            losses.append(loss.detach().allreduce("dp", "tp").item())
        sync_gradients(model)
        clip_grad_norm(model.parameters(), 1.0)
        optimizer.step()
    return losses


def warm_up(mesh: Mesh) -> None:
    """MPI and BLAS take memory of their own."""
    x = mesh.xp.full((300, 300), 1.0, "float32")
    mesh.apart("dp").iallreduce(mesh["dp"].allreduce(mesh.xp.matmul(x, x))).wait()


def data_bytes() -> int:
    """What the kernel counts against RLIMIT_DATA."""
    with open("/proc/self/status") as status:
        (line,) = (line for line in status if line.startswith("VmData"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0)
