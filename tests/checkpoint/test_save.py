"""What a save leaves behind, when it goes well and when a rank cannot write.

A failure shows the names in the directory.
"""

from __future__ import annotations

import json
import resource
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from grids import ONE_AXIS
from trained import Trained

import mpipar as mp
from mpipar import CheckpointError, Mesh, Partial, Shard, UsageError
from mpipar.checkpoint import Saver, latest, load, save, saver, shard
from mpipar.job import world
from mpipar.job.lock import Lock

MESH = Mesh(**ONE_AXIS)


class Weights:
    """Named Tensors, and nothing else: all that a checkpoint asks of a model."""

    def __init__(self, **tensors: Any) -> None:
        self.tensors = tensors

    def state_dict(self) -> dict[str, Any]:
        return self.tensors

    def load_state_dict(self, state: Any) -> None:
        pass


def weights(value: float = 1.0) -> Weights:
    return Weights(w=mp.full((7, 3), value, MESH, tp=Shard(0)), whole=mp.full((2,), value, MESH))


def names(directory: Path) -> list[str]:
    world().barrier()
    found = sorted(path.name for path in directory.iterdir() if path.name != ".lock")
    world().barrier()
    return found


def value_of(path: Path) -> float:
    found = weights(0.0)
    load(path, found)
    (value,) = set(found.tensors["w"].numpy().ravel().tolist())
    return float(value)


def spoil(path: Path) -> None:
    """One flipped bit, by rank 0."""
    if world().rank == 0:
        file = sorted(path.glob("*.safetensors"))[0]
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    world().barrier()


def test_the_index_says_what_the_run_was(directory: Path) -> None:
    run = Trained(MESH)
    run.train(0, 1)
    path = save(directory, 12, run.model, run.optimizer, config={"lr": 0.1}, data={"epoch": 2}, seed=5)
    assert path == directory / "step-00000012"
    index = json.loads((path / "index.json").read_text())
    assert (index["step"], index["config"], index["data"], index["seed"]) == (
        12,
        {"lr": 0.1},
        {"epoch": 2},
        5,
    )
    assert index["optimizer"]["kind"] == "AdamW"
    assert (index["optimizer"]["steps"], index["optimizer"]["betas"]) == (1, [0.9, 0.95])
    assert {"python", "numpy", "mpipar"} <= index["versions"].keys()
    assert set(index["files"]) == {file.name for file in path.glob("*.safetensors")}
    assert index["mesh"] == ({"tp": world().size} if world().size > 1 else {})


def test_replicas_write_once_and_every_rank_writes(directory: Path) -> None:
    rows = 64 * world().size
    model = Weights(big=mp.zeros((rows, 256), MESH))
    path = save(directory, 1, model)
    sizes = [file.stat().st_size for file in path.glob("*.safetensors")]
    assert len(sizes) == world().size
    assert rows * 1024 <= sum(sizes) < rows * 1024 + 200 * world().size
    assert max(sizes) - min(sizes) < 200


@pytest.mark.parametrize("background", [False, True])
def test_the_newest_are_kept(directory: Path, background: bool) -> None:
    with Saver(directory, keep=2, background=background) as keeping:
        for step in range(5):
            keeping.save(step, weights(step))
    assert names(directory) == ["step-00000003", "step-00000004"]
    assert value_of(directory) == 4
    save(directory, 9, weights(), keep=None)
    assert len(names(directory)) == 3


def test_broken_ones_do_not_count_among_those_that_are_kept(directory: Path) -> None:
    for step in range(3):
        save(directory, step, weights(step), keep=None)
    spoil(directory / "step-00000002")
    save(directory, 3, weights(3), keep=2)
    assert names(directory) == ["step-00000001", "step-00000002", "step-00000003"]


def test_a_step_is_saved_again_in_the_place_of_the_old(directory: Path) -> None:
    for value in (1, 2):
        save(directory, 5, weights(value))
        assert names(directory) == ["step-00000005"]
        assert value_of(directory) == value


@pytest.mark.parametrize("complete", [False, True])
def test_a_replacement_that_was_broken_off_loses_nothing(directory: Path, complete: bool) -> None:
    """Killed between the two renames, or between the second and the removal of the old."""
    old = save(directory, 5, weights(1))
    if world().rank == 0:
        old.rename(directory / ".replaced-step-00000005")
    world().barrier()
    if complete:
        new = save(directory, 6, weights(2))
        if world().rank == 0:
            (directory / "step-00000005").rename(directory / ".replaced-step-00000005")
            new.rename(directory / "step-00000005")
        world().barrier()
    assert value_of(directory) == (2 if complete else 1)
    save(directory, 7, weights(3))
    assert names(directory) == ["step-00000005", "step-00000007"]
    assert value_of(directory / "step-00000005") == (2 if complete else 1)


def test_what_a_killed_save_left_is_removed(directory: Path) -> None:
    if world().rank == 0:
        (directory / ".tmp-step-00000001").mkdir()
        (directory / ".tmp-step-00000001" / "rank-00000.safetensors").write_bytes(b"half")
    save(directory, 2, weights())
    assert names(directory) == ["step-00000002"]


def test_the_directory_of_a_save_that_is_under_way_is_left_alone(directory: Path) -> None:
    lock = Lock(directory) if world().rank == 0 else None
    if world().rank == 0:
        (directory / ".tmp-step-00000001").mkdir()
    with pytest.raises(UsageError, match=r"is in use by host .*, pid \d+"):
        save(directory, 2, weights())
    assert names(directory) == [".tmp-step-00000001"]
    if lock:
        lock.release()
    save(directory, 2, weights())


