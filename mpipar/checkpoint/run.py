"""A training run and its checkpoints: where they lie, whether one fits the settings, and going on from it.

They are in ``checkpoints`` below the directory of the run. The position in the data and all random numbers are
functions of the seed and the step, so the step is all that a run needs beside its tensors.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mpipar.checkpoint.index import INDEX, Notes, parse_index, read_index
from mpipar.checkpoint.loader import listed, load
from mpipar.checkpoint.places import below
from mpipar.checkpoint.saver import Saver
from mpipar.checkpoint.state import Stateful
from mpipar.comm import Comm
from mpipar.config import AUTO, NONE, TrainConfig, mesh_axes, spelling
from mpipar.errors import CheckpointError, UsageError
from mpipar.job import world
from mpipar.job.agree import on_first_rank
from mpipar.job.limit import TimeLimit
from mpipar.job.lock import Lock, refuse_locked
from mpipar.log import CHECKPOINTS, CONFIG, METRICS, check_out

# With another value of these the step would mean another place in the data, or the tensors another model.
FIXED = (
    "style", "layers", "heads", "kv_heads", "width", "context", "rope_base", "dtype", "optimizer", "batch", "seed",
    "outer",
)  # fmt: skip
SHAPE = ("style", "layers", "heads", "kv_heads", "width")  # of these, those that weights alone depend on
# These a user may change between two parts of a run; the numbers become others, so it is told.
TOLD = (
    "dropout", "steps", "lr", "warmup", "lr_schedule", "clip", "weight_decay", "val_batches",
    "inner_steps", "outer_lr", "outer_momentum",
)  # fmt: skip


# ---- before anything is made ----------------------------------------------------------------------------


def check_start(config: TrainConfig) -> tuple[Path, Notes] | None:
    """What can be wrong with --out, --resume and --init, on one rank and without a trace. Raises UsageError.

    Returns the checkpoint that the run will most likely go on from, at a first look; None where it starts afresh.
    """
    if config.out:
        refuse_locked(Path(config.out).expanduser())
    check_out(config.out, again=config.resume == AUTO)
    found = notes_to_resume(config)
    if found is not None:
        refuse_other_settings(config, *found)
        refuse_other_replicas(config, *found)
    elif config.init:
        shape = SHAPE if config.style == "llama" else (*SHAPE, "context")  # GPT-2's positions are weights
        refuse_other_settings(config, *newest_notes(config.init, "--init", config.strict), shape)
    return found


def notes_to_resume(config: TrainConfig) -> tuple[Path, Notes] | None:
    """What --resume names, at a first look."""
    if config.resume == NONE:
        return None
    if config.resume != AUTO:
        return newest_notes(config.resume, "--resume", config.strict)
    out = Path(config.out).expanduser()
    if listed(out / CHECKPOINTS):
        return newest_notes(config.out, "--resume auto", config.strict)
    if (out / METRICS).exists() and not was_to_go_on(out / CONFIG):
        raise UsageError(
            f"--resume auto: {config.out} holds the {METRICS} of a run that has no checkpoint: choose another --out"
        )
    return None


def was_to_go_on(config: Path) -> bool:
    """Whether a run had --resume auto: killed before its first checkpoint it may be started again in its place."""
    try:
        return tomllib.loads(config.read_text(encoding="utf-8")).get("resume") == AUTO
    except (OSError, ValueError):
        return False


def newest_notes(path: str, flag: str, strict: bool) -> tuple[Path, Notes]:
    """What the newest checkpoint with a sound index says of its run."""
    there = listed(below(Path(path)))
    if not there:
        raise UsageError(f"{flag} {path}: no checkpoint is there")
    problems = []
    for each in there:
        try:
            return each, parse_index(read_index(each), each / INDEX).notes
        except CheckpointError as error:
            if strict:
                raise
            problems.append(str(error))
    raise CheckpointError("no good checkpoint is left:\n  " + "\n  ".join(problems))


def refuse_other_settings(
    config: TrainConfig, path: Path, notes: Notes, names: tuple[str, ...] = FIXED
) -> None:  # fmt: skip
    theirs, mine = changed(config, notes, names)
    if theirs:
        otherwise = ", or begin a new run with its weights by --init" if names is FIXED else ""
        raise UsageError(
            f"{path} was trained with {', '.join(theirs)}, this run has {', '.join(mine)}: write the former{otherwise}"
        )


def refuse_other_replicas(config: TrainConfig, path: Path, notes: Notes) -> None:
    """Raises UsageError where replicas train apart, and are not as many as before."""
    then, now = notes.mesh.get(config.outer, 1), mesh_axes(config, world().size).get(config.outer, 1)
    if config.outer != NONE and then != now:
        raise UsageError(
            f"{path} holds {then} replicas, this run has {config.outer}={now} of them: write a mesh with "
            f"{config.outer}={then}, or begin a new run with its weights by --init"
        )


def refuse_other_data(found: tuple[Path, Notes] | None, digest: str) -> None:
    """Raises UsageError where a checkpoint was trained on data of another digest."""
    if found is None:
        return
    path, notes = found
    if isinstance(notes.data, dict) and notes.data.get("digest", digest) != digest:
        raise UsageError(
            f"--data: {path} was trained on other bytes: name the same data, or begin a new run by --init"
        )


def changed(config: TrainConfig, notes: Notes, names: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """The settings that differ, as flags: as they were, and as they are."""
    then, now = notes.config if isinstance(notes.config, dict) else {}, asdict(config)
    odd = [name for name in names if name in then and then[name] != now[name]]
    return [f"{spelling(name)} {then[name]}" for name in odd], [
        f"{spelling(name)} {now[name]}" for name in odd
    ]


# ---- going on -------------------------------------------------------------------------------------------


@contextmanager
def locked(config: TrainConfig, out: Path, ranks: Comm) -> Iterator[None]:
    """Holds the lock of a run's directory, on rank 0 for all. Raises UsageError with its owner where a job has it."""
    held: list[Lock] = []

    def take() -> None:
        try:
            held.append(Lock(out))
        except OSError as error:
            raise UsageError(f"{out} cannot be written: {error.strerror}") from None
        check_out(
            config.out, again=config.resume == AUTO
        )  # another job may have come and gone since the first look

    on_first_rank(ranks, take)
    try:
        yield
    finally:
        for lock in held:
            lock.release()


