"""Named places at which a test can make a rank fail: ``MPIPAR_FAULT="kill@save.before_index:rank=1"``.

Honoured only with ``MPIPAR_TESTING=1``. Without ``:rank=`` every rank fails there.
"""

from __future__ import annotations

import errno
import os
import signal

from mpipar.errors import UsageError
from mpipar.job.launcher import launched_rank

SAVE = (
    "save.before_directory",
    "save.before_shard",
    "save.in_shard",  # half of its bytes are written
    "save.before_fsync",
    "save.after_shard",
    "save.before_index",
    "save.before_rename",
    "save.after_rename",
    "save.before_purge",
    "save.in_purge",  # an old checkpoint is set aside, and not removed yet
)


def fault(place: str) -> None:
    """Does what MPIPAR_FAULT says where it names this place and this rank."""
    if os.environ.get("MPIPAR_TESTING") != "1" or not (text := os.environ.get("MPIPAR_FAULT", "")):
        return
    action, wanted, rank = _parsed(text)
    if wanted == place and rank in (None, launched_rank()):
        if action == "eio":
            raise OSError(errno.EIO, os.strerror(errno.EIO), place)
        os.kill(os.getpid(), signal.SIGKILL)


def _parsed(text: str) -> tuple[str, str, int | None]:
    """Raises UsageError on a place that does not exist: the test would pass without a fault."""
    action, _, rest = text.partition("@")
    place, _, rank = rest.partition(":rank=")
    if action not in ("kill", "eio") or place not in SAVE or not (rank or "0").isdecimal():
        raise UsageError(
            f"MPIPAR_FAULT={text!r}: write kill@PLACE or eio@PLACE, with :rank=N for one rank; "
            f"places are {', '.join(SAVE)}"
        )
    return action, place, int(rank) if rank else None
