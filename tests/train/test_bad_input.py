"""Bad input ends in one message, said once, exit code 2, no traceback, nothing written, before anything large is made.

Every run asks for a model that no memory could hold, so one that went on to build it would fail otherwise. A failure
shows what was said, or which files were left behind.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from runs import attempt, write_text

from mpipar.data.tokenfile import Header
from mpipar.parallel.schedule import as_text, make, write
from mpipar.testing import Finished

pytestmark = pytest.mark.launches

HUGE = "--width 6000000000000 --heads 6"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Where the run is started: with texts, an empty one, one too short, and an empty directory."""
    write_text(tmp_path / "words.txt")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "short.txt").write_text("x" * 257)  # two windows of 129 bytes are wanted
    (tmp_path / "directory").mkdir()
    (tmp_path / "key.toml").write_text("steps = 3\nbatchs = 3\n")
    (tmp_path / "type.toml").write_text("steps = 'ten'\n")
    (tmp_path / "range.toml").write_text("dropout = 1.0\n")
    (tmp_path / "syntax.toml").write_text("steps: 3\n")
    (tmp_path / "settings.py").write_text(SETTINGS)
    write(make("gpipe", 3, 8), tmp_path / "three.toml")
    write(make("gpipe", 2, 4), tmp_path / "four.toml")
    write(make("interleaved", 2, 8, chunks=3), tmp_path / "six.toml")
    text = as_text(make("1f1b", 2, 8))
    text = (
        text.replace("backward 1 0", "?").replace("forward 1 0", "backward 1 0").replace("?", "forward 1 0")
    )
    (tmp_path / "swapped.toml").write_text(text)
    tokens = Header("uint16", 1000, 300, "own", bytes(32)).packed() + 1000 * b"\7\0"
    (tmp_path / "cut.bin").write_bytes(tokens[:-1])
    (tmp_path / "magic.bin").write_bytes(b"x" + tokens[1:])
    (tmp_path / "beyond.bin").write_bytes(tokens[:-2] + b"\x2c\1")
    return tmp_path


SETTINGS = """\
from mpipar.config import TrainConfig
from mpipar.job.launcher import launched_rank

def by_rank(): return TrainConfig(data=("words.txt",), steps=launched_rank())
def fails(): raise ValueError("no idea")
"""


def tree(top: Path) -> dict[str, tuple[int, int]]:
    """All that is below a directory, with sizes and times."""
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in top.rglob("*")}


def refused(ranks: int, flags: str, here: Path, message: str) -> None:
    """The run ends as the head of this file says, and the one message has these words."""
    before = tree(here)
    finished = attempt(ranks, flags.split(), here)
    told = spoken(finished)
    assert finished.returncode == 2, told
    assert told.count(message) == 1, told
    assert "Traceback" not in told
    assert len(told.splitlines()) == 1, told
    assert tree(here) == before


def spoken(finished: Finished) -> str:
    """What train.py said. Open MPI's launcher adds a report between two rules, and at times an error of its own."""
    assert finished.stdout == ""
    lines, report = [], False
    for line in finished.stderr.splitlines():
        if line and set(line) == {"-"}:
            report = not report
        elif line and not report and not re.match(r"\[\S+:\d+\] PMIX ERROR", line):
            lines.append(line)
    return "\n".join(lines)


