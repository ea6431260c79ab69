"""Removing old checkpoints, once enough newer ones are known to be good."""

from __future__ import annotations

from pathlib import Path

from mpipar.checkpoint.places import candidates, discard
from mpipar.checkpoint.verify import verified
from mpipar.comm import Comm
from mpipar.errors import CheckpointError
from mpipar.job.agree import on_first_rank
from mpipar.job.fault import fault


class Purge:
    """Keeps the newest `keep` checkpoints that hold what was written. Broken ones do not count, and stay where they
    are newer than those.

    What this process wrote counts as good; what it found there is read and checked, once.
    """

    def __init__(self, directory: Path, keep: int | None) -> None:
        self._directory, self._keep = directory, keep
        self._good: set[Path] = set()

    def __call__(self, written: Path, comm: Comm) -> None:
        """After a save. Collective."""
        self._good.add(written)
        if self._keep is None:
            return
        fault("save.before_purge")
        there: list[Path] = on_first_rank(comm, lambda: candidates(self._directory))
        good = 0
        while there and good < self._keep:
            good += self._is_good(there.pop(0), comm)
        on_first_rank(comm, lambda: remove(there))

    def _is_good(self, path: Path, comm: Comm) -> bool:
        if path not in self._good:
            try:
                verified(path, comm)
            except CheckpointError:
                return False
            self._good.add(path)
        return True


def remove(paths: list[Path]) -> None:
    try:
        for path in paths:
            discard(path)
    except OSError as error:
        raise CheckpointError(
            f"an old checkpoint cannot be removed: {error.strerror} ({error.filename})"
        ) from None
