"""Rows of tokens → Tensors, cut over the data axes and into micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mpipar.blocks import balanced, offsets
from mpipar.comm import Comm
from mpipar.data.windows import TextBatches
from mpipar.layout import Layout, Shard
from mpipar.mesh import Mesh
from mpipar.tensor import Tensor, from_local


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass: tokens and targets (rows, context) of int64, cut over the data axes, and its rows' place."""

    tokens: Tensor
    targets: Tensor
    first_row: int  # in the step's whole batch
    last: bool  # of its batch

    @property
    def count(self) -> int:
        """Tokens over all ranks."""
        return self.targets.shape[0] * self.targets.shape[1]


@dataclass(frozen=True)
class Batches:
    """The batches of a run on a mesh. `micro_batch`: rows a forward pass on one dp rank, 0 for all of them.

    The rows of a step are cut first into micro-batches of `micro_batch`·dp rows and each of those over dp, so that a
    micro-batch is consecutive rows, every rank has the same number of them, and the last may be smaller. Where the mesh
    has replicas of dp ranks each, the rows are cut over replica, and within one over dp.
    `replicas`: where meshes train apart, the ranks that have my place in all of them; then the rows of a step are cut
    over them first, and this mesh has consecutive rows.
    """

    text: TextBatches
    mesh: Mesh
    micro_batch: int = 0
    replicas: Comm | None = None

    @property
    def axes(self) -> tuple[str, ...]:
        """Those that cut the rows."""
        return ("replica", "dp") if "replica" in self.mesh.shape else ("dp",)

    @property
    def tokens(self) -> int:
        """Tokens a step, over the ranks of this mesh."""
        return len(self._share(self.text.batch)) * self.text.context

    def training(self, step: int) -> Iterator[MicroBatch]:
        """The micro-batches of a step."""
        return self._cut(self.text.batch, lambda row: self.text.row(step, row))

    def validation(self, batches: int) -> Iterator[MicroBatch]:
        """The same whole batches each time, the same on every mesh."""
        rows = self.text.validation_rows(batches * self.text.batch)
        for start in range(0, len(rows), self.text.batch):
            batch = rows[start : start + self.text.batch]
            yield from self._cut(len(batch), batch.__getitem__)

    def _share(self, rows: int) -> range:
        """Of the rows of a batch those of this mesh."""
        if self.replicas is None:
            return range(rows)
        first = offsets(balanced(rows, self.replicas.size))
        return range(first[self.replicas.rank], first[self.replicas.rank + 1])

    def _cut(self, rows: int, row: Callable[[int], bytes]) -> Iterator[MicroBatch]:
        mine = self._share(rows)
        size = self.micro_batch * self.mesh.comm(*self.axes).size or max(1, len(mine))
        for first in mine[::size]:
            yield self._micro_batch(first, min(size, mine.stop - first), row, last=first + size >= mine.stop)

    def _micro_batch(self, first: int, rows: int, row: Callable[[int], bytes], last: bool) -> MicroBatch:
        xp, context = self.mesh.xp, self.text.context
        cuts: dict[str, Any] = dict.fromkeys(self.axes, Shard(0))
        mine = Layout.make(self.mesh.grid, (rows, context), cuts).piece(0, self.mesh.coords)
        text = b"".join(row(first + k) for k in mine)
        ids = xp.from_bytes(text, (len(mine), context + 1), self.text.corpus.dtype)

        def piece(name: str, start: int) -> Tensor:
            local = xp.contiguous(ids[:, start : start + context])
            return from_local(local, self.mesh, (rows, context), name=name, **cuts)

        return MicroBatch(piece("tokens", 0), piece("targets", 1), first, last)
