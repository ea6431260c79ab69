"""Importing mpipar never starts MPI, and without any MPI one rank works.

Each test runs a program in a process of its own. A failure shows the module that brought mpi4py.MPI in, or what the
program printed.
"""

from __future__ import annotations

import pytest

from mpipar.testing import Finished, launch

pytestmark = pytest.mark.launches

WITHOUT_MPI = {"MPI4PY_LIBMPI": "/nonexistent"}

IMPORT_ALL = """
import importlib, pkgutil, sys
import mpipar

def started(name):
    assert "mpi4py.MPI" not in sys.modules, f"importing {name} starts MPI"

started("mpipar")
names = [module.name for module in pkgutil.walk_packages(mpipar.__path__, "mpipar.")]
EXTRAS = ("mpipar.backend.cupy", "mpipar.backend.numba")  # walked only where they are installed
for name in names:
    if name not in ("mpipar.comm.mpi", "mpipar.__main__") and not name.startswith(EXTRAS):
        importlib.import_module(name)
        started(name)
from mpipar.job import world_if_started
assert world_if_started() is None
print(len(names))
"""

FACE_ONLY = """
import sys
import mpipar
rooms = {name.split(".")[1] for name in sys.modules if name.startswith("mpipar.")}
print(sorted(rooms & {"models", "data", "testing", "parallel"}), "mpi4py" in sys.modules, "pytest" in sys.modules)
"""

TRAIN_A_STEP = """
import sys
import mpipar as mp
from mpipar.job import world
from mpipar.models import GPT, GPTConfig
from mpipar.optim import AdamW, clip_grad_norm
from mpipar.parallel import sync_gradients
from mpipar.random import Noise

mesh = mp.Mesh(dp=1, tp=1)
assert (mesh.size, world().size) == (1, 1)
model = GPT(GPTConfig(vocabulary=11, context=4, layers=1, heads=2, width=8, dropout=0.1), mesh)
optimizer = AdamW(model.parameters(), 0.1)
tokens = mp.tensor([[1, 2, 3, 4], [5, 6, 7, 8]], mesh, dp=mp.Shard(0))
losses = []
for step in range(3):
    loss = model.loss(tokens, tokens, Noise(0, step)) / 8
    loss.backward()
    sync_gradients(model)
    clip_grad_norm(model.parameters(), 1.0)
    optimizer.step()
    losses.append(loss.allreduce("dp", "tp").item())
assert losses[2] < losses[0], losses
print("mpi4py.MPI" in sys.modules, [round(loss, 6) for loss in losses])
"""


def ended_well(done: Finished) -> str:
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_no_module_starts_mpi_when_it_is_imported() -> None:
    assert int(ended_well(launch(0, IMPORT_ALL))) > 60


def test_nor_under_a_launcher() -> None:
    assert int(ended_well(launch(1, IMPORT_ALL))) > 60


def test_everything_imports_where_there_is_no_mpi() -> None:
    assert int(ended_well(launch(0, IMPORT_ALL, env=WITHOUT_MPI))) > 60


def test_the_public_face_brings_in_what_it_shows_and_no_more() -> None:
    assert ended_well(launch(0, FACE_ONLY)) == "[] False False\n"


def test_without_mpi_a_mesh_of_one_trains_and_to_the_same_losses() -> None:
    """mpi4py raises RuntimeError there; the losses are those of one rank with MPI."""
    without = ended_well(launch(0, TRAIN_A_STEP, env=WITHOUT_MPI))
    assert without.startswith("False [")
    with_mpi = ended_well(launch(0, TRAIN_A_STEP))
    assert with_mpi == without.replace("False", "True")
    assert ended_well(launch(1, TRAIN_A_STEP)) == with_mpi


def test_without_mpi4py_too() -> None:
    """A None in sys.modules makes ``import mpi4py`` an ImportError."""
    program = "import sys\nsys.modules['mpi4py'] = None\n" + TRAIN_A_STEP
    assert ended_well(launch(0, program)).startswith("False [")
