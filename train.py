"""Trains a byte-level GPT: ``mpirun -n 4 python train.py``; ``python train.py --help`` lists the flags.

The loop is here in the open. Nothing in it communicates but the moves inside the model, `sync_in_backward`,
`sync_gradients`, `clip_grad_norm`, `optimizer.step` under --zero 1 and 2, and the allreduces that are written below.
"""

from __future__ import annotations

import signal

# Signals by which the cluster asks us to stop: heard before the imports, which take time.
ASKED: list[int] = []
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, lambda number, frame: ASKED.append(number))

import shlex
import sys
from datetime import datetime
from functools import partial
from time import perf_counter
from typing import NamedTuple

from mpipar import Mesh, __version__, no_grad
from mpipar.checkpoint import Together
from mpipar.checkpoint.run import RunSaver, check_start, go_on, locked, refuse_other_data
from mpipar.comm import Comm
from mpipar.config import AUTO, TrainConfig, as_toml, check, mesh_axes, parse
from mpipar.data import Batches, Corpus, MicroBatch, TextBatches, on_all_ranks, on_first_rank
from mpipar.job import world
from mpipar.job.device import choose
from mpipar.job.limit import TimeLimit
from mpipar.job.preempt import PREEMPTED, Preemption
from mpipar.job.start import describe
from mpipar.job.threads import use_threads
from mpipar.log import METRICS, Metrics, Progress, StepRecord, make_out, readable, weights_table
from mpipar.log.out import write_config, write_start
from mpipar.models import sample
from mpipar.nn import weight_rows
from mpipar.optim import LossScale, clip_grad_norm, skip_step
from mpipar.parallel import (
    Pipeline,
    Start,
    check_loss,
    check_weights,
    chosen_schedule,
    described,
    mesh_of_replica,
    outer_weights,
    over_replicas,
    replicas_of,
    rows_of_all,
    shared_weights,
    stop_unless_finite,
    sync_gradients,
    sync_in_backward,
)
from mpipar.profile import Trace, check_trace
from mpipar.random import Noise
from mpipar.recipe import Model, Optimizer, build_model, build_optimizer, learning_rate, wire


class Learner(NamedTuple):
    """What learns, and from what."""

    model: Model
    optimizer: Optimizer
    scale: LossScale
    batches: Batches

    @property
    def weights(self) -> Model | Start:
        """The model, or with --outer what its replicas share."""
        return shared_weights(self.model, self.optimizer)

    @property
    def state(self) -> Together:
        """With the model, all that a checkpoint holds."""
        return Together(self.optimizer, scale=self.scale)


OTHER_SETTINGS = (
    "{ranks} would run with other settings than the rest: give all ranks the same flags, "
    "and a config function that returns the same everywhere"
)


def main() -> None:
    ranks = world()  # starts MPI; from here on a failure on one rank ends the whole job
    config = read_config(ranks)
    check(config, ranks.size)
    schedule = on_first_rank(ranks, lambda: chosen_schedule(config, ranks.size))
    limit = TimeLimit.told(config.time_limit, known=ranks.rank == 0)
    found = on_first_rank(ranks, lambda: check_start(config))
    on_first_rank(ranks, lambda: check_trace(config.trace))
    if config.threads:
        use_threads(config.threads)
    device = choose(config.device, ranks_per_gpu=config.ranks_per_gpu)
    corpus = Corpus.load(config.data, ranks, config.context)
    refuse_other_data(found, corpus.digest)
    mesh = Mesh.parse(config.mesh, device=device.xp)
    text = TextBatches(corpus, config.seed, config.batch, config.context)
    model = build_model(config, mesh_of_replica(mesh, config.outer), corpus.vocabulary, schedule)
    scale = LossScale(config.loss_scale if config.dtype == "float16" else 1)
    batches = Batches(text, model.mesh, config.micro_batch, replicas_of(mesh, config.outer))
    learner = Learner(model, build_optimizer(config, mesh, model), scale, batches)
    rows = rows_of_all(ranks, weight_rows(model))
    out = on_first_rank(ranks, lambda: make_out(config.out, datetime.now()))
    with (
        locked(config, out, ranks),
        Progress(
            config.steps, log_every=config.log_every, enabled=mesh.rank == 0, limit=limit.left
        ) as progress,
    ):
        progress.say(
            f"{mesh} on {device.words}, results in {out}\n{corpus.describe()}\n\n{weights_table(rows)}\n"
        )
        if isinstance(model, Pipeline):
            progress.say(f"{described(model.schedule)}\n")
        start = go_on(config, out, corpus.digest, learner.weights, learner.state, progress.say)
        if start and start >= config.steps:
            progress.say(f"nothing to do: {start} of {config.steps} steps are done")
            return
        header = f"mpipar {__version__}: mpirun -n {ranks.size} python {shlex.join(sys.argv)}"
        on_first_rank(ranks, lambda: write_config(out, as_toml(config, header)))
        axes = mesh_axes(config, ranks.size)
        begun = describe(
            ranks, datetime.now(), mpipar=__version__, mesh=axes, device=device.words, step=start
        )
        on_first_rank(ranks, lambda: write_start(out, begun))
        after = start if config.resume == AUTO else None
        with (
            Metrics(out / METRICS, enabled=mesh.rank == 0, after=after) as metrics,
            Trace(config.trace, config.trace_steps, mesh, (learner.optimizer, "step")) as trace,
        ):
            saver = RunSaver(config, out, corpus.digest, progress.say, limit)
            preemption = Preemption(ASKED, limit)
            done = train(config, learner, start, metrics, progress, saver, trace, preemption)
        if done < config.steps:
            how = "go on with --resume auto --out"
            progress.say(f"stopped after step {done} {preemption.reason}: {how} {out}")
            sys.exit(PREEMPTED)
        show_end(config, learner, progress)


