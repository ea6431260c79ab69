"""One process without MPI reads, lists, checks and merges what several ranks have written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from grids import ONE_AXIS
from trained import Trained

from mpipar import CheckpointError, Mesh, UsageError, checkpoint
from mpipar.job import world
from mpipar.job.agree import on_first_rank
from mpipar.job.launcher import clean_environment

MESH = Mesh(**ONE_AXIS)


@pytest.fixture
def run(directory: Path) -> Trained:
    """A run that has been saved after its first step."""
    run = Trained(MESH)
    run.train(0, 1)
    checkpoint.save(directory, 1, run.model, run.optimizer, config={"width": 20}, data={"step": 1}, seed=7)
    return run


def test_read_gives_whole_arrays(run: Trained, directory: Path) -> None:
    weights = {p.name: p.numpy() for p in run.model.parameters()}
    moments = {name: x.numpy() for name, x in run.optimizer.moments.tensors().items()}
    for found, wanted in (
        (checkpoint.read(directory, "model"), weights),
        (checkpoint.read(directory / "step-00000001", "optimizer"), moments),
    ):
        assert found.keys() == wanted.keys()
        assert all((found[name] == x).all() and found[name].dtype == x.dtype for name, x in wanted.items())
    assert len(checkpoint.read(directory)) == len(weights) + len(moments)


def test_what_was_read_can_be_loaded_into_a_model(run: Trained, directory: Path) -> None:
    other = Trained(MESH, seed=4)
    other.model.load_state_dict(checkpoint.read(directory, "model"))
    for mine, theirs in zip(other.model.parameters(), run.model.parameters(), strict=True):
        assert (mine.numpy() == theirs.numpy()).all()


def test_merge_writes_one_file_for_others(run: Trained, directory: Path) -> None:
    out = directory / "merged.safetensors"
    weights = {p.name: p.numpy() for p in run.model.parameters()}
    size = on_first_rank(world(), lambda: checkpoint.merge(directory, out))
    found = safetensors.numpy.load_file(out)
    assert size == out.stat().st_size
    assert found.keys() == weights.keys()
    assert all((found[name] == x).all() for name, x in weights.items())
    with pytest.raises(UsageError, match=r"merged.safetensors cannot be written: File exists"):
        checkpoint.merge(directory, out)


def test_ls_and_show(run: Trained, directory: Path) -> None:
    checkpoint.save(directory, 2, run.model)
    on_first_rank(world(), lambda: (directory / "step-00000002" / "index.json").write_text("{}") and None)
    broken, good = checkpoint.ls(directory).splitlines()
    assert broken.startswith("step-00000002  broken: ")
    assert "its bytes are not those whose hash is in" in broken
    assert good.split()[0] == "step-00000001"
    assert good.endswith(f"mesh tp={world().size}" if world().size > 1 else "mesh one rank")
    shown = checkpoint.show(directory / "step-00000001")
    for line in (
        "seed: 7",
        "data: {'step': 1}",
        "config: {'width': 20}",
        "'kind': 'AdamW'",
        "model/norm.gain",
    ):
        assert line in shown


def test_verify_names_every_broken_file(run: Trained, directory: Path) -> None:
    assert checkpoint.verify(directory) == []
    world().barrier()

    def damage() -> int:
        files = sorted((directory / "step-00000001").glob("*.safetensors"))
        for file in files:
            file.write_bytes(file.read_bytes()[:-1])
        return len(files)

    count = on_first_rank(world(), damage)
    assert len(checkpoint.verify(directory)) == count


def test_nothing_there_is_told(directory: Path) -> None:
    for tool in (checkpoint.read, checkpoint.ls, checkpoint.show, checkpoint.verify):
        with pytest.raises(CheckpointError, match="no checkpoint is there"):
            tool(directory)


@pytest.mark.launches
def test_reading_starts_no_mpi(run: Trained, directory: Path) -> None:
    program = (
        "import sys; from mpipar import checkpoint; "
        f"print(len(checkpoint.read({str(directory)!r})), 'mpi4py' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=clean_environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout == "48 False\n"


def test_bfloat16_comes_back(directory: Path) -> None:
    run = Trained(MESH, dtype="bfloat16")
    checkpoint.save(directory, 1, run.model)
    for name, x in checkpoint.read(directory, "model").items():
        wanted = run.model.named_parameters()[name].numpy()
        assert x.dtype.name == "bfloat16"
        np.testing.assert_array_equal(x, wanted)
