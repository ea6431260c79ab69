"""The batch script: what it says, what bash makes of it, and that nothing a user wrote becomes shell.

Scripts run under bash with srun and scontrol replaced. A failure shows the script's log, or the words that arrived.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hostile import HOSTILE
from slurm_fakes import calls, on_path, program, write

from mpipar.config.flags import options
from mpipar.errors import UsageError
from mpipar.launch.script import Place, script
from mpipar.launch.settings import Slurm, read

pytestmark = pytest.mark.alone  # all of it is one process and bash


def rendered(
    here: Path, run: dict[str, Any] | None = None, slurm: dict[str, Any] | None = None, out: str = "run"
) -> str:
    submission = read(write(here / "a.toml", run, slurm))
    return script(submission, Place(here, here / out, here / out / "job-1.toml"), "0.1.0")


def directives(text: str) -> dict[str, str]:
    lines = [
        line.removeprefix("#SBATCH --").partition("=")
        for line in text.splitlines()
        if line.startswith("#SBATCH")
    ]
    return {name: value for name, _, value in lines}


# ---- what it says -------------------------------------------------------------------------------------------------


def test_a_plain_job(tmp_path: Path) -> None:
    text = rendered(tmp_path, slurm={"nodes": 2, "tasks_per_node": 4, "cpus_per_task": 3, "time": "2:00:00"})
    assert directives(text) == {
        "job-name": "mpipar", "nodes": "2", "ntasks-per-node": "4", "cpus-per-task": "3", "time": "2:00:00",
        "output": f'"{tmp_path}/run/slurm-%j.out"', "open-mode": "append", "comment": f'"mpipar {tmp_path}/run"',
        "signal": "B:USR1@120", "no-requeue": "",
    }  # fmt: skip
    lines = text.splitlines()
    assert lines[0] == "#!/bin/bash"
    assert f"cd -- {tmp_path} || exit 2" in lines
    assert "launch=(srun --mpi=pmi2 --kill-on-bad-exit=0 --wait=60)" in lines
    assert "python=(python)" in lines
    assert '"${launch[@]}" "${python[@]}" -m mpipar doctor || exit 1' in lines
    assert f'    "${{launch[@]}}" "${{python[@]}}" -u train.py --config {tmp_path}/run/job-1.toml &' in lines
    assert any(line.startswith("export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK") for line in lines)
    assert "scontrol" not in text


def test_all_that_can_be_asked_for(tmp_path: Path) -> None:
    wanted = {
        "name": "gpt", "gpus_per_node": 4, "tasks_per_node": 4, "memory": "64G", "partition": "gpu,long",
        "account": "abc1", "qos": "high", "constraint": "a100", "signal_seconds": 0, "requeue": True, "doctor": False,
        "python": "python3.12",
        "modules": ["gcc/13.2", "openmpi/5.0"], "environment": ["NCCL_X=a b"], "venv": "venv",
    }  # fmt: skip
    text = rendered(tmp_path, {"resume": "auto", "out": "run", "device": "gpu"}, wanted)
    told = directives(text)
    assert {told[name] for name in ("gpus-per-node", "mem", "partition", "account", "qos", "constraint")} == {
        "4", "64G", "gpu,long", "abc1", "high", "a100",
    }  # fmt: skip
    assert "requeue" in told
    assert "signal" not in told
    assert (
        "module load gcc/13.2 openmpi/5.0 || exit 2\nsource venv/bin/activate || exit 2\nunset OMP_NUM_THREADS"
        in text
    )
    assert text.index("unset OMP_NUM_THREADS") < text.index("\nexport NCCL_X='a b'\n"), (
        "a person's choice stays"
    )
    assert "export OMP" not in text
    assert "doctor" not in text
    assert "python=(python3.12)" in text


@pytest.mark.parametrize(
    ("slurm", "launch"),
    [
        ({"mpi": "openmpi"}, "srun --mpi=pmix --kill-on-bad-exit=0 --wait=60"),
        (
            {"mpi": "intel", "environment": ["I_MPI_PMI_LIBRARY=/usr/lib64/libpmi2.so"]},
            "srun --mpi=pmi2 --kill-on-bad-exit=0 --wait=60",
        ),
        ({"launcher": "mpirun"}, "mpirun -n 4 -ppn 2 -bind-to core:1"),
        ({"launcher": "mpirun", "mpi": "intel"}, "mpirun -n 4 -ppn 2"),
        ({"launcher": "mpirun", "mpi": "openmpi"}, "mpirun -n 4"),
        (
            {"launcher": "mpirun", "mpi": "openmpi", "cpus_per_task": 8},
            "mpirun -n 4 --map-by slot:PE=8 --bind-to core",
        ),
    ],
)
def test_each_mpi_is_started_in_its_way(tmp_path: Path, slurm: dict[str, Any], launch: str) -> None:
    assert f"launch=({launch})\n" in rendered(tmp_path, slurm={"nodes": 2, "tasks_per_node": 2, **slurm})


def test_daemons_of_mpirun_are_not_cut_down_to_the_cores_of_a_rank(tmp_path: Path) -> None:
    for launcher, line, other in (
        ("srun", "export SRUN_CPUS_PER_TASK=", "SLURM_CPU_BIND"),
        ("mpirun", "export SLURM_CPU_BIND=none", "SRUN_CPUS_PER_TASK"),
    ):
        text = rendered(tmp_path, slurm={"launcher": launcher})
        assert line in text
        assert other not in text


def test_a_container(tmp_path: Path) -> None:
    text = rendered(tmp_path, slurm={"container": "my image.sif", "gpus_per_node": 1, "python": "python3"})
    binds = f"--bind {tmp_path} --bind {tmp_path}/run --pwd {tmp_path}"
    assert f"python=(apptainer exec --nv {binds} 'my image.sif' python3)\n" in text


def test_a_home_directory_is_written_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert "source /home/me/venv/bin/activate" in rendered(tmp_path, slurm={"venv": "~/venv"})


# ---- what bash makes of it ------------------------------------------------------------------------------------------

Start = Callable[..., "subprocess.Popen[str]"]
# srun: a program that takes SIGUSR1 as train.py does, and says when it listens.
TRAINING = """
[ "${1#*doctor}" != "$1" ] && exit 0
case "$*" in *doctor*) exit 0;; esac
trap 'sleep 0.1; echo saved; exit 85' USR1
touch "$LISTENS"
for i in $(seq 200); do sleep 0.05; done
exit 0
"""


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Starts a script that requeues at most twice, with another body for srun and other variables of SLURM."""
    fakes = tmp_path / "fakes"

    def started(srun: str = TRAINING, requeue: bool = True, **env: str) -> subprocess.Popen[str]:
        program(fakes, "srun", srun)
        program(fakes, "scontrol", "")
        on_path(monkeypatch, fakes)
        slurm = {"requeue": requeue, "restarts": 2}
        (tmp_path / "a.sbatch").write_text(rendered(tmp_path, {"resume": "auto", "out": "run"}, slurm))
        told = {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "1", "LISTENS": str(tmp_path / "listens")}
        return subprocess.Popen(
            ["bash", str(tmp_path / "a.sbatch")], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={"PATH": os.environ["PATH"], **told, **env},
        )  # fmt: skip

    return started


