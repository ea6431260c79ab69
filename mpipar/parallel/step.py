"""One rank's part of a step of a pipeline: a list of actions, run as it is written.

Each action is a method. A send never blocks: `isend` starts it, and its array is kept until it has gone. A receive
waits for its message, which it knows by its tag, whatever order messages come in. So nothing depends on how much an
MPI sends at once, and a list that `check` has passed does not deadlock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from mpipar.backend import Array
from mpipar.comm import Comm
from mpipar.comm.handle import Handle
from mpipar.comm.steps import LAST_TAG
from mpipar.errors import GraphError
from mpipar.layout import Layout
from mpipar.mesh import Mesh
from mpipar.parallel.schedule import Action, Schedule
from mpipar.random import Noise
from mpipar.tensor import Tensor
from mpipar.tensor.places import gradient_dtype
from mpipar.tensor.split import Deferred, backward_input
from mpipar.tensor.tape import Leaf, Node, backward

Place: TypeAlias = tuple[int, int]  # stage and micro-batch


class Stage(Protocol):
    """A part of a model, as `models.gpt_stages` makes them: a Module, too, so that its weights are found."""

    is_last: bool

    @property
    def context(self) -> int: ...
    def __call__(self, x: Tensor, noise: Noise | None = None, /) -> Tensor: ...
    def loss(self, x: Tensor, targets: Tensor, noise: Noise | None = None, /) -> Tensor: ...
    def between(self, tokens: Tensor, /) -> tuple[Layout, str]:
        """Layout and dtype of what goes from one stage to the next where the first one has these tokens."""


@dataclass(slots=True)
class Live:
    """What is kept of a forward until its backward has run."""

    x: Tensor | None  # the input, a leaf
    root: Node | Leaf  # the end of the tape
    seed: Array | None  # of the loss; others get theirs from the stage after
    later: Deferred | None = None


class Step:
    """What one rank keeps during a step. `run` gives what a stage makes of x (None: of the tokens) of a micro-batch."""

    def __init__(
        self, schedule: Schedule, stages: Mapping[int, Stage], mesh: Mesh, comm: Comm,
        run: Callable[[Stage, Tensor | None, int], Tensor], tokens: Sequence[Tensor],
    ) -> None:  # fmt: skip
        self.schedule, self.stages, self.mesh, self.comm = schedule, stages, mesh, comm
        self._run, self._tokens = run, tokens
        self._inputs: dict[Place, Array] = {}  # of a stage, which came from the stage before
        self._outputs: dict[Place, Array] = {}  # on their way to the stage after
        self._seeds: dict[Place, Array] = {}  # gradients of outputs, which came from the stage after
        self._gradients: dict[Place, Array] = {}  # of inputs, on their way to the stage before
        self._live: dict[Place, Live] = {}
        self._sent: list[Handle] = []
        self.live_at_most = 0
        self.results: list[Tensor] = []  # of the last stage

    def run(self, actions: Iterable[Action]) -> None:
        for kind, stage, k in actions:
            getattr(self, kind)(stage, k)

    # ---- computations -----------------------------------------------------------------------------------

    def forward(self, stage: int, k: int) -> None:
        x = self._leaf(stage, k) if stage else None
        y = self._run(self.stages[stage], x, k)
        if self.stages[stage].is_last:
            self.results.append(y.detach())
        else:
            self._hand(self._outputs, self._inputs, (stage, k), (stage + 1, k), y.local)
        if y.node is not None:
            self._live[stage, k] = Live(x, y.node, y.root()[1] if self.stages[stage].is_last else None)
            self.live_at_most = max(self.live_at_most, len(self._live))

    def backward(self, stage: int, k: int) -> None:
        live = self._kept(stage, k)
        del self._live[stage, k]
        backward(live.root, self._seed(live, stage, k), self.mesh.xp, keep=False)
        self._give_back(live, stage, k)

    def backward_input(self, stage: int, k: int) -> None:
        live = self._kept(stage, k)
        inputs = [] if live.x is None else [live.x.leaf]
        live.later = backward_input(live.root, self._seed(live, stage, k), self.mesh.xp, inputs)
        self._give_back(live, stage, k)
        live.x = None

    def backward_weight(self, stage: int, k: int) -> None:
        later = self._live.pop((stage, k)).later
        assert later is not None, "check has seen backward_input before"
        later.run()

    # ---- messages ---------------------------------------------------------------------------------------

    def receive_forward(self, stage: int, k: int) -> None:
        layout, dtype = self.stages[stage].between(self._tokens[k])
        shape = layout.local_shape(self.mesh.coords)
        self._inputs[stage, k] = self._receive(shape, dtype, stage - 1, self._tag(0, stage, k))

    def send_forward(self, stage: int, k: int) -> None:
        self._send(self._outputs.pop((stage, k)), stage + 1, self._tag(0, stage + 1, k))

    def receive_backward(self, stage: int, k: int) -> None:
        layout, dtype = self.stages[stage].between(self._tokens[k])
        shape = layout.dual.local_shape(self.mesh.coords)  # each sends its own terms where it is Partial
        dtype = gradient_dtype(self.mesh, dtype)
        self._seeds[stage, k] = self._receive(shape, dtype, stage + 1, self._tag(1, stage, k))

    def send_backward(self, stage: int, k: int) -> None:
        self._send(self._gradients.pop((stage, k)), stage - 1, self._tag(1, stage - 1, k))

    def sync(self, *_: int) -> None:
        """All that was sent has gone. Moving the gradients is the caller's, who may want to add to them before."""
        for handle in self._sent:
            handle.wait()
        self._sent = []

    # ---- helpers ----------------------------------------------------------------------------------------

    def _leaf(self, stage: int, k: int) -> Tensor:
        """The input of a stage: what came, as the end of the tape here."""
        x, (layout, _) = self._inputs.pop((stage, k)), self.stages[stage].between(self._tokens[k])
        return Tensor(x, self.mesh, layout, node=Leaf(self.mesh.xp, layout.dual, "input of a stage", x.shape))

    def _kept(self, stage: int, k: int) -> Live:
        if (stage, k) not in self._live:
            raise GraphError(f"backward of stage {stage}, micro-batch {k}: nothing in it requires a gradient")
        return self._live[stage, k]

    def _seed(self, live: Live, stage: int, k: int) -> Array:
        return self._seeds.pop((stage, k)) if live.seed is None else live.seed

    def _give_back(self, live: Live, stage: int, k: int) -> None:
        """The gradient of the input goes to the stage before; zeros where nothing depended on it."""
        if live.x is None:
            return
        xp, value = self.mesh.xp, live.x.leaf.value
        g = xp.zeros(live.x.local.shape, gradient_dtype(self.mesh, live.x.dtype)) if value is None else value
        self._hand(self._gradients, self._seeds, (stage, k), (stage - 1, k), g)

    def _hand(
        self, away: dict[Place, Array], here: dict[Place, Array], mine: Place, theirs: Place, x: Array
    ) -> None:
        """To the neighbouring stage: by a message, or at once where it lives on this rank too."""
        if self.schedule.rank_of(mine[0]) == self.schedule.rank_of(theirs[0]):
            here[theirs] = x
        else:
            away[mine] = x

    def _tag(self, way: int, stage: int, k: int) -> int:
        """Of the message to `stage`: forward (0) or backward (1). Equal ones, very far apart, arrive in order."""
        return (2 * (stage * len(self._tokens) + k) + way) % LAST_TAG

    def _send(self, x: Array, stage: int, tag: int) -> None:
        self._sent = [handle for handle in self._sent if not handle.test()]  # what has gone is freed
        self._sent.append(self.comm.isend(x, self.schedule.rank_of(stage), tag))

    def _receive(self, shape: tuple[int, ...], dtype: str, stage: int, tag: int) -> Array:
        return self.comm.recv(shape, dtype, self.schedule.rank_of(stage), tag)
