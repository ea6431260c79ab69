"""What is wrong before a run starts is said before it starts.

A failure shows a config that passed although it cannot run, one that was refused although it can, or a
message that does not say what to write.
"""

from __future__ import annotations

from math import inf, nan

import pytest

from mpipar.config import TrainConfig, check, mesh_axes, micro_batches, parse
from mpipar.config.train import CHUNKS, SCHEDULES
from mpipar.errors import UsageError
from mpipar.parallel.schedule import NAMES, make

pytestmark = pytest.mark.alone


@pytest.mark.parametrize(
    ("line", "ranks"),
    [
        ("", 1),
        ("", 4),
        ("--mesh dp=1", 1),
        ("--mesh dp=2,tp=2", 4),
        ("--mesh tp=3 --heads 4", 3),
        ("--mesh tp=4,pp=1,cp=1,ep=1", 4),
        ("--mesh pp=4 --micro-batch 8", 4),
        ("--mesh pp=3 --micro-batch 1 --batch 3 --layers 3 --schedule zero_bubble", 3),
        ("--mesh dp=2,pp=2,tp=2 --micro-batch 8 --schedule interleaved --sequence-parallel", 8),
        ("--mesh pp=2 --micro-batch 1 --schedule some/FILE.toml", 2),
        ("--batch 12", 5),
        ("--batch 4", 4),
        ("--steps 0 --val-every 0 --sample 0 --clip 0 --weight-decay 0 --warmup 0", 1),
        ("--mesh tp=4 --sequence-parallel --context 3", 4),
        ("--micro-batch 100 --batch 3", 3),
        ("--style llama", 1),
        ("--style llama --kv-heads 6 --rope-base 500000", 1),
        ("--mesh tp=4 --style llama --kv-heads 1", 4),
        ("--mesh tp=3 --style llama --heads 4 --kv-heads 2", 3),
        ("--style gpt2 --kv-heads 0 --rope-base 10000 --width 6", 1),  # heads of one feature
        (f"--seed {2**63 - 1} --dropout 0.999", 1),
        ("--dtype float16 --loss-scale 2 --recompute full --check-every 5", 1),
        ("--dtype bfloat16 --recompute selective", 4),
        ("--outer dp --inner-steps 32", 4),
        (
            "--outer dp --inner-steps 7 --steps 3 --mesh dp=2,tp=2 --outer-lr 1 --outer-momentum 0 --batch 2",
            4,
        ),
        ("--outer dp --inner-steps 1 --mesh dp=2,pp=2 --dtype bfloat16 --micro-batch 4 --optimizer sgd", 4),
    ],
)
def test_what_can_run_passes(line: str, ranks: int) -> None:
    check(parse(line.split()), ranks)