def signalled(process: subprocess.Popen[str], tmp_path: Path, *numbers: int) -> tuple[int, str]:
    """Sends signals to the shell alone when the program listens; the exit code, and all that was said."""
    deadline = time.monotonic() + 20
    while not (tmp_path / "listens").exists() and process.poll() is None:
        assert time.monotonic() < deadline, "the program has not started"
        time.sleep(0.01)
    for number in numbers:
        process.send_signal(number)
        time.sleep(0.03)
    said, _ = process.communicate(timeout=30)
    return process.returncode, said


@pytest.mark.parametrize("numbers", [(signal.SIGUSR1,), (signal.SIGUSR1,) * 3])
def test_a_signal_reaches_the_program_and_the_job_is_queued_again(
    start: Start, tmp_path: Path, numbers: tuple[int, ...]
) -> None:
    code, said = signalled(start(), tmp_path, *numbers)
    assert (code, said.splitlines()) == (85, ["saved", "mpipar: restart 1 of 2"])
    assert calls(tmp_path / "fakes", "scontrol") == [["requeue", "7"]]
    doctor, train = calls(tmp_path / "fakes", "srun")
    assert doctor == ["--mpi=pmi2", "--kill-on-bad-exit=0", "--wait=60", "python", "-m", "mpipar", "doctor"]
    config = f"{tmp_path}/run/job-1.toml"
    assert train == [
        "--mpi=pmi2",
        "--kill-on-bad-exit=0",
        "--wait=60",
        "python",
        "-u",
        "train.py",
        "--config",
        config,
    ]