def read_config(ranks: Comm) -> TrainConfig:
    """The settings of the run: of ``--config`` rank 0 reads a TOML file, each rank calls a function; all compare."""
    say = print if ranks.rank == 0 else lambda text: None
    config = parse(sys.argv[1:], say, once=partial(on_first_rank, ranks))
    return on_all_ranks(ranks, lambda: config, lambda each: ascii([each, sys.argv]).encode(), OTHER_SETTINGS)


def train(
    config: TrainConfig, learner: Learner, start: int, metrics: Metrics, progress: Progress, saver: RunSaver,
    trace: Trace, preemption: Preemption,
) -> int:  # fmt: skip
    """Trains from step `start` to the last one, or to a signal; returns how many steps are done by then."""
    model, optimizer, scale, batches = learner
    ranks, ledger = world(), batches.mesh.ledger
    done = start
    for step in range(start, config.steps):
        trace.step(step + 1)
        begin, bytes_before, comm_before = perf_counter(), ledger.bytes, ledger.seconds
        optimizer.lr = learning_rate(config, step)
        loss = forward_backward(config, learner, step)
        sync_gradients(model, wire=wire(config))
        norm = clip_grad_norm(model.parameters(), config.clip, scale=scale.value).item()
        loss, norm = over_replicas(batches.replicas, loss, norm)
        if scale.accepts(step + 1, loss, norm):
            stop_unless_finite(step + 1, loss, norm, model.parameters(), ranks)
            optimizer.step()
        else:
            skip_step(model.parameters())  # float16 overflowed, and the scale is lower now
        if config.check_every and (step + 1) % config.check_every == 0:
            check_loss(step + 1, loss, batches.mesh)
            check_weights(step + 1, model.parameters(), batches.mesh)
        seconds = perf_counter() - begin
        comm_s, comm_bytes = ledger.seconds - comm_before, ledger.bytes - bytes_before
        done, tokens = step + 1, config.batch * config.context
        due = config.val_every and (done % config.val_every == 0 or done == config.steps)
        val_loss = validate(config, learner) if due else None
        record = StepRecord(
            done, loss, norm, optimizer.lr, done * tokens, tokens / seconds, seconds, comm_s, comm_bytes, val_loss,
            scale.value if scale.dynamic else None,
        )  # fmt: skip
        metrics.write(record)
        progress.step(record)
        stop = done < config.steps and preemption.requested(ranks)
        if stop or saver.is_due(done):
            metrics.sync()
            saver.save(done, learner.weights, learner.state)
        else:
            saver.poll()
        if stop:
            break
    saver.close()
    return done


def forward_backward(config: TrainConfig, learner: Learner, step: int) -> float:
    """Gradients of the mean loss over the tokens of a step, times the loss scale; returns that loss."""
    model, _, scale, batches = learner

    def noise(part: MicroBatch) -> Noise:
        return Noise(config.seed, step, part.first_row)

    if isinstance(model, Pipeline):  # whose schedule says when which rank does what
        parts = list(batches.training(step))
        return model.forward_backward(parts, noise, scale.value / batches.tokens).item() / scale.value
    total = 0.0
    for part in batches.training(step):
        loss = model.loss(part.tokens, part.targets, noise(part)) / batches.tokens
        sync_in_backward(model, last=part.last, wire=wire(config))  # gradients leave as they become complete
        (loss * scale.value).backward()  # right on a Partial loss: the number for the log is summed below
        total += loss.detach().allreduce(*batches.axes, "tp").item()
    return total


def validate(config: TrainConfig, learner: Learner) -> float:
    """The mean loss over the validation tokens, in evaluation mode."""
    model, batches = learner.model, learner.batches
    model.eval()
    total, parts = 0.0, list(batches.validation(config.val_batches))
    with no_grad(), outer_weights(learner.optimizer):  # those that all replicas share
        if isinstance(model, Pipeline):
            total = model.evaluate(parts).item()
        else:
            for part in parts:
                total += model.loss(part.tokens, part.targets).allreduce(*batches.axes, "tp").item()
    model.train()
    total, count = over_replicas(batches.replicas, total, sum(part.count for part in parts))
    return total / count


def show_end(config: TrainConfig, learner: Learner, progress: Progress) -> None:
    """The validation loss, and a sample from the model."""
    corpus = learner.batches.text.corpus
    if config.val_every:
        progress.say(f"\nvalidation loss {validate(config, learner):.4f} nats a {corpus.unit}")
    if config.sample and corpus.unit == "token":
        progress.say(f"no sample: mpipar cannot write the tokens of {corpus.tokenizer} as text")
    elif config.sample:
        text = sample(learner.model, b"def ", config.sample, seed=config.seed)
        progress.say(f"\na sample from the model:\n{readable(text)}")


if __name__ == "__main__":
    main()
