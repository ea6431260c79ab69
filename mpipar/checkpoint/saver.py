"""Writing a checkpoint: every rank its slices into a temporary directory, which becomes the checkpoint by one rename.

Nothing that a reader would look at changes before that rename, so whatever ends a save before it leaves the older
checkpoints as they were. `docs/checkpoints.md` has the protocol step by step.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from mpipar.checkpoint.boxes import Box
from mpipar.checkpoint.index import (
    INDEX,
    INDEX_HASH,
    Index,
    Notes,
    Stored,
    hash_line,
    index_text,
    parse_index,
    versions,
)
from mpipar.checkpoint.places import MAX_STEP, clean, new_temporary, put_in_place, step_name, sync_directory
from mpipar.checkpoint.purge import Purge
from mpipar.checkpoint.shard import Piece, Written, write_file, write_shard
from mpipar.checkpoint.state import Stateful, my_slices, pieces, state_of
from mpipar.comm import Comm
from mpipar.errors import CheckpointError, UsageError
from mpipar.job.agree import on_each_rank, on_first_rank
from mpipar.job.fault import fault
from mpipar.job.lock import Lock
from mpipar.tensor import Tensor


class Part(NamedTuple):
    """What one rank wrote: its file, and of each tensor dtype, global shape and the slice."""

    file: str
    written: Written | None
    slices: dict[str, tuple[str, tuple[int, ...], Box]]


class Flight(NamedTuple):
    """A save that has begun: the directory that it fills, what rank 0 holds, and what the rank writes."""

    comm: Comm
    temporary: Path
    lock: Lock | None
    notes: Notes
    part: Future[Part]


def save(
    directory: str | os.PathLike[str], step: int, model: Stateful, optimizer: Stateful | None = None, *,
    config: Any = None, data: Any = None, seed: int | None = None, keep: int | None = 3, comm: Comm | None = None,
) -> Path:  # fmt: skip
    """Writes ``directory/step-00001000``; of those that are there the newest `keep` stay (None: all). Collective.

    `config`, `data` (the position in the data) and `seed` are kept for the caller: anything that JSON can hold. `comm`
    are the ranks that hold the tensors together (default: those of the model's mesh). The memory that it takes is two
    MiB. Raises CheckpointError, the same on all ranks, where a rank cannot write; what was there before stays.
    """
    saver = Saver(directory, keep=keep, comm=comm)
    saver.save(step, model, optimizer, config=config, data=data, seed=seed)
    return saver.directory / step_name(step)


class Saver:
    """Saves again and again below one directory; with ``background=True`` behind the training.

    In the background `save` copies what this rank writes (one snapshot in memory), and a thread writes it. One save
    is in flight at most. MPI is not called from the thread: `poll`, which belongs after every step, the next `save` and
    `close` bring a save to its end, and raise what went wrong in it. All of them are collective.
    """

    def __init__(
        self, directory: str | os.PathLike[str], *, keep: int | None = 3, background: bool = False,
        comm: Comm | None = None,
    ) -> None:  # fmt: skip
        if keep is not None and keep < 1:
            raise UsageError(f"keep={keep}: write how many checkpoints stay, at least 1, or None for all")
        self.directory = Path(directory).expanduser()
        self._comm, self._background = comm, background
        self._purge = Purge(self.directory, keep)
        self._pool = ThreadPoolExecutor(1, "mpipar checkpoint") if background else None
        self._flight: Flight | None = None

    def save(
        self, step: int, model: Stateful, optimizer: Stateful | None = None, *, config: Any = None, data: Any = None,
        seed: int | None = None,
    ) -> None:  # fmt: skip
        """Writes the checkpoint of `step`, or begins to. Ends one that is still in flight first."""
        if type(step) is not int or not 0 <= step <= MAX_STEP:
            raise UsageError(f"a checkpoint of step {step!r}: write how many steps are done, a whole number")
        self.wait()
        tensors, plain = state_of(model, optimizer)
        mesh = next(iter(tensors.values())).mesh.whole
        shape = {axis: size for axis, size in mesh.shape.items() if size > 1}
        notes = Notes(step, shape, config, data, seed, plain, versions())
        self._flight = self._begin(notes, tensors, self._comm or mesh.world)
        if not self._background:
            self.wait()

    def poll(self) -> Path | None:
        """Ends the save in flight if every rank has written its part: the new checkpoint, or None.

        Costs nothing where none is in flight.
        """
        flight = self._flight
        if flight is None or not all(flight.comm.allgather_object(flight.part.done())):
            return None
        return self.wait()

    def wait(self) -> Path | None:
        """Ends the save in flight, waiting for it: the new checkpoint, or None where none was in flight."""
        flight, self._flight = self._flight, None
        if flight is None:
            return None
        try:
            final = finish(flight, self.directory)
            self._purge(final, flight.comm)
        finally:
            if flight.lock is not None:
                flight.lock.release()
        return final

    def close(self) -> None:
        """Waits for the save in flight; the thread ends."""
        try:
            self.wait()
        finally:
            if self._pool is not None:
                self._pool.shutdown()

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:  # otherwise the other ranks may not come
            self.close()

    def _begin(self, notes: Notes, tensors: dict[str, Tensor], comm: Comm) -> Flight:
        slices = my_slices(tensors)
        described = {
            name: (str(tensors[name].dtype), tensors[name].shape, box) for name, box in slices.items()
        }
        file = f"rank-{comm.rank:05d}.safetensors"
        temporary, lock = begin(self.directory, notes, comm)
        mine = pieces(tensors, slices, snapshot=self._background)
        part: Future[Part]
        if self._pool is not None:
            part = self._pool.submit(write, temporary, file, mine, described)
        else:
            part = Future()
            try:
                part.set_result(write(temporary, file, mine, described))
            except CheckpointError as error:
                part.set_exception(error)
        return Flight(comm, temporary, lock, notes, part)


# ---- the protocol ---------------------------------------------------------------------------------------


def begin(directory: Path, notes: Notes, comm: Comm) -> tuple[Path, Lock | None]:
    """Rank 0 takes the directory's lock, removes what broken saves have left, and makes the temporary directory."""
    held: list[Lock] = []

    def make() -> Path:
        index_text(Index(notes, {}, {}))  # what cannot be written shows before anything is
        with reported(directory):
            directory.mkdir(parents=True, exist_ok=True)
            held.append(Lock(directory))
            clean(directory)
            return new_temporary(directory, notes.step)

    fault("save.before_directory")
    try:
        return on_first_rank(comm, make), held[0] if held else None
    except UsageError:
        for lock in held:
            lock.release()
        raise


def write(
    temporary: Path, file: str, mine: Sequence[Piece], slices: dict[str, tuple[str, tuple[int, ...], Box]]
) -> Part:
    """What each rank does alone."""
    with reported(temporary):
        fault("save.before_shard")
        if not temporary.is_dir():
            raise CheckpointError(
                f"{temporary.parent}: rank 0 has made {temporary.name} there, and it is not here: "
                "choose a directory that all nodes share"
            )
        written = write_shard(temporary / file, mine) if mine else None
        fault("save.after_shard")
    return Part(file, written, slices)


def finish(flight: Flight, directory: Path) -> Path:
    """All ranks have written: rank 0 writes the index and renames. Collective."""
    comm, temporary = flight.comm, flight.temporary
    final = directory / step_name(flight.notes.step)
    try:
        parts = on_each_rank(comm, flight.part.result)
        fault("save.before_index")
        on_first_rank(comm, lambda: write_index(temporary, merged(flight.notes, parts)))
        fault("save.before_rename")
        on_first_rank(comm, lambda: rename(temporary, final))
        fault("save.after_rename")
    except UsageError:
        if comm.rank == 0:
            with suppress(OSError):
                shutil.rmtree(temporary)
        raise
    return final


def merged(notes: Notes, parts: Sequence[Part]) -> Index:
    tensors: dict[str, Stored] = {}
    for part in parts:
        for name, (dtype, shape, box) in part.slices.items():
            tensors.setdefault(name, Stored(dtype, shape, [])).slices.append((part.file, box))
    return Index(notes, {part.file: part.written for part in parts if part.written is not None}, tensors)


def write_index(temporary: Path, index: Index) -> None:
    text = index_text(index)
    parse_index(text, temporary / INDEX)  # slices that leave a gap must not become a checkpoint
    with reported(temporary):
        write_file(temporary / INDEX_HASH, iter([hash_line(text)]))
        write_file(temporary / INDEX, iter([text]))
        sync_directory(temporary)


def rename(temporary: Path, final: Path) -> None:
    with reported(final):
        put_in_place(temporary, final)


@contextmanager
def reported(path: Path) -> Iterator[None]:
    """Turns an OSError into a CheckpointError that names its cause."""
    try:
        yield
    except OSError as error:
        where = error.filename or path
        raise CheckpointError(
            f"the checkpoint {path} cannot be written: {error.strerror} ({where}); those that were there are unharmed"
        ) from None