PIPE = "--mesh pp=2 --micro-batch 4"  # 32 rows: 8 micro-batches
BAD = {
    "more stages than layers": (
        f"{PIPE} --layers 1",
        "--layers 1 are fewer than the 2 stages of --schedule 1f1b over pp=2",
    ),
    "fewer micro-batches than stages": (
        "--mesh pp=2",
        "--batch 32 in 1 micro-batch over 2 stages: the ranks of pp would wait 50 % of the time; "
        "write --micro-batch 16 or less",
    ),
    "an unknown schedule": (f"{PIPE} --schedule 1f2b", "--schedule 1f2b is unknown: did you mean 1f1b?"),
    "a schedule without a pipeline": (
        "--schedule gpipe",
        "--schedule gpipe needs a pipeline: write --mesh pp=2",
    ),
    "a schedule that is no file": (f"{PIPE} --schedule gone.toml", "gone.toml cannot be read: No such file"),
    "a schedule for other ranks": (
        f"{PIPE} --schedule three.toml",
        "three.toml: it is for ranks = 3, and this run has 2",
    ),
    "a schedule for other micro-batches": (
        f"{PIPE} --schedule four.toml",
        "four.toml: it is for micro_batches = 4, and this run has 8",
    ),
    "a schedule of more stages than layers": (
        f"{PIPE} --schedule six.toml",
        "--schedule six.toml has 6 stages, the model --layers 4: write --layers 6 or more",
    ),
    "a schedule that no ranks could run": (
        f"{PIPE} --schedule swapped.toml",
        "swapped.toml: 1f1b: rank 1, action 1 (backward 1 0) stands before what it needs",
    ),
    "unknown flag": ("--stepz 3", "unknown flag --stepz: did you mean --steps?"),
    "unknown short flag": ("-n 3", "unknown flag -n"),
    "a word alone": ("words.txt", "'words.txt' stands alone"),
    "no value": ("--steps", "--steps needs a value"),
    "a value for a switch": ("--sequence-parallel yes", "'yes' stands alone"),
    "wrong type": ("--steps ten", "--steps: 'ten' given, a whole number wanted"),
    "a fraction of a step": ("--steps 1.5", "--steps: '1.5' given, a whole number wanted"),
    "not a number": ("--lr fast", "--lr: 'fast' given"),
    "an infinite number": ("--lr inf", "--lr inf: must be a finite number, above 0"),
    "steps below 0": ("--steps -1", "--steps -1: must be a whole number, at least 0"),
    "micro-batch below 0": ("--micro-batch -1", "--micro-batch -1: must be"),
    "dropout of everything": ("--dropout 1", "--dropout 1.0: must be a finite number, at least 0, below 1"),
    "unknown dtype": (
        "--dtype float8",
        "--dtype float8 is unknown: did you mean float64? Known: float32, float64",
    ),
    "unknown optimizer": ("--optimizer adamm", "--optimizer adamm is unknown: did you mean adam?"),
    "too many ranks in the mesh": (
        "--mesh dp=2,tp=2",
        "needs 4 ranks, the job has 2: write --mesh dp=2 or tp=2",
    ),
    "too few ranks in the mesh": ("--mesh tp=1", "needs 1 rank, the job has 2: write --mesh dp=2 or tp=2"),
    "unknown axis": ("--mesh td=2", "unknown axis 'td': did you mean tp?"),
    "an axis without use": ("--mesh cp=2", "leave cp out"),
    "an axis without a size": ("--mesh tp", "'tp' is no axis; write name=size"),
    "a size of nothing": ("--mesh tp=0", "the size of 'tp' is '0'"),
    "an axis twice": ("--mesh tp=2,tp=1", "axis 'tp' is written twice"),
    "fewer heads than tp": (
        "--mesh tp=2 --heads 1",
        "--heads 1 are fewer than the 2 ranks of tp: write --heads 2",
    ),
    "width and heads": ("--width 100", "--width 100 is not divisible by --heads 6: write --width 102"),
    "a batch below dp": ("--batch 1", "--batch 1 is smaller than the 2 ranks of dp: write --batch 2"),
    "unknown style": (
        "--style lama",
        "--style lama is unknown: did you mean llama? Known: gpt2, llama",
    ),
    "heads of keys that do not divide": (
        "--style llama --heads 6 --kv-heads 4",
        "--kv-heads 4 does not divide --heads 6: write --kv-heads 3 or 6",
    ),
    "more heads of keys than heads": (
        "--style llama --heads 6 --kv-heads 12",
        "--kv-heads 12 is more than --heads 6: write --kv-heads 6 or less",
    ),
    "heads of keys below 0": (
        "--style llama --kv-heads -1",
        "--kv-heads -1: must be a whole number, at least 0",
    ),
    "heads of keys of GPT-2": (
        "--kv-heads 2",
        "--kv-heads is of --style llama: write --style llama, or leave --kv-heads out",
    ),
    "rotary positions of GPT-2": ("--rope-base 500", "--rope-base is of --style llama"),
    "no wave": ("--style llama --rope-base 1", "--rope-base 1.0: must be a finite number, above 1"),
    "an odd head": (
        "--style llama --width 198 --heads 6",
        "--width 198 over --heads 6 is 33 features a head, and --style llama turns pairs of them: write --width 192",
    ),
    "no data there": ("--data nowhere.txt", "--data nowhere.txt does not exist"),
    "a glob without files": ("--data *.md", "--data *.md matches no file"),
    "an empty file": ("--data empty.txt", "--data is too short: 0 bytes in 1 file"),
    "an empty directory": ("--data directory", "--data directory is a directory without files"),
    "too short": (
        "--data short.txt",
        "--data is too short: 257 bytes in 1 file, and --context 128 needs 258",
    ),
    "not a file": ("--data /dev/null", "--data /dev/null is not a regular file"),
    "out below a file": ("--out words.txt/run", "--out words.txt/run cannot be written: "),
    "unknown key": ("--config key.toml", "key.toml, line 2: unknown key 'batchs': did you mean batch?"),
    "wrong type in a file": ("--config type.toml", 'type.toml, line 1: steps = "ten": a whole number wanted'),
    "out of range in a file": (
        "--config range.toml",
        "range.toml, line 1: dropout = 1.0: must be a finite number",
    ),
    "no TOML": ("--config syntax.toml", "--config syntax.toml is no TOML: "),
    "no config there": ("--config nowhere.toml", "--config nowhere.toml cannot be read: No such file"),
    "no config function": (
        "--config settings.py:by_rnk",
        "there is no by_rnk in settings.py: did you mean by_rank?",
    ),
    "a config function that fails": (
        "--config settings.py:fails",
        "settings.py:fails: ValueError: no idea (",
    ),
    "other settings on each rank": ("--config settings.py:by_rank", "rank 1 would run with other settings"),
    "a token file cut short": (
        "--data cut.bin",
        "cut.bin, byte 2255: the file ends, but 1,000 ids of uint16",
    ),
    "a token file of another magic": ("--data magic.bin", "magic.bin, byte 0: "),
    "a token beyond the vocabulary": ("--data beyond.bin", "beyond.bin, byte 2254: id 300 is not below 300"),
    "tokens and text": ("--data beyond.bin,words.txt", "words.txt, byte 0: "),
    "out is a file": ("--out words.txt", "--out words.txt cannot be written: "),
}


