"""The file that `mpipar submit` takes, and what is refused of it. A failure shows the message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from slurm_fakes import write

from mpipar.config import TrainConfig
from mpipar.errors import UsageError
from mpipar.launch.settings import Slurm, read

pytestmark = pytest.mark.alone

Table = dict[str, Any]


def test_two_tables_and_their_defaults(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.toml")).run == TrainConfig()
    submission = read(
        write(tmp_path / "b.toml", {"steps": 7, "data": ["x"]}, {"nodes": 2, "modules": ["gcc"]})
    )
    assert submission.run == TrainConfig(steps=7, data=("x",))
    assert submission.slurm == Slurm(nodes=2, modules=("gcc",))


@pytest.mark.parametrize(
    ("run", "slurm", "message"),
    [
        ({}, {"node": 2}, "line 4, [slurm]: unknown key 'node': did you mean nodes?"),
        ({"step": 2}, {}, "line 2, [run]: unknown key 'step': did you mean steps?"),
        ({}, {"nodes": "two"}, 'nodes = "two": a whole number wanted, as nodes = 1'),
        ({}, {"nodes": 0}, "nodes = 0: must be a whole number, at least 1"),
        ({}, {"time": "1h"}, "'1h' is no length of time: write 90 (minutes)"),
        ({}, {"name": "a b"}, "letters, digits and . _ - are allowed"),
        ({}, {"memory": "lots"}, "write a number with K, M, G or T, as 16G"),
        ({}, {"environment": ["X"]}, "'X' is no variable: write NAME=value"),
        ({}, {"environment": ["LD_PRELOAD=x"]}, "LD_PRELOAD is not set from here"),
        ({}, {"environment": ["SLURM_PROCID=0"]}, "SLURM_PROCID is not set from here"),
        ({}, {"mpi": "mpi"}, "is unknown: did you mean mpich? Known: mpich, openmpi, intel"),
        (
            {"mesh": "dp=2,tp=4"},
            {"nodes": 2, "tasks_per_node": 2},
            '[run] mesh = "dp=2,tp=4" needs 8 ranks, [slurm] has 2 nodes × 2 tasks = 4: write tasks_per_node = 4, '
            'or [run] mesh = "dp=4"',
        ),
        ({"mesh": "dp=3"}, {"nodes": 2}, "write nodes = 1 and tasks_per_node = 3"),
        ({"batch": 2}, {"nodes": 4}, "[run]: --batch 2 is smaller than the 4 ranks of dp"),
        ({"width": 7}, {}, "[run]: --width 7 is not divisible by --heads 6"),
        ({"device": "cpu"}, {"gpus_per_node": 2}, "leave one out"),
        ({"device": "gpu"}, {"tasks_per_node": 4}, "needs [slurm] gpus_per_node = 4"),
        ({}, {"gpus_per_node": 2, "tasks_per_node": 4}, "are more ranks than 2 on gpus_per_node = 2"),
        ({}, {"time": "1:00"}, '= 120 is not below the 60 s of time = "1:00": write signal_seconds = 15'),
        ({}, {"requeue": True}, 'write [run] resume = "auto" and out = "DIRECTORY"'),
        ({"resume": "auto"}, {}, "--resume auto needs --out DIRECTORY"),
        ({}, {"mpi": "intel"}, 'write environment = ["I_MPI_PMI_LIBRARY=/usr/lib64/libpmi2.so"]'),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_message(tmp_path: Path, run: Table, slurm: Table, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(write(tmp_path / "a.toml", run, slurm))
    assert str(caught.value).startswith(f"{tmp_path}/a.toml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps = 3", ", line 1: 'steps' is none of the tables [run], [slurm]"),
        ("[slurn]\nnodes = 1", ", line 1: 'slurn' is none of the tables [run], [slurm]: did you mean slurm?"),
        ("[run", " is no TOML: "),
        ("[run.more]\nx = 1", "[more] is a table"),
    ],
)
def test_files_that_are_none(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(UsageError) as caught:
        read(str(tmp_path / "a.toml"))
    assert message in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no\.toml cannot be read: No such file"):
        read(str(tmp_path / "no.toml"))


def test_the_ranks_of_a_card_may_be_several(tmp_path: Path) -> None:
    read(write(tmp_path / "a.toml", {"ranks_per_gpu": 2}, {"gpus_per_node": 2, "tasks_per_node": 4}))