def go_on(
    config: TrainConfig, out: Path, digest: str, model: Stateful, optimizer: Stateful, say: Callable[[str], object]
) -> int:  # fmt: skip
    """Fills model and optimizer as --resume and --init say; returns the steps that are done. Collective.

    `digest` is that of the data. Raises UsageError where the checkpoint is one of other data.
    """
    source = {NONE: None, AUTO: out / CHECKPOINTS}.get(config.resume, below(Path(config.resume)))
    found = load(source, model, optimizer, strict=config.strict) if source is not None else None
    if found is None:
        if config.init and (given := load(below(Path(config.init)), model, strict=config.strict, cast=True)):
            say(f"begins with the weights of {given.path}")
        return 0
    refuse_other_settings(config, found.path, found.notes)
    refuse_other_data((found.path, found.notes), digest)
    for reason in found.refused:
        say(f"passed over: {reason}")
    _, mine = changed(config, found.notes, TOLD)
    say(f"going on from {found.path}" + (f", now with {', '.join(mine)}" if mine else ""))
    return found.step


class RunSaver:
    """Writes the checkpoints of a run. A failed save ends the run, or with --save-error continue is told.

    `limit` learns how long a save takes.
    """

    def __init__(
        self, config: TrainConfig, out: Path, digest: str, say: Callable[[str], object], limit: TimeLimit | None = None
    ) -> None:  # fmt: skip
        self._config, self._digest, self._say, self._limit = config, digest, say, limit or TimeLimit()
        self._saver = Saver(out / CHECKPOINTS, keep=config.keep, background=config.save_async)

    def is_due(self, done: int) -> bool:
        """Whether a checkpoint follows this step. A run that --resume auto started has one at its end in any case."""
        every, last = self._config.save_every, done == self._config.steps
        return (every > 0 and (done % every == 0 or last)) or (last and self._config.resume == AUTO)

    def save(self, step: int, model: Stateful, optimizer: Stateful) -> None:
        """Writes a checkpoint, or begins to. Collective, as all of these."""
        notes: dict[str, Any] = {
            "config": asdict(self._config), "data": {"step": step, "digest": self._digest}, "seed": self._config.seed
        }  # fmt: skip
        with self._errors():
            self._saver.wait()  # what went wrong in the one before must not keep this one from being written
        with self._errors(), nullcontext() if self._config.save_async else self._limit.saving():
            self._saver.save(step, model, optimizer, **notes)

    def poll(self) -> None:
        """After a step without a checkpoint: ends the one that is written behind the training, if it is ready."""
        with self._errors():
            self._saver.poll()

    def close(self) -> None:
        with self._errors():
            self._saver.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except CheckpointError as error:
            if self._config.save_error == "stop":
                raise
            self._say(f"no checkpoint: {error}")