def test_a_checkpoint_that_is_a_link_is_removed_and_its_target_stays(directory: Path) -> None:
    save(directory / "other", 1, weights())
    if world().rank == 0:
        (directory / "step-00000001").symlink_to(directory / "other" / "step-00000001")
    world().barrier()
    assert value_of(directory) == 1
    save(directory, 2, weights(2), keep=1)
    assert names(directory) == ["other", "step-00000002"]
    assert names(directory / "other") == ["step-00000001"]


def test_saving_and_loading_take_two_buckets_of_memory(directory: Path) -> None:
    model = Weights(w=mp.zeros((8 * shard.BUCKET // 4000, 1000), MESH))
    tracemalloc.start()
    save(directory, 1, model)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.2 * shard.BUCKET
    other = Weights(w=mp.ones((8 * shard.BUCKET // 4000, 1000), MESH))
    tracemalloc.start()
    load(directory, other)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.2 * shard.BUCKET
    assert not other.tensors["w"].local.any()


# ---- in the background ----------------------------------------------------------------------------------


@contextmanager
def held_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The last rank's thread waits before it writes."""
    go = threading.Event()
    written = saver.write_shard

    def later(*args: Any) -> Any:
        if world().rank == world().size - 1:
            assert go.wait(20)
        return written(*args)

    monkeypatch.setattr(saver, "write_shard", later)
    yield go
    go.set()


def test_training_goes_on_and_the_checkpoint_has_the_weights_of_its_step(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, behind = weights(1), Saver(directory, background=True)
    with held_back(monkeypatch) as go:
        behind.save(1, model)
        for tensor in model.tensors.values():
            MESH.xp.fill(tensor.local, 2)
        assert behind.poll() is None
        assert latest(directory, world()) is None
        go.set()
        behind.save(2, model)  # ends the first one
        assert (directory / "step-00000001").is_dir()
    behind.close()
    assert [value_of(directory / name) for name in names(directory)] == [1, 2]


def test_poll_ends_a_save_when_all_ranks_have_written(directory: Path) -> None:
    with Saver(directory, background=True) as behind:
        assert behind.poll() is None
        behind.save(1, weights())
        for _ in range(5000):
            if path := behind.poll():
                break
            time.sleep(0.001)
        assert path == directory / "step-00000001"
        assert behind.poll() is None


# ---- a rank that cannot write ---------------------------------------------------------------------------


def refusal_of_save(behind: Saver) -> str:
    """What comes of a save of step 2, at once or when it is waited for."""
    try:
        behind.save(2, weights(2))
        behind.wait()
    except CheckpointError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize(
    "place", ["save.before_shard", "save.in_shard", "save.before_fsync", "save.after_shard"]
)
def test_an_error_on_one_rank_is_told_on_all(
    directory: Path, place: str, background: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(directory, 1, weights(1))
    last = world().size - 1
    monkeypatch.setenv("MPIPAR_TESTING", "1")
    monkeypatch.setenv("MPIPAR_FAULT", f"eio@{place}:rank={last}")
    going_on = Saver(directory, background=background)
    text = refusal_of_save(going_on)
    assert text == world().broadcast_object(text)
    assert "step-00000002 cannot be written: Input/output error" in text
    assert world().size == 1 or f"(on rank {last}; the other ranks had no trouble)" in text
    assert names(directory) == ["step-00000001"]
    monkeypatch.delenv("MPIPAR_FAULT")
    going_on.save(3, weights(3))
    going_on.close()
    assert value_of(directory) == 3


def test_a_file_that_may_not_grow_is_told(directory: Path) -> None:
    save(directory, 1, weights(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    big = Weights(w=mp.zeros((1000, 1000), MESH, tp=Shard(0)))
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        with pytest.raises(CheckpointError, match=r"step-00000002 cannot be written: File too large"):
            save(directory, 2, big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(directory) == ["step-00000001"]
    assert value_of(directory) == 1


def test_what_cannot_be_saved_is_refused_before_anything_is_written(directory: Path) -> None:
    cases = {
        "cannot hold 'model/w', float32 .*tp=Partial": Weights(w=mp.zeros((2,), MESH, tp=Partial())),
        "the model has no parameters": Weights(),
    }
    for message, model in cases.items():
        with pytest.raises(UsageError, match=message):
            save(directory, 1, model)
    for note in ({"x": object()}, float("nan")):
        with pytest.raises(UsageError, match="must be JSON"):
            save(directory, 1, weights(), config=note)
    for step in (-1, 1.5, True, 10**15):
        with pytest.raises(UsageError, match="a whole number"):
            save(directory, step, weights())
    with pytest.raises(UsageError, match="keep=0: write how many"):
        Saver(directory, keep=0)
    (directory / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"file cannot be written: (File exists|Not a directory)"):
        save(directory / "file", 1, weights())
    assert names(directory) == ["file"]


def test_an_unknown_fault_is_refused(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPIPAR_FAULT", "kill@nowhere")
    save(directory, 1, weights())  # not in testing
    monkeypatch.setenv("MPIPAR_TESTING", "1")
    with pytest.raises(UsageError, match="places are save"):
        save(directory, 2, weights())