DOCTOR_THAT_LOOKS = 'case "$*" in *doctor*) touch "$LISTENS"; sleep 0.5; exit 0;; esac; echo trains; exit 0'
NOT_YET = 'case "$*" in *doctor*) exit 0;; esac; touch "$LISTENS"; sleep 0.5; echo ends; exit 138'


def test_a_signal_while_the_doctor_looks_is_not_lost(start: Start, tmp_path: Path) -> None:
    """Nothing has begun: back into the queue, and on the next time."""
    code, said = signalled(start(DOCTOR_THAT_LOOKS), tmp_path, signal.SIGUSR1)
    assert (code, said.splitlines()) == (85, ["mpipar: restart 1 of 2"])
    assert calls(tmp_path / "fakes", "scontrol") == [["requeue", "7"]]


def test_a_signal_that_the_program_could_not_hear_yet(start: Start, tmp_path: Path) -> None:
    """Python that is just starting dies of it, which is no failure; without a signal 138 is one."""
    srun = NOT_YET.replace("touch", "trap : USR1; touch")  # srun itself goes on
    code, said = signalled(start(srun), tmp_path, signal.SIGUSR1)
    assert (code, said.splitlines()) == (85, ["ends", "mpipar: restart 1 of 2"])
    assert signalled(start(srun), tmp_path) == (138, "ends\n")


def test_a_task_of_an_array_is_queued_again_by_its_own_name(start: Start, tmp_path: Path) -> None:
    env = {"SLURM_ARRAY_JOB_ID": "6", "SLURM_ARRAY_TASK_ID": "3", "SLURM_RESTART_COUNT": "1"}
    _, said = signalled(start(**env), tmp_path, signal.SIGUSR1)
    assert "restart 2 of 2" in said
    assert calls(tmp_path / "fakes", "scontrol") == [["requeue", "6_3"]]


def test_restarts_have_an_end(start: Start, tmp_path: Path) -> None:
    code, said = signalled(start(SLURM_RESTART_COUNT="2"), tmp_path, signal.SIGUSR1)
    assert (code, said.splitlines()) == (
        85,
        ["saved", "mpipar: no restart, it had its 2 (restarts in [slurm])"],
    )
    assert calls(tmp_path / "fakes", "scontrol") == []


@pytest.mark.parametrize("numbers", [(signal.SIGTERM,), (signal.SIGUSR1, signal.SIGTERM)])
def test_a_job_that_is_cancelled_saves_and_is_not_queued_again(
    start: Start, tmp_path: Path, numbers: tuple[int, ...]
) -> None:
    code, said = signalled(start(), tmp_path, *numbers)
    assert (code, said.splitlines()) == (85, ["saved"])
    assert calls(tmp_path / "fakes", "scontrol") == []


def test_without_requeue_it_says_how_to_go_on(start: Start, tmp_path: Path) -> None:
    code, said = signalled(start(requeue=False), tmp_path, signal.SIGUSR1)
    assert (code, said.splitlines()) == (
        85, ["saved", "mpipar: stopped with a checkpoint; submit it again to go on"],
    )  # fmt: skip


