"""Reading a checkpoint into a model and an optimizer on any mesh: each rank reads the slices that it holds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpipar.checkpoint.fill import fill, piece_of
from mpipar.checkpoint.index import Index, Notes
from mpipar.checkpoint.places import candidates
from mpipar.checkpoint.state import MODEL, OPTIMIZER, State, Stateful, state_of
from mpipar.checkpoint.verify import verified
from mpipar.comm import Comm
from mpipar.errors import CheckpointError, UsageError
from mpipar.job.agree import on_each_rank, on_first_rank


@dataclass(frozen=True)
class Loaded:
    """The checkpoint that was read: where it lies, what it says of its run, and why newer ones were not taken."""

    path: Path
    notes: Notes
    refused: tuple[str, ...] = ()

    @property
    def step(self) -> int:
        return self.notes.step


def load(
    path: str | os.PathLike[str], model: Stateful, optimizer: Stateful | None = None, *, strict: bool = False,
    cast: bool = False, comm: Comm | None = None,
) -> Loaded | None:  # fmt: skip
    """Fills a model, and an optimizer if one is given, from the newest good checkpoint at `path`. Collective.

    `path` is a checkpoint, or the directory of several; None comes back where there is none. Every file is checked
    before a weight changes. One that is not as it was written is passed over for the next older one, and
    ``Loaded.refused`` says why. The mesh may be any.
    Raises CheckpointError with `strict`, and where no good one is left; UsageError where names or shapes are not those
    of the model, and for another dtype, unless ``cast=True``.
    """
    state = state_of(model, optimizer)
    comm = comm or next(iter(state.tensors.values())).mesh.whole.world
    found = newest(Path(path).expanduser(), comm, strict)
    if found is None:
        return None
    where, index, refused = found
    check_fit(where, index, state, comm, cast)
    on_each_rank(comm, lambda: fill(where, index, {name: piece_of(x) for name, x in state.tensors.items()}))
    model.load_state_dict(
        {name.removeprefix(MODEL): x for name, x in state.tensors.items() if name.startswith(MODEL)}
    )
    if optimizer is not None:
        tensors = {
            name.removeprefix(OPTIMIZER): x for name, x in state.tensors.items() if name.startswith(OPTIMIZER)
        }
        optimizer.load_state_dict(tensors | index.notes.optimizer)
    return Loaded(where, index.notes, tuple(refused))


def latest(directory: str | os.PathLike[str], comm: Comm, *, strict: bool = False) -> Path | None:
    """The newest checkpoint that holds what was written, the same on all ranks; every byte of it is read. Collective.

    None where there is no checkpoint. Raises CheckpointError where none is good, with `strict` where the newest is not.
    """
    found = newest(Path(directory).expanduser(), comm, strict)
    return None if found is None else found[0]


def newest(directory: Path, comm: Comm, strict: bool) -> tuple[Path, Index, list[str]] | None:
    """The newest good one, and why newer ones were refused."""
    there: list[Path] = on_first_rank(comm, lambda: listed(directory))
    refused: list[str] = []
    for path in there:
        try:
            return path, verified(path, comm), refused
        except CheckpointError as error:
            if strict:
                raise
            refused.append(str(error))
    if refused:
        raise CheckpointError("no good checkpoint is left:\n  " + "\n  ".join(refused))
    return None


def listed(directory: Path) -> list[Path]:
    try:
        return candidates(directory)
    except OSError as error:
        raise CheckpointError(f"{directory} cannot be read: {error.strerror}") from None


# ---- does it fit? ---------------------------------------------------------------------------------------


def check_fit(path: Path, index: Index, state: State, comm: Comm, cast: bool) -> None:
    """Raises UsageError, the same on all ranks, where the checkpoint is one of another model or optimizer."""
    groups = (MODEL,) if state.plain is None else (MODEL, OPTIMIZER)
    stored = {name for name in index.tensors if name.startswith(groups)}
    on_each_rank(comm, lambda: check_mine(path, index, state, cast))
    unknown = stored - state.tensors.keys()
    if any(comm.allgather_object(bool(unknown))):
        left = set.intersection(*comm.allgather_object(unknown))  # in a pipeline each rank knows some names
        if left:
            raise UsageError(f"{path} holds {shown(left)}, which the model does not have")


def check_mine(path: Path, index: Index, state: State, cast: bool) -> None:
    if state.plain is not None:
        check_optimizer(path, index, state.plain)
    missing = state.tensors.keys() - index.tensors.keys()
    if missing:
        raise UsageError(f"{path} lacks {shown(missing)}")
    for name, tensor in state.tensors.items():
        stored = index.tensors[name]
        if stored.shape != tensor.shape:
            raise UsageError(f"{path}: {name!r} is {stored.shape}, the model's is {tensor.shape}")
        if stored.dtype != str(tensor.dtype) and not cast:
            raise UsageError(
                f"{path}: {name!r} is {stored.dtype}, the model's is {tensor.dtype}; cast=True converts it"
            )


def check_optimizer(path: Path, index: Index, plain: Mapping[str, Any]) -> None:
    theirs = index.notes.optimizer
    if not isinstance(theirs, dict):
        raise UsageError(f"{path} holds no optimizer: load the weights alone")
    if theirs.get("kind") != plain.get("kind"):
        raise UsageError(
            f"{path} is of the optimizer {theirs.get('kind')}, this one is {plain.get('kind')}: load the weights alone"
        )


def shown(names: set[str]) -> str:
    first = sorted(names)[:3]
    return ", ".join(map(repr, first)) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