@pytest.mark.parametrize("case", list(BAD))
def test_two_ranks_say_it_once(here: Path, case: str) -> None:
    flags, message = BAD[case]
    data = "" if "--data" in flags else "--data words.txt"
    refused(2, f"{HUGE} {flags} {data}", here, message)


@pytest.mark.parametrize(
    "case",
    [
        "unknown flag",
        "fewer heads than tp",
        "no data there",
        "out below a file",
        "unknown key",
        "a token file cut short",
        "a token beyond the vocabulary",
    ],
)
def test_so_do_four_ranks_and_one(here: Path, case: str) -> None:
    flags, message = BAD[case]
    flags = flags.replace("tp=2", "tp=4")
    refused(
        4,
        f"{HUGE} {flags}",
        here,
        message.replace("the 2 ranks", "the 4 ranks").replace("--heads 2", "--heads 4"),
    )
    if "--mesh" not in flags:
        refused(0, f"{HUGE} {flags}", here, message)


def test_the_metrics_of_another_run_stay(here: Path) -> None:
    (here / "directory" / "metrics.jsonl").write_text('{"step": 1}\n')
    refused(
        2,
        f"{HUGE} --data words.txt --out directory",
        here,
        "--out directory holds the metrics.jsonl of another run",
    )


def test_the_config_of_another_run_stays(here: Path) -> None:
    """To run a written config again is to name another --out."""
    (here / "directory" / "config.toml").write_text("out = 'directory'\n")
    refused(
        2,
        f"{HUGE} --config directory/config.toml --data words.txt",
        here,
        "--out directory holds the config.toml of another run",
    )


def test_a_file_that_cannot_be_read(here: Path) -> None:
    path = unreadable(here)
    refused(2, f"{HUGE} --data {path}", here, f"cannot read {path}: Permission denied")


def unreadable(here: Path) -> Path:
    """A file with bytes that we may not read. Root may read all but what the kernel only lets write."""
    if os.geteuid() != 0:
        path = here / "secret.txt"
        path.write_text("x" * 1000)
        path.chmod(0)
        return path
    for path in Path("/sys").glob("bus/*/drivers_probe"):
        status = path.stat()
        if stat.S_IMODE(status.st_mode) == stat.S_IWUSR and status.st_size > 258:
            return path
    pytest.skip("root reads every file here: /sys has none that can only be written")


def test_a_directory_that_is_mounted_read_only(here: Path, read_only: Path) -> None:
    refused(2, f"{HUGE} --data words.txt --out {read_only}/run", here, f"{read_only} is not writable")


@pytest.fixture
def read_only(here: Path) -> Iterator[Path]:
    """An empty file system mounted read-only, or where we are no root a directory that we may not write."""
    path = here / "directory"
    if os.geteuid() != 0:
        path.chmod(0o500)
        yield path
        return
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro", "none", path], capture_output=True, text=True, check=False
    )
    if mount.returncode:
        pytest.skip(f"root cannot mount here: {mount.stderr.strip()}")
    yield path
    subprocess.run(["umount", path], check=True)


def test_help_is_no_error_and_is_said_once(here: Path) -> None:
    before = tree(here)
    finished = attempt(2, ["--help", "--stepz"], here)
    assert finished.returncode == 0
    assert finished.stdout.count("--steps N") == 1
    assert finished.stderr == ""
    assert tree(here) == before
