"""A checkpoint that is not as it was written is refused before a weight changes, with the file and the reason.

Then the next older one is taken, or with `strict` none. A failure names the kind of damage.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from grids import ONE_AXIS
from trained import Trained
from xxhash import xxh3_128_hexdigest

from mpipar import CheckpointError, Mesh, UsageError
from mpipar.checkpoint import latest, load, save, verify
from mpipar.checkpoint.index import INDEX, INDEX_HASH, MAX_INDEX
from mpipar.job import world
from mpipar.job.agree import on_first_rank
from mpipar.optim import SGD, Adam

MESH = Mesh(**ONE_AXIS)
FIRST, NAME = "rank-00000.safetensors", "model/norm.gain"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """Two checkpoints; and what is in the older one."""
    directory = Path(world().broadcast_object(str(tmp_path_factory.mktemp("pristine"))))
    run = Trained(MESH, seed=9)
    run.train(0, 1)
    save(directory, 1, run.model, run.optimizer)
    bits = run.bits()
    run.train(1, 2)
    save(directory, 2, run.model, run.optimizer)
    return directory, bits


@pytest.fixture
def two(pristine: tuple[Path, dict[str, bytes]], directory: Path) -> tuple[Path, dict[str, bytes]]:
    """A copy of them."""
    on_first_rank(world(), lambda: shutil.copytree(pristine[0], directory, dirs_exist_ok=True))
    return directory, pristine[1]


def edited(change: Callable[[dict[str, Any]], Any], sign: bool = True) -> Callable[[Path], None]:
    """A change to the index; the hash is made anew, so that only what it says can give it away."""

    def damage(path: Path) -> None:
        index = json.loads((path / INDEX).read_text())
        text = json.dumps(change(index) or index)
        (path / INDEX).write_text(text)
        if sign:
            sign_index(path)

    return damage


def sign_index(path: Path) -> None:
    digest = xxh3_128_hexdigest((path / INDEX).read_bytes())
    (path / INDEX_HASH).write_text(f"{digest}  {INDEX}\n")


def in_shard(change: Callable[[bytes], bytes], sign: bool = False) -> Callable[[Path], None]:
    """A change to a shard; with `sign` the index has its new hash and length."""

    def damage(path: Path) -> None:
        content = change((path / FIRST).read_bytes())
        (path / FIRST).write_bytes(content)
        if sign:
            new = {"bytes": len(content), "xxh3_128": xxh3_128_hexdigest(content)}
            edited(lambda index: index["files"].update({FIRST: new}))(path)

    return damage


def in_header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """A change to the header of a shard, signed."""

    def damage(content: bytes) -> bytes:
        stop = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:stop])
        text = json.dumps(change(header) or header).encode()
        return len(text).to_bytes(8, "little") + text + content[stop:]

    return in_shard(damage, sign=True)


def flipped(content: bytes) -> bytes:
    place = len(content) - 3
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


def put(name: str, text: str | bytes) -> Callable[[Path], None]:
    return lambda path: (path / name).write_bytes(text if isinstance(text, bytes) else text.encode()) and None


def renamed_file(to: str) -> Callable[[Path], None]:
    """The index, signed, names a file otherwise."""

    def change(index: dict[str, Any]) -> dict[str, Any]:
        return json.loads(json.dumps(index).replace(FIRST, to))

    return edited(change)


def swap(path: Path) -> None:
    names = sorted(file.name for file in path.glob("*.safetensors"))
    (path / names[0]).rename(path / "aside")
    (path / names[-1]).rename(path / names[0])
    (path / "aside").rename(path / names[-1])


def link(path: Path) -> None:
    (path / FIRST).rename(path.parent / "outside")
    (path / FIRST).symlink_to(path.parent / "outside")


def slices(change: Callable[[list[Any]], Any]) -> Callable[[Path], None]:
    """A change to the slices of the largest tensor of the first file."""

    def on_index(index: dict[str, Any]) -> None:
        tensor = index["tensors"]["model/embedding.weight"]
        tensor["slices"] = change(tensor["slices"]) or tensor["slices"]

    return edited(on_index)


def overlap(index: dict[str, Any]) -> None:
    index["files"]["more.safetensors"] = {"bytes": 0, "xxh3_128": "0" * 32}
    index["tensors"]["model/embedding.weight"]["slices"] += [["more.safetensors", [100, 0], [256, 20]]]


def shape(index: dict[str, Any]) -> None:
    index["tensors"][NAME] |= {"shape": [10], "slices": [[index["tensors"][NAME]["slices"][0][0], [0], [10]]]}


def many(path: Path) -> None:
    entry = '{"dtype":"float32","shape":[0],"slices":[]}'
    tensors = ",".join(f'"w{i}":{entry}' for i in range(1_000_000))
    (path / INDEX).write_text(
        '{"format":"mpipar checkpoint","version":1,"step":2,"mesh":{},"versions":{},"files":{},"tensors":{'
        f"{tensors}}}}}"
    )
    sign_index(path)


def no_tensor(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda index: index["tensors"].pop(name) and None


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a truncated shard": (in_shard(lambda x: x[:-1]), f"{FIRST}: .* bytes, .* were written"),
    "a shard cut to half": (in_shard(lambda x: x[: len(x) // 2]), f"{FIRST}: .* bytes, .* were written"),
    "an empty shard": (in_shard(lambda x: b""), f"{FIRST}: 0 bytes, .* were written"),
    "one flipped bit": (in_shard(flipped), f"{FIRST}: its bytes are not those whose hash"),
    "a deleted shard": (lambda path: (path / FIRST).unlink(), f"{FIRST}: No such file"),
    "appended bytes": (in_shard(lambda x: x + b"more"), f"{FIRST}: .* bytes, .* were written"),
    "appended bytes, signed": (in_shard(lambda x: x + b"more", sign=True), f"{FIRST}: .* tensors end at"),
    "a directory as shard": (
        lambda path: ((path / FIRST).unlink(), (path / FIRST).mkdir()),
        f"{FIRST}: not a file",
    ),
    "a link as shard": (link, f"{FIRST}: .*symbolic link"),
    "a huge header": (
        in_shard(lambda x: (2**40).to_bytes(8, "little") + x[8:], sign=True),
        f"{FIRST}: a header of 1099511627776 bytes",
    ),
    "a header that is no JSON": (in_header(lambda header: "text"), f"{FIRST}: not a JSON object"),
    "a tensor that the header lacks": (
        in_header(lambda header: {k: v for k, v in header.items() if k != "model/embedding.weight"}),
        FIRST,
    ),
    "no index": (lambda path: (path / INDEX).unlink(), "index.json: No such file"),
    "no hash of the index": (lambda path: (path / INDEX_HASH).unlink(), "index.xxh128: No such file"),
    "an index changed by a digit": (
        edited(lambda x: x.update(step=3), sign=False),
        "its bytes are not those",
    ),
    "an index that is no JSON": (
        lambda path: (put(INDEX, "{no json")(path), sign_index(path)),
        "index.json: not JSON",
    ),
    "an index that is cut": (
        lambda path: (put(INDEX, (path / INDEX).read_bytes()[:-20])(path), sign_index(path)),
        "index.json: not JSON",
    ),
    "an index of zeros": (lambda path: (put(INDEX, bytes(100))(path), sign_index(path)), "not JSON"),
    "an index that nests": (lambda path: (put(INDEX, "[" * 99_999)(path), sign_index(path)), "nested"),
    "an index that is too long": (put(INDEX, bytes(MAX_INDEX + 1)), "are the most"),
    "a million tensors": (many, "1000000 tensors, 100000 are the most"),
    "objects without end": (
        lambda path: (put(INDEX, "[" + "{}," * 5_000_000 + "{}]")(path), sign_index(path)),
        "lists and objects, 4194304 are the most",
    ),
    "another format": (edited(lambda x: x.update(format="other")), "'mpipar checkpoint' version 1 is wanted"),
    "a newer version": (edited(lambda x: x.update(version=2)), "version 2, .* version 1 is wanted"),
    "a step that is a word": (edited(lambda x: x.update(step="2")), "'step' must be a whole number"),
    "no files": (edited(lambda x: x.pop("files") and None), "'files' and 'tensors' must be objects"),
    "a file above": (renamed_file("../outside.safetensors"), "below no directory, not ../outside"),
    "an absolute file": (renamed_file("/etc/x.safetensors"), "below no directory, not /etc/x"),
    "a hidden file": (renamed_file(".x.safetensors"), "below no directory, not .x"),
    "a file with a negative length": (
        edited(lambda x: x["files"][FIRST].update(bytes=-1)),
        "needs bytes and xxh3_128",
    ),
    "a file that is not listed": (edited(lambda x: x["files"].pop(FIRST) and None), "that 'files' lacks"),
    "an unknown dtype": (edited(lambda x: x["tensors"][NAME].update(dtype="complex64")), "an unknown dtype"),
    "a shape of 2⁶⁴": (
        edited(lambda x: x["tensors"][NAME].update(shape=[2**64])),
        "an unknown dtype or shape",
    ),
    "a wrong shape": (edited(shape), f"'{NAME}' is .*index.json says .*10"),
    "a dtype of another width": (
        edited(lambda x: x["tensors"][NAME].update(dtype="float32")),
        f"'{NAME}' is .*float64.*index.json says .*float32",
    ),
    "a missing slice": (
        slices(lambda found: found[1:] or [[*found[0][:2], [255, 20]]]),
        "slices are missing in dim 0",
    ),
    "overlapping slices": (edited(overlap), "'model/embedding.weight': slices overlap in dim 0"),
    "a slice outside": (slices(lambda found: [[found[0][0], [0, 0], [999, 20]], *found[1:]]), "none of it"),
    "a slice of other dims": (slices(lambda found: [[found[0][0], [0], [256]], *found[1:]]), "none of it"),
    "a slice twice": (slices(lambda found: [found[0], *found]), "two slices in one file"),
    "a tensor the file has and the index lacks": (edited(no_tensor(NAME)), f"'{NAME}' is .*says None"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_refused_and_the_next_older_one_taken(
    name: str, two: tuple[Path, dict[str, bytes]]
) -> None:
    damage, reason = DAMAGE[name]
    refuses(*two, damage, reason)


def test_swapped_shards_are_refused(two: tuple[Path, dict[str, bytes]]) -> None:
    if world().size > 1:
        refuses(*two, swap, "were written|not those whose hash")


def refuses(directory: Path, bits: dict[str, bytes], damage: Callable[[Path], Any], reason: str) -> None:
    broken = directory / "step-00000002"
    on_first_rank(world(), lambda: damage(broken) and None)
    run = Trained(MESH)
    before, begin = run.bits(), time.process_time()
    with pytest.raises(CheckpointError, match=reason) as caught:
        load(directory, run.model, run.optimizer, strict=True)
    assert time.process_time() - begin < 10
    assert str(caught.value).startswith(str(broken))
    assert str(caught.value) == world().broadcast_object(str(caught.value))
    assert len(str(caught.value)) < 1000
    assert run.bits() == before
    found = load(directory, run.model, run.optimizer)
    assert found is not None
    assert (found.step, found.refused) == (1, (str(caught.value),))
    assert run.bits() == bits
    assert latest(directory, world()) == directory / "step-00000001"
    assert verify(broken)[0] == str(caught.value).partition(" (on rank")[0]


def test_where_none_is_good_it_says_why_of_each(two: tuple[Path, dict[str, bytes]]) -> None:
    directory, _ = two
    for step in (1, 2):
        on_first_rank(world(), lambda: in_shard(flipped)(directory / f"step-0000000{step}"))  # noqa: B023
    run = Trained(MESH)
    before = run.bits()
    with pytest.raises(CheckpointError, match=r"no good checkpoint is left:\n  .*00000002.*\n  .*00000001.*"):
        load(directory, run.model)
    assert run.bits() == before


def test_nothing_there_is_none(directory: Path) -> None:
    run = Trained(MESH)
    assert load(directory, run.model) is None
    assert load(directory / "not there", run.model) is None
    assert latest(directory, world()) is None
    on_first_rank(world(), lambda: (directory / "file").write_text("no checkpoint"))
    with pytest.raises(CheckpointError, match="file is not a directory"):
        load(directory / "file", run.model)


def test_one_checkpoint_can_be_named(two: tuple[Path, dict[str, bytes]]) -> None:
    directory, bits = two
    run = Trained(MESH)
    found = load(directory / "step-00000001", run.model, run.optimizer)
    assert found is not None
    assert (found.step, run.bits()) == (1, bits)
    on_first_rank(world(), lambda: shutil.copytree(directory / "step-00000001", directory / "elsewhere"))
    assert load(directory / "elsewhere", run.model) is not None


def test_what_does_not_fit_the_model_is_refused_and_changes_nothing(directory: Path) -> None:
    run = Trained(MESH)
    save(directory, 1, run.model, run.optimizer)
    other = Trained(MESH, dtype="float32", seed=4)
    before = other.bits()
    parameters = other.model.parameters()
    cases = [
        (other.model, None, "'model/.*' is float64, the model's is float32; cast=True converts it"),
        (
            other.model,
            Adam(parameters, 0.1),
            "is of the optimizer AdamW, this one is Adam: load the weights alone",
        ),
        (other.model, SGD(parameters, 0.1), "this one is SGD"),
        (run.model.embedding, None, "holds .*, which the model does not have"),
    ]
    for model, optimizer, message in cases:
        with pytest.raises(UsageError, match=message):
            load(directory, model, optimizer)
    assert other.bits() == before
    save(directory / "weights", 1, run.model)
    with pytest.raises(UsageError, match="holds no optimizer: load the weights alone"):
        load(directory / "weights", run.model, run.optimizer)


def test_weights_alone_in_another_dtype(directory: Path) -> None:
    """What a run is initialised from."""
    run = Trained(MESH)
    save(directory, 1, run.model, run.optimizer)
    other = Trained(MESH, dtype="float32", seed=4)
    load(directory, other.model, cast=True)
    for mine, theirs in zip(other.model.parameters(), run.model.parameters(), strict=True):
        assert (mine.numpy() == theirs.numpy().astype("float32")).all()
    assert not any(map(any, (x.numpy().ravel() for x in other.optimizer.moments.tensors().values())))