@pytest.mark.parametrize("code", [0, 1, 2, 137])
def test_another_end_is_the_jobs_own(start: Start, tmp_path: Path, code: int) -> None:
    process = start(f'case "$*" in *doctor*) exit 0;; esac; exit {code}')
    assert signalled(process, tmp_path) == (code, "")
    assert calls(tmp_path / "fakes", "scontrol") == []


def test_a_doctor_that_finds_something_wrong_stops_the_job(start: Start, tmp_path: Path) -> None:
    assert signalled(start("exit 1"), tmp_path) == (1, "")
    assert len(calls(tmp_path / "fakes", "srun")) == 1


# ---- texts that would be shell --------------------------------------------------------------------------------------


def refusal(make: Callable[[], object]) -> str:
    """The message of a UsageError; empty where there is none."""
    try:
        make()
    except UsageError as error:
        return str(error)
    return ""


def accepted(here: Path, text: str) -> dict[str, Any]:
    """The fields of [slurm] that take this text; each of the others refuses it in one message of one line."""
    fields: dict[str, Any] = {}
    for option in options(Slurm).values():
        if option.flag.choices or not isinstance(option.default, str | tuple):
            continue
        inside = f"X={text}" if option.field == "environment" else text
        value = inside if isinstance(option.default, str) else [inside]
        problem = refusal(
            partial(lambda entry: read(write(here / "a.toml", slurm=entry)), {option.field: value})
        )
        assert "\n" not in problem
        assert "\x1b" not in problem
        if not problem:
            fields[option.field] = value
    return fields


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_that_a_user_writes_becomes_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    fields = accepted(tmp_path, text)
    assert not {"name", "account", "qos", "memory", "time"} & set(fields), fields
    fakes = tmp_path / "fakes"
    program(fakes, "srun", f'printf "%s" "$X" > "{fakes}/x"')
    program(fakes, "module", "")
    on_path(monkeypatch, fakes)
    if "venv" in fields:
        activate = tmp_path / text / "bin" / "activate"
        activate.parent.mkdir(parents=True)
        activate.touch()
        monkeypatch.setattr("os.path.expanduser", lambda path: path)
    before = set(os.listdir(tmp_path))
    script = rendered(tmp_path, {"out": "run"}, fields)
    assert set(directives(script)) <= set(
        directives(rendered(tmp_path, slurm={"partition": "p", "constraint": "c"}))
    )
    done = subprocess.run(
        ["bash"], input=script, cwd=tmp_path, text=True, capture_output=True, timeout=20,
        check=False, env={"PATH": os.environ["PATH"], "SLURM_CPUS_PER_TASK": "1"},
    )  # fmt: skip
    assert set(os.listdir(tmp_path)) == before, done.stderr
    assert (done.returncode, done.stderr) == (0, "")
    (_, words) = calls(fakes, "srun")
    if "environment" in fields:
        assert (fakes / "x").read_text() == text
    if "program" in fields:
        assert words[-3:] == [text, "--config", f"{tmp_path}/run/job-1.toml"]
        assert words[-5:-4] == [text] if "python" in fields else True


@pytest.mark.parametrize("text", HOSTILE)
def test_a_directory_of_results_is_plain_or_refused(tmp_path: Path, text: str) -> None:
    """It is part of an `#SBATCH` line, where sbatch reads % and quotes."""
    problem = refusal(lambda: rendered(tmp_path, out=text))
    if problem:
        assert "is part of the name of SLURM's log" in problem
        return
    script = rendered(tmp_path, out=text)
    log = directives(script)["output"]
    assert log == f'"{tmp_path}/{text}/slurm-%j.out"'
    assert set(text) <= set(" ._/+@=,~:-") | set("abcdefghijklmnopqrstuvwxyz")


def test_the_paths_of_the_run_have_no_control_characters(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no newlines and no control characters"):
        rendered(tmp_path, {"data": ["a\nb"]})
