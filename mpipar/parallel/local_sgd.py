"""Local SGD over a slow axis: replicas train alone, then meet. Stich 2019; DiLoCo: Douillard et al. 2023.

Each replica is a mesh of its own (`replica_mesh`), with its own optimizer and its share of the data, so that inside it
Replicate means the same bits as everywhere. Every `inner_steps` steps the mean of what the replicas have changed is
taken as a gradient of the weights from which they began, and an outer SGD with Nesterov momentum goes a step along it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

from mpipar.backend import Array
from mpipar.comm import Comm
from mpipar.errors import UsageError
from mpipar.job import world
from mpipar.layout import Layout, Shard
from mpipar.mesh import Mesh
from mpipar.tensor import Tensor, changes


def replica_mesh(mesh: Mesh, axis: str = "dp") -> Mesh:
    """The ranks that share my place on `axis`, as a mesh of the other axes. Collective."""
    others = [other for other in mesh.grid.axes if other != axis]
    ranks = mesh.comm(*others).allgather_object(world().rank)
    return Mesh(ranks=ranks, device=mesh.xp, **{other: mesh.shape[other] for other in others})


class LocalSGD:
    """The outer optimizer. Call `step` after each step of the inner one.

    `parameters` are those of this replica; `axis` of `mesh`, the mesh of all ranks, is the one that joins replicas.
    With ``inner_steps=1, lr=1, momentum=0`` a step is the plain mean of the replicas' weights.
    """

    def __init__(
        self, parameters: Sequence[Tensor], mesh: Mesh, axis: str = "dp", *, inner_steps: int = 32, lr: float = 0.7,
        momentum: float = 0.9,
    ) -> None:  # fmt: skip
        if inner_steps < 1:
            raise UsageError(f"LocalSGD(inner_steps={inner_steps}): at least 1 is wanted")
        for p in parameters:
            if p.mesh.size * mesh.shape[axis] != mesh.size:
                raise UsageError(
                    f"LocalSGD: {p.name!r} is on {p.mesh}, a replica over {axis!r} has {mesh.size // mesh.shape[axis]} "
                    f'of the ranks: make the model on replica_mesh(mesh, "{axis}")'
                )
        self.parameters, self.mesh, self.axis = list(parameters), mesh, axis
        self.inner_steps, self.lr, self.momentum = inner_steps, lr, momentum
        self.done = 0  # inner steps since the replicas met
        self.anchors = {p.name: p.mesh.xp.copy(p.mesh.xp.widen(p.local)) for p in self.parameters}
        self.velocity = {name: mesh.xp.zeros(x.shape, x.dtype) for name, x in self.anchors.items()}

    def step(self) -> bool:
        """Counts an inner step; after `inner_steps` of them all replicas meet. True where they did. One allreduce."""
        self.done += 1
        if self.done < self.inner_steps:
            return False
        self.done = 0
        xp, comm = self.mesh.xp, self.mesh[self.axis]
        gradients = mean_over(comm, [self.anchors[p.name] - xp.widen(p.local) for p in self.parameters])
        for p, gradient in zip(self.parameters, gradients, strict=True):
            anchor, velocity = self.anchors[p.name], self.velocity[p.name]
            xp.sgd(anchor, gradient, velocity, self.lr, self.momentum, self.momentum > 0, 0.0)
            xp.copy_into(p.local, xp.cast(anchor, p.dtype))
            changes.note(xp, p.local)
        return True

    def state_dict(self) -> dict[str, Any]:
        """Anchors and velocities, alike in all replicas; `done`; and the weights, which are those of this replica."""
        state: dict[str, Any] = {"done": self.done}
        for p in self.parameters:
            state[f"anchor/{p.name}"] = Tensor(self.anchors[p.name], p.mesh, p.layout)
            state[f"velocity/{p.name}"] = Tensor(self.velocity[p.name], p.mesh, p.layout)
        return {name: self.stacked(x) if isinstance(x, Tensor) else x for name, x in state.items()}

    def stacked(self, x: Tensor) -> Tensor:
        """A tensor of this replica as a row on the mesh of all, cut over the axis: what a checkpoint can hold."""
        cuts = {axis: Shard(dim + 1) for dim, cut in enumerate(x.layout.cuts) for axis in cut.axes}
        shape = (self.mesh.shape[self.axis], *x.shape)
        layout = Layout.make(self.mesh.grid, shape, {self.axis: Shard(0), **cuts})
        return Tensor(x.local.reshape(1, *x.local.shape), self.mesh, layout)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.done = state["done"]
        for kind, arrays in (("anchor", self.anchors), ("velocity", self.velocity)):
            for name, mine in arrays.items():
                self.mesh.xp.copy_into(mine, state[f"{kind}/{name}"].local.reshape(mine.shape))


def mean_over(comm: Comm, arrays: Sequence[Array]) -> list[Array]:
    """The mean over the ranks of each of the arrays, which have one dtype: one allreduce for all."""
    xp = comm.xp
    flat = comm.allreduce(xp.concatenate([x.reshape(-1) for x in arrays], 0)) / comm.size
    starts = accumulate((x.size for x in arrays), initial=0)
    return [flat[a:b].reshape(x.shape) for x, (a, b) in zip(arrays, pairwise(starts), strict=True)]
