"""What a training run is, from top to bottom, and everything that can be wrong with it before it starts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import log2, prod
from typing import Any

from mpipar.config.axes import parse_axes
from mpipar.config.flags import Option, check_limits, did_you_mean, flag, options, usage, values, wants_help
from mpipar.config.function import call, names_function
from mpipar.config.times import parse_limit
from mpipar.config.toml import read_toml
from mpipar.errors import UsageError

USED_AXES = ("replica", "dp", "pp", "tp")
SCHEDULES = ("gpipe", "1f1b", "interleaved", "zero_bubble")  # of a pipeline, by name
CHUNKS = {"interleaved": 2}  # stages that a rank of pp has, where it is not one
SHOWN_MESHES = 6
ROPE_BASE = 10_000.0
DTYPES = ("float32", "float64", "bfloat16", "float16")
LOSS_SCALE = 65536.0
OUTER_LR, OUTER_MOMENTUM = 0.7, 0.9  # Douillard et al. 2023
AUTO, NONE = "auto", "none"  # of --resume; anything else is a path


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """The settings of train.py: each field is a flag, `--micro-batch` for `micro_batch`, and a key of a TOML file."""

    mesh: str = flag("", "axes and their sizes, as dp=2,tp=2 (default: all ranks as dp)", parse=parse_axes)
    schedule: str = flag("1f1b", "of pp: gpipe, 1f1b, interleaved, zero_bubble or FILE.toml")
    sequence_parallel: bool = flag(False, "cut the sequence over tp wherever tp does not cut the weights")
    zero: int = flag(0, "ZeRO over dp: 1 cuts optimizer state, 2 gradients too, 3 all", least=0, below=4)
    outer: str = flag(NONE, "axis whose ranks train replicas apart", choices=(NONE, "dp"))
    inner_steps: int = flag(0, "outer: steps of a replica between two meetings", least=0)
    outer_lr: float = flag(OUTER_LR, "outer: learning rate of a meeting", above=0)
    outer_momentum: float = flag(OUTER_MOMENTUM, "outer: Nesterov's, of meetings", least=0, below=1)
    wire: str = flag(
        "full", "of gradients between ranks: bfloat16 halves their bytes", choices=("full", "bfloat16")
    )
    device: str = flag(
        "auto", "where arrays live; auto: GPUs where every rank has one", choices=("auto", "cpu", "gpu")
    )
    ranks_per_gpu: int = flag(1, "ranks that may share a GPU", least=1)
    threads: int = flag(0, "a rank computes with; 0: its share of the node's cores", least=0)
    data: tuple[str, ...] = flag(
        (), "files, directories, globs: text, or token files (default: Python's library)"
    )
    steps: int = flag(300, "optimizer steps; 0 only validates", least=0)
    batch: int = flag(32, "sequences a step over all ranks", least=1)
    micro_batch: int = flag(0, "sequences a forward pass on one dp rank; 0: all of them", least=0)
    context: int = flag(128, "tokens a sequence; of text a token is a byte", least=1)
    layers: int = flag(4, "transformer blocks", least=1)
    heads: int = flag(6, "attention heads a block", least=1)
    width: int = flag(192, "features of the residual stream; heads divide it", least=1)
    style: str = flag("gpt2", "of the model: see docs/models.md", choices=("gpt2", "llama"))
    kv_heads: int = flag(0, "llama: heads of keys and values; 0: as many as heads", least=0)
    rope_base: float = flag(ROPE_BASE, "llama: sets the longest wave of rotary positions", above=1)
    recompute: str = flag("none", "of a block in backward", choices=("none", "selective", "full"))
    dropout: float = flag(0.0, "probability of dropping a value in training", least=0, below=1)
    dtype: str = flag("float32", "of weights", choices=DTYPES)
    loss_scale: float = flag(LOSS_SCALE, "float16: of the loss at the start, a power of two")
    lr: float = flag(2e-3, "learning rate at its highest", above=0)
    warmup: int = flag(50, "steps in which the learning rate climbs", least=0)
    lr_schedule: str = flag("cosine", "of the learning rate after warm-up", choices=("cosine", "constant"))
    clip: float = flag(1.0, "longest gradient, as a norm; 0: any", least=0)
    weight_decay: float = flag(0.1, "not of norms and biases", least=0)
    optimizer: str = flag("adamw", "what turns gradients into steps", choices=("adamw", "adam", "sgd"))
    seed: int = flag(0, "of weights, dropout and the order of the data", least=0, below=2**63)
    out: str = flag("", "directory of the results (default: runs/DATE-TIME)")
    val_every: int = flag(100, "steps between validations; 0: never", least=0)
    val_batches: int = flag(8, "batches a validation, fewer where the data is short", least=1)
    log_every: int = flag(10, "steps between lines", least=1)
    sample: int = flag(300, "tokens of text from the model at the end; 0: none", least=0)
    check_every: int = flag(0, "steps between checks that ranks agree; 0: never", least=0)
    save_every: int = flag(0, "steps between checkpoints; 0: only when a signal ends the run", least=0)
    keep: int = flag(3, "checkpoints that stay, the newest good ones", least=1)
    save_async: bool = flag(False, "write checkpoints behind the training: one copy of the state in memory")
    save_error: str = flag("stop", "what a failed save does to the run", choices=("stop", "continue"))
    resume: str = flag("none", "none, a checkpoint's PATH, or auto: go on with --out")
    init: str = flag("", "begin with the weights of the checkpoint PATH, and with nothing else of it")
    trace: str = flag("", "a file for a Chrome trace of the first steps: what each rank did when")
    trace_steps: int = flag(5, "steps in the trace", least=1)
    time_limit: str = flag(
        "auto",
        "end before it with a checkpoint: auto (SLURM's), none, 1:30:00",
        parse=parse_limit,
    )
    strict: bool = flag(False, "stop where the newest checkpoint is damaged, rather than take one before it")


@dataclass(frozen=True, slots=True)
class Source:
    """The flag that is no setting itself: where settings come from."""

    config: str = flag("", "settings from FILE.toml or FILE.py:FUNCTION; flags win over it")


def run_here(make: Callable[[], Any]) -> Any:
    return make()


def parse(
    argv: Sequence[str],
    say: Callable[[str], object] = print,
    once: Callable[[Callable[[], Any]], Any] = run_here,
) -> TrainConfig:
    """The config that the command line says: the defaults, over them ``--config``, over that the other flags.

    Needs no MPI. Types are checked here, and the values that come from ``--config``; those of flags by `check`.
    `once` calls a function on one rank and gives its result to all: so a TOML file is read. A config function runs on
    every rank. ``--help`` gives its text to `say` and exits with 0: pass a `say` that speaks on one rank only.
    Raises UsageError with one message.
    """
    known = known_flags()
    if wants_help(argv):
        say(usage(known, "mpirun -n RANKS python train.py"))
        sys.exit(0)
    return settings(values(known, argv), once)


def known_flags() -> dict[str, Option]:
    """The flags of train.py."""
    return options(Source) | options(TrainConfig)


def settings(given: dict[str, Any], once: Callable[[Callable[[], Any]], Any] = run_here) -> TrainConfig:
    """The config of what a command line gave, which may name where the rest comes from."""
    given = dict(given)
    source: str | None = given.pop("config", None)
    function = source if source is not None and names_function(source) else None
    written = once(lambda: {} if source is None or function else read_toml(TrainConfig, source))
    base = call(TrainConfig, function) if function else TrainConfig(**written)
    return replace(base, **given)


def mesh_axes(config: TrainConfig, ranks: int) -> dict[str, int]:
    """The axes of the run: those of ``--mesh``, or all ranks as dp."""
    return parse_axes(config.mesh) or {"dp": ranks}


def check(config: TrainConfig, ranks: int) -> None:
    """Raises UsageError for whatever is wrong on so many ranks and shows before data and mesh."""
    check_limits(config)
    check_width(config)
    check_style(config)
    check_scale(config)
    check_resume(config)
    parse_limit(config.time_limit)
    if config.device == "cpu" and config.ranks_per_gpu > 1:
        raise UsageError(f"--ranks-per-gpu {config.ranks_per_gpu} with --device cpu: leave one of them out")
    axes = mesh_axes(config, ranks)
    check_used(config, axes)
    check_product(config, axes, ranks)
    check_outer(config, axes)
    check_zero(config, axes)
    check_pieces(config, axes)
    check_pipeline(config, axes)


def check_resume(config: TrainConfig) -> None:
    c = config
    if not c.resume:
        raise UsageError("--resume is empty: write auto, none or the path of a checkpoint")
    if c.resume == AUTO and not c.out:
        raise UsageError("--resume auto needs --out DIRECTORY: the run to go on with, or to start")
    if c.init and c.resume not in (NONE, AUTO):
        raise UsageError("--init takes weights alone, --resume PATH takes everything: leave one of them out")


def check_scale(config: TrainConfig) -> None:
    c = config
    if c.dtype != "float16" and c.loss_scale != LOSS_SCALE:
        raise UsageError(
            f"--loss-scale is of --dtype float16, this is {c.dtype}: leave it out, or write --dtype float16"
        )
    if c.loss_scale < 2 or c.loss_scale != 2 ** round(log2(c.loss_scale)):
        raise UsageError(
            f"--loss-scale {c.loss_scale:g}: float16 trains with a scale, a power of two above 1: write "
            "--loss-scale 65536, or --dtype bfloat16, which needs none"
        )


def check_style(config: TrainConfig) -> None:
    c = config
    for name, given in (("--kv-heads", c.kv_heads), ("--rope-base", c.rope_base != ROPE_BASE)):
        if given and c.style != "llama":
            raise UsageError(f"{name} is of --style llama: write --style llama, or leave {name} out")
    if c.kv_heads > c.heads:
        raise UsageError(
            f"--kv-heads {c.kv_heads} is more than --heads {c.heads}: write --kv-heads {c.heads} or less"
        )
    if c.kv_heads and c.heads % c.kv_heads:
        divisors = [n for n in range(1, c.heads + 1) if c.heads % n == 0]
        below, above = max(n for n in divisors if n < c.kv_heads), min(n for n in divisors if n > c.kv_heads)
        raise UsageError(
            f"--kv-heads {c.kv_heads} does not divide --heads {c.heads}: write --kv-heads {below} or {above}"
        )


def check_width(config: TrainConfig) -> None:
    c, pairs = config, config.style == "llama"  # which turns pairs of features
    write = f"write --width {nearest_multiple(c.width, c.heads * (2 if pairs else 1))}"
    if c.width % c.heads:
        raise UsageError(f"--width {c.width} is not divisible by --heads {c.heads}: {write}")
    if pairs and c.width // c.heads % 2:
        raise UsageError(
            f"--width {c.width} over --heads {c.heads} is {c.width // c.heads} features a head, "
            f"and --style llama turns pairs of them: {write}"
        )


def nearest_multiple(number: int, of: int) -> int:
    return max(1, round(number / of)) * of


def check_used(config: TrainConfig, axes: dict[str, int]) -> None:
    for name, size in axes.items():
        if size > 1 and name not in USED_AXES:
            raise UsageError(f"--mesh {config.mesh}: train.py cuts over dp, pp and tp only; leave {name} out")


def check_outer(config: TrainConfig, axes: dict[str, int]) -> None:
    """Replicas that train apart: alone on their axis, with a share of the batch each."""
    c, count = config, axes.get("dp", 1)
    if c.outer == NONE:
        given = (c.inner_steps > 0, c.outer_lr != OUTER_LR, c.outer_momentum != OUTER_MOMENTUM)
        for name, there in zip(("--inner-steps", "--outer-lr", "--outer-momentum"), given, strict=True):
            if there:
                raise UsageError(f"{name} is of replicas that train apart: write --outer dp, or leave it out")
        return
    if not c.inner_steps:
        raise UsageError(
            f"--outer {c.outer} needs the steps between two meetings: write --inner-steps 32, or leave --outer out"
        )
    if count == 1:
        where = f"--mesh {c.mesh}" if c.mesh else "one rank"
        raise UsageError(
            f"--outer {c.outer} has a replica on each rank of dp, and {where} has dp=1: write a mesh with dp=2 or "
            "more, or leave --outer out"
        )
    if c.zero or axes.get("replica", 1) > 1:
        other = f"--zero {c.zero} cuts over dp" if c.zero else f"--mesh {c.mesh} has replicas of ZeRO"
        raise UsageError(
            f"{other}, and with --outer {c.outer} each rank of dp has weights of its own: leave one of them out"
        )
    if c.dtype == "float16":
        raise UsageError(
            f"--outer {c.outer} with --dtype float16: each replica would skip other steps, by a loss scale of its own: "
            "write --dtype bfloat16"
        )
    if c.batch % count:
        raise UsageError(
            f"--batch {c.batch} does not divide over the {count} replicas of --outer {c.outer}: "
            f"write --batch {max(count, c.batch // count * count)}"
        )


def check_zero(config: TrainConfig, axes: dict[str, int]) -> None:
    if config.zero and axes.get("dp", 1) == 1:
        given = f"--mesh {config.mesh}" if config.mesh else "one rank"
        raise UsageError(
            f"--zero {config.zero} cuts over dp, and {given} has dp=1: write a mesh with dp=2 or more, "
            "or leave --zero out"
        )
    if axes.get("replica", 1) > 1 and not config.zero:
        raise UsageError(
            f"--mesh {config.mesh}: replicas are for ZeRO, which cuts within each: write --zero 1, 2 or 3, or dp alone"
        )


def check_product(config: TrainConfig, axes: dict[str, int], ranks: int) -> None:
    wanted = prod(axes.values())
    if wanted == ranks:
        return
    meshes = list(fitting_meshes(config, ranks))[:SHOWN_MESHES]
    write = f"write --mesh {alternatives(meshes)}, or " if meshes else ""
    raise UsageError(
        f"--mesh {config.mesh} needs {counted(wanted)}, the job has {ranks}: {write}start mpirun -n {wanted}"
    )


def fitting_meshes(config: TrainConfig, ranks: int) -> Iterator[str]:
    """The meshes of dp and tp, with the pp that was asked for, that suit the number of ranks, heads and batch."""
    pp = parse_axes(config.mesh).get("pp", 1)
    for tp in range(1, min(ranks, config.heads) + 1):
        dp = ranks // pp // tp
        if ranks == dp * pp * tp and dp <= config.batch:
            yield (
                ",".join(f"{name}={n}" for name, n in (("dp", dp), ("pp", pp), ("tp", tp)) if n > 1) or "dp=1"
            )


def check_pieces(config: TrainConfig, axes: dict[str, int]) -> None:
    """Every rank needs a head and a sequence; pieces may be uneven."""
    dp, tp = row_ranks(axes), axes.get("tp", 1)
    if config.heads < tp:
        raise UsageError(
            f"--heads {config.heads} are fewer than the {tp} ranks of tp: "
            f"write --heads {tp} or more, or a mesh with tp={config.heads} or less"
        )
    if config.batch < dp:
        raise UsageError(
            f"--batch {config.batch} is smaller than the {dp} ranks of dp: "
            f"write --batch {dp} or more, or a mesh with dp={config.batch} or less"
        )


def micro_batches(config: TrainConfig, axes: dict[str, int]) -> int:
    """Forward passes a step on each rank that has rows of its own."""
    return -(-config.batch // (config.micro_batch * row_ranks(axes) or config.batch))


def row_ranks(axes: dict[str, int]) -> int:
    """Over how many ranks the rows of a batch are cut."""
    return axes.get("dp", 1) * axes.get("replica", 1)


def check_pipeline(config: TrainConfig, axes: dict[str, int]) -> None:
    """Each stage needs a layer, and the pipeline as many micro-batches as it has ranks."""
    c, pp = config, axes.get("pp", 1)
    named, chunks = c.schedule in SCHEDULES, CHUNKS.get(c.schedule, 1)
    if c.schedule in ("cosine", "constant"):
        raise UsageError(f"--schedule is that of the pipeline: write --lr-schedule {c.schedule}")
    if not named and not c.schedule.endswith(".toml"):
        raise UsageError(
            f"--schedule {c.schedule} is unknown{did_you_mean(c.schedule, SCHEDULES) or '.'} "
            f"Known: {', '.join(SCHEDULES)}, or a file FILE.toml"
        )
    if pp == 1:
        if c.schedule != "1f1b":
            raise UsageError(f"--schedule {c.schedule} needs a pipeline: write --mesh pp=2, or leave it out")
        return
    if pp * chunks > c.layers:
        fewer = f"--mesh pp={c.layers // chunks} or less" if c.layers >= 2 * chunks else "a mesh without pp"
        raise UsageError(
            f"--layers {c.layers} are fewer than the {pp * chunks} stages of --schedule {c.schedule} over pp={pp}: "
            f"write --layers {pp * chunks} or more, or {fewer}"
        )
    count = micro_batches(c, axes)
    if count < pp:
        least = pp * row_ranks(axes)
        bubble, rows = round(100 * (pp - 1) / (count + pp - 1)), c.batch // least
        write = f"write --micro-batch {rows} or less" if rows else f"write --batch {least} or more"
        raise UsageError(
            f"--batch {c.batch} in {counted(count, 'micro-batch', 'micro-batches')} over {pp} stages: the ranks of pp "
            f"would wait {bubble} % of the time; {write}"
        )


def counted(number: int, one: str = "rank", more: str = "ranks") -> str:
    return f"{number} {one if number == 1 else more}"


def alternatives(words: list[str]) -> str:
    """``a, b or c``."""
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