@pytest.mark.parametrize(
    ("line", "ranks", "message"),
    [
        (
            "--mesh dp=4,tp=2",
            4,
            "--mesh dp=4,tp=2 needs 8 ranks, the job has 4: "
            "write --mesh dp=4, dp=2,tp=2 or tp=4, or start mpirun -n 8",
        ),
        (
            "--mesh dp=4",
            1,
            "--mesh dp=4 needs 4 ranks, the job has 1: write --mesh dp=1, or start mpirun -n 4",
        ),
        (
            "--mesh tp=1",
            2,
            "--mesh tp=1 needs 1 rank, the job has 2: write --mesh dp=2 or tp=2, or start mpirun",
        ),
        ("--mesh dp=2 --heads 1 --batch 2", 7, "--mesh dp=2 needs 2 ranks, the job has 7: start mpirun -n 2"),
        (
            "--dtype float16 --loss-scale 0",
            1,
            "--loss-scale 0: float16 trains with a scale, a power of two above 1",
        ),
        (
            "--dtype float16 --loss-scale 1",
            1,
            "write --loss-scale 65536, or --dtype bfloat16, which needs none",
        ),
        ("--dtype float16 --loss-scale 1000", 1, "--loss-scale 1000: float16 trains with a scale"),
        (
            "--loss-scale 1024",
            1,
            "--loss-scale is of --dtype float16, this is float32: leave it out, or write",
        ),
        ("--recompute half", 1, "--recompute half is unknown"),
        (
            "--outer dp",
            2,
            "--outer dp needs the steps between two meetings: write --inner-steps 32, or leave",
        ),
        (
            "--inner-steps 32",
            2,
            "--inner-steps is of replicas that train apart: write --outer dp, or leave it",
        ),
        ("--outer-lr 1", 2, "--outer-lr is of replicas that train apart: write --outer dp, or leave it out"),
        (
            "--outer-momentum 0",
            2,
            "--outer-momentum is of replicas that train apart: write --outer dp, or leave",
        ),
        ("--outer tp --inner-steps 2", 2, "--outer tp is unknown: did you mean dp? Known: none, dp"),
        ("--outer dp --inner-steps -1", 2, "--inner-steps -1: must be a whole number, at least 0"),
        ("--outer dp --inner-steps 2 --outer-lr 0", 2, "--outer-lr 0.0: must be a finite number, above 0"),
        ("--outer dp --inner-steps 2 --outer-momentum 1", 2, "--outer-momentum 1.0: must be a finite number"),
        (
            "--outer dp --inner-steps 2",
            1,
            "--outer dp has a replica on each rank of dp, and one rank has dp=1",
        ),
        (
            "--outer dp --inner-steps 2 --mesh tp=2",
            2,
            "and --mesh tp=2 has dp=1: write a mesh with dp=2 or more",
        ),
        (
            "--outer dp --inner-steps 2 --zero 2",
            2,
            "--zero 2 cuts over dp, and with --outer dp each rank of dp has weights of its own: leave one",
        ),
        (
            "--outer dp --inner-steps 2 --mesh replica=2,dp=2",
            4,
            "--mesh replica=2,dp=2 has replicas of ZeRO, and with --outer dp each rank of dp has weights of its",
        ),
        (
            "--outer dp --inner-steps 2 --dtype float16",
            2,
            "each replica would skip other steps, by a loss scale of its own: write --dtype bfloat16",
        ),
        (
            "--outer dp --inner-steps 2 --batch 31",
            4,
            "--batch 31 does not divide over the 4 replicas of --outer dp: write --batch 28",
        ),
        ("--outer dp --inner-steps 2 --batch 3", 4, "replicas of --outer dp: write --batch 4"),
        ("--check-every -1", 1, "--check-every -1: must be a whole number, at least 0"),
        ("--device cpu --ranks-per-gpu 2", 2, "--ranks-per-gpu 2 with --device cpu: leave one of them out"),
        ("--device tpu", 1, "--device tpu is unknown: did you mean gpu? Known: auto, cpu, gpu"),
        ("--ranks-per-gpu 0", 1, "--ranks-per-gpu"),
        ("--mesh td=2", 2, "unknown axis 'td': did you mean tp?"),
        ("--mesh ep=2", 2, "--mesh ep=2: train.py cuts over dp, pp and tp only; leave ep out"),
        (
            "--mesh pp=4 --layers 3 --micro-batch 1",
            4,
            "--layers 3 are fewer than the 4 stages of --schedule 1f1b over pp=4: "
            "write --layers 4 or more, or --mesh pp=3 or less",
        ),
        (
            "--mesh pp=3 --layers 5 --micro-batch 1 --schedule interleaved",
            3,
            "--layers 5 are fewer than the 6 stages of --schedule interleaved over pp=3: "
            "write --layers 6 or more, or --mesh pp=2 or less",
        ),
        (
            "--mesh pp=2 --layers 1 --micro-batch 1",
            2,
            "--layers 1 are fewer than the 2 stages of --schedule 1f1b over pp=2: "
            "write --layers 2 or more, or a mesh without pp",
        ),
        (
            "--mesh pp=4",
            4,
            "--batch 32 in 1 micro-batch over 4 stages: the ranks of pp would wait 75 % of the time; "
            "write --micro-batch 8 or less",
        ),
        (
            "--mesh dp=2,pp=2 --micro-batch 9 --batch 18",
            4,
            "--batch 18 in 1 micro-batch over 2 stages: the ranks of pp would wait 50 % of the time; "
            "write --micro-batch 4 or less",
        ),
        (
            "--mesh pp=4 --batch 3 --micro-batch 1",
            4,
            "--batch 3 in 3 micro-batches over 4 stages: the ranks of pp would wait 50 % of the time; "
            "write --batch 4 or more",
        ),
        (
            "--mesh pp=2 --schedule gpip",
            2,
            "--schedule gpip is unknown: did you mean gpipe? Known: gpipe, 1f1b,",
        ),
        (
            "--schedule zero_bubble",
            1,
            "--schedule zero_bubble needs a pipeline: write --mesh pp=2, or leave it out",
        ),
        ("--schedule cosine", 1, "--schedule is that of the pipeline: write --lr-schedule cosine"),
        (
            "--mesh dp=4,pp=2",
            4,
            "--mesh dp=4,pp=2 needs 8 ranks, the job has 4: write --mesh dp=2,pp=2 or pp=2,tp=2, or start",
        ),
        ("--mesh dp=2,cp=2", 4, "--mesh dp=2,cp=2: train.py cuts over dp, pp and tp only; leave cp out"),
        ("--mesh ep=2", 2, "leave ep out"),
        (
            "--mesh tp=8",
            8,
            "--heads 6 are fewer than the 8 ranks of tp: write --heads 8 or more, or a mesh with tp=6",
        ),
        ("--width 100 --heads 6", 1, "--width 100 is not divisible by --heads 6: write --width 102"),
        ("--width 2 --heads 6", 1, "--width 2 is not divisible by --heads 6: write --width 6"),
        (
            "--batch 3",
            4,
            "--batch 3 is smaller than the 4 ranks of dp: write --batch 4 or more, or a mesh with dp=3",
        ),
        ("--dtype float8", 1, "--dtype float8 is unknown: did you mean float64? Known: float32, float64"),
        ("--dtype int", 1, "--dtype int is unknown. Known: float32, float64"),
        ("--optimizer adamm", 1, "--optimizer adamm is unknown: did you mean adam? Known: adamw, adam, sgd"),
        (
            "--lr-schedule cosin",
            1,
            "--lr-schedule cosin is unknown: did you mean cosine? Known: cosine, constant",
        ),
        ("--style gpt3", 1, "--style gpt3 is unknown: did you mean gpt2? Known: gpt2, llama"),
        (
            "--style llama --kv-heads 4",
            1,
            "--kv-heads 4 does not divide --heads 6: write --kv-heads 3 or 6",
        ),
        (
            "--style llama --kv-heads 7",
            1,
            "--kv-heads 7 is more than --heads 6: write --kv-heads 6 or less",
        ),
        ("--style llama --kv-heads -1", 1, "--kv-heads -1: must be a whole number, at least 0"),
        ("--kv-heads 3", 1, "--kv-heads is of --style llama: write --style llama, or leave --kv-heads out"),
        (
            "--rope-base 3",
            1,
            "--rope-base is of --style llama: write --style llama, or leave --rope-base out",
        ),
        ("--style llama --width 6", 1, "--width 6 over --heads 6 is 1 features a head, and"),
        ("--style llama --width 100", 1, "--width 100 is not divisible by --heads 6: write --width 96"),
        ("--style llama --width 102", 1, "turns pairs of them: write --width 96"),
        (
            "--zero 1",
            1,
            "--zero 1 cuts over dp, and one rank has dp=1: write a mesh with dp=2 or more, or leave",
        ),
        (
            "--zero 3 --mesh tp=2",
            2,
            "--zero 3 cuts over dp, and --mesh tp=2 has dp=1: write a mesh with dp=2",
        ),
        ("--zero 3 --mesh replica=2", 2, "--zero 3 cuts over dp, and --mesh replica=2 has dp=1"),
        ("--zero 4", 2, "--zero 4: must be a whole number, at least 0, below 4"),
        (
            "--mesh replica=2,dp=2",
            4,
            "--mesh replica=2,dp=2: replicas are for ZeRO, which cuts within each: write",
        ),
        ("--mesh replica=2,dp=2 --zero 1 --batch 3", 4, "--batch 3 is smaller than the 4 ranks"),
        ("--steps -1", 1, "--steps -1: must be a whole number, at least 0"),
        ("--dropout 1", 1, "--dropout 1.0: must be a finite number, at least 0, below 1"),
        ("--lr 0", 1, "--lr 0.0: must be a finite number, above 0"),
        (f"--seed {2**63}", 1, "--seed 9223372036854775808: must be a whole number, at least 0, below 9223"),
    ],
)
def test_what_cannot_run_is_refused(line: str, ranks: int, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        check(parse(line.split()), ranks)
    assert str(raised.value).startswith(message) or message in str(raised.value)


@pytest.mark.parametrize("name", ["batch", "context", "layers", "heads", "width", "val_batches", "log_every"])
@pytest.mark.parametrize("value", [0, -1])
def test_counts_are_positive(name: str, value: int) -> None:
    refused(name, value)


@pytest.mark.parametrize("name", ["steps", "micro_batch", "warmup", "val_every", "sample", "seed", "zero"])
def test_zero_is_the_least_of_what_can_be_off(name: str) -> None:
    check(TrainConfig(**{name: 0}), 1)
    refused(name, -1)


@pytest.mark.parametrize("name", ["dropout", "lr", "clip", "weight_decay"])
@pytest.mark.parametrize("value", [nan, inf, -inf, -1.0])
def test_numbers_are_finite_and_not_negative(name: str, value: float) -> None:
    refused(name, value)


def refused(name: str, value: float) -> None:
    flag = "--" + name.replace("_", "-")
    with pytest.raises(UsageError, match=f"^{flag} {value}: must be a "):
        check(TrainConfig(**{name: value}), 1)


def test_the_default_mesh_is_all_ranks_as_dp() -> None:
    assert mesh_axes(TrainConfig(), 3) == {"dp": 3}
    assert mesh_axes(TrainConfig(mesh="tp=3"), 3) == {"tp": 3}


def test_every_mesh_that_a_refusal_names_fits() -> None:
    with pytest.raises(UsageError) as raised:
        check(TrainConfig(mesh="dp=5", heads=12, width=192), 12)
    named = str(raised.value).partition("write --mesh ")[2].partition(", or start")[0]
    meshes = named.replace(" or ", ", ").split(", ")
    assert meshes == ["dp=12", "dp=6,tp=2", "dp=4,tp=3", "dp=3,tp=4", "dp=2,tp=6", "tp=12"]
    for mesh in meshes:
        check(TrainConfig(mesh=mesh, heads=12, width=192), 12)


def test_the_names_and_stages_of_schedules_are_those_that_there_are() -> None:
    assert SCHEDULES == NAMES
    for name in NAMES:
        assert make(name, 3, 6).stages == 3 * CHUNKS.get(name, 1)


@pytest.mark.parametrize(
    ("line", "axes", "count"),
    [
        ("--batch 8", {}, 1),
        ("--batch 8 --micro-batch 3", {"tp": 2}, 3),
        ("--batch 7 --micro-batch 2", {"dp": 2}, 2),
        ("--batch 8 --micro-batch 100", {"dp": 2}, 1),
        ("--batch 8 --micro-batch 1", {"replica": 2, "dp": 2}, 2),
    ],
)
def test_how_many_micro_batches_a_step_has(line: str, axes: dict[str, int], count: int) -> None:
    assert micro_batches(parse(line.split()), axes) == count
