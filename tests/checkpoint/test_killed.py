"""A save that is killed, at any place and on one rank or on all, leaves the checkpoint before it as it was.

Each test starts a job that saves step 1, is killed while it saves step 2, and is looked at; then a job that goes on
from what is there. A failure names the place.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mpipar import checkpoint
from mpipar.job.fault import SAVE
from mpipar.job.launcher import clean_environment
from mpipar.testing import launch

pytestmark = pytest.mark.launches

PROGRAM = """
import os, sys
import mpipar as mp
from mpipar import CheckpointError, Shard
from mpipar.checkpoint import Saver, load
from mpipar.job import world

class Weights:
    def __init__(self, tensors):
        self.tensors = tensors
    def state_dict(self):
        return self.tensors
    def load_state_dict(self, state):
        pass

directory, rows, wanted = sys.argv[1], int(sys.argv[2]), [int(step) for step in sys.argv[3].split(",")]
mesh = mp.Mesh(tp=world().size)
model = Weights({"w": mp.zeros((rows, 100), mesh, tp=Shard(0)), "b": mp.zeros((3,), mesh)})
found = load(directory, model)
value = int(model.tensors["w"].numpy().max())
saver = Saver(directory, keep=1, background="background" in sys.argv)
for step in wanted:
    os.environ["MPIPAR_TESTING"] = str(int(step == 2))
    for tensor in model.tensors.values():
        mesh.xp.fill(tensor.local, step)
    try:
        saver.save(step, model)
        saver.wait()
    except CheckpointError as error:
        if mesh.rank == 0:
            print("went on:", error)
saver.close()
if mesh.rank == 0:
    print("found", found and (found.step, found.refused), "value", value)
"""
AFTER_RENAME = SAVE[SAVE.index("save.after_rename") :]
# on all ranks, on the last, and where one rank acts for all on that one
CASES = [
    *((place, "") for place in SAVE),
    *((place, ":rank=1") for place in SAVE if place != "save.in_purge"),
    ("save.before_rename", ":rank=0"),
    ("save.in_purge", ":rank=0"),
]


@pytest.mark.parametrize(("place", "rank"), CASES)
def test_a_kill_in_a_save_loses_nothing(place: str, rank: str, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    fault = {"MPIPAR_FAULT": f"kill@{place}{rank}"}
    killed = launch(2, PROGRAM, str(runs), "9", "1,2,3", env=fault)
    assert killed.returncode != 0, killed.stdout
    there = checkpoint.read(runs)
    step = {value for x in there.values() for value in x.ravel().tolist()}
    assert step <= ({2.0} if place in AFTER_RENAME else {1.0, 2.0} if rank else {1.0})
    assert len(step) == 1
    after = launch(0, PROGRAM, str(runs), "9", "5")
    assert after.returncode == 0, after.stderr
    (newest,) = step
    assert f"found ({int(newest)}, ()) value {int(newest)}" in after.stdout
    assert sorted(os.listdir(runs)) == [".lock", "step-00000005"]


# ---- a disk that will not take it -----------------------------------------------------------------------


def on_a_disk(options: str, script: str, disk: Path) -> str:
    """What a shell script prints that runs in a small file system of its own, mounted at `disk`."""
    disk.mkdir()
    mount = f"set -e; mount -t tmpfs -o {options} none {shlex.quote(str(disk))}; "
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", mount + script],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def saving(disk: Path, *args: str) -> str:
    """The command that runs the program on one rank: 400 kB a checkpoint."""
    program = disk.with_name("program.py")
    program.write_text(PROGRAM)
    return shlex.join([sys.executable, str(program), str(disk), "1000", *args])


@pytest.mark.parametrize("background", [[], ["background"]], ids=["at once", "in the background"])
def test_a_full_disk_is_told_and_the_run_goes_on(background: list[str], tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    script = f"{saving(disk, '1,2,3', *background)}; {saving(disk, '4')}; ls -A {disk}"
    lines = on_a_disk("size=600k", script, disk).splitlines()
    reason = "cannot be written: No space left on device"
    told = [f"went on: the checkpoint {disk}/.tmp-step-0000000{step} {reason}" for step in (2, 3)]
    assert [line.partition(" (")[0] for line in lines[:2]] == told
    assert lines[2] == "found None value 0"
    assert lines[4] == "found (1, ()) value 1"
    assert lines[5:] == [".lock", "step-00000001"]


def test_a_read_only_disk_is_told(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    script = f"{saving(disk, '1')}; mount -o remount,ro {disk}; {saving(disk, '2')}; ls -A {disk}"
    lines = on_a_disk("size=2m", script, disk).splitlines()
    assert lines[1].startswith(f"went on: the checkpoint {disk} cannot be written: Read-only file system")
    assert lines[2:] == ["found (1, ()) value 1", ".lock", "step-00000001"]
