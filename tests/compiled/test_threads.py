"""Kernels cut over several threads do what they do on one: to rounding, since sums over rows are made in parts.

A failure names the kernel, the number of threads and the largest difference.
"""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest

from mpipar.backend import numba as compiled
from mpipar.backend.numba import threads
from mpipar.backend.numba.threads import Workers
from mpipar.errors import UsageError
from mpipar.job.threads import VARIABLES
from mpipar.testing import launch

RNG = np.random.default_rng(0)
X, G = RNG.normal(size=(37, 24)), RNG.normal(size=(37, 24))
ROW, LSE, IDS = RNG.normal(size=24), RNG.normal(size=37), RNG.integers(-2, 26, 37)
LONG = RNG.normal(size=3 * compiled.sums.BLOCK + 5)
PAIRS = RNG.normal(size=(27, 2, 8))
QKV, UPPER = RNG.normal(size=(2, 70, 3, 4, 8)), RNG.normal(size=(2, 70, 4, 8))


def copied(change):
    def run():
        x = X.copy()
        result = change(x)
        return x if result is None else (x, result)

    return run


def attention(batch, keys):
    def run():
        q, k, v = (QKV[:batch, :, part] for part in range(3))
        k, v = k[:, :, :keys], v[:, :, :keys]
        out, lse = compiled.attention(q, k, v, 0.3, True)
        return out, lse, *compiled.attention_vjp(UPPER[:batch], q, k, v, out, lse, 0.3, True)

    return run


KERNELS = {
    "gelu": lambda: (compiled.gelu(X), compiled.gelu_vjp(G, X)),
    "biased GELU": copied(lambda g: (compiled.biased_gelu(X, ROW), compiled.biased_gelu_vjp_into(g, X, ROW), g)),
    "bias, residual": lambda: compiled.bias_dropout_add(X, ROW, None, G),
    "bias, dropout, residual": lambda: compiled.bias_dropout_add(X, ROW, np.abs(G), G),
    "layer norm": lambda: compiled.layer_norm_vjp(G, X, ROW, compiled.layer_norm(X, ROW, ROW, 1e-5)[1]),
    "RMS norm": lambda: compiled.rms_norm_vjp(G, X, ROW, compiled.rms_norm(X, ROW, 1e-5)[1]),
    "SwiGLU": lambda: (compiled.swiglu(PAIRS), compiled.swiglu_vjp(PAIRS[:, 1], PAIRS)),
    "exp_rows": copied(compiled.exp_rows),
    "exp_sum": lambda: compiled.exp_sum(X, LSE),
    "softmax_minus_hot": lambda: compiled.softmax_minus_hot(X, LSE, IDS, 1, LSE),
    "matmul": lambda: (compiled.matmul(X, G.T), compiled.matmul(X.T, G), compiled.matmul(X[None], G.T)),
    "affine": lambda: compiled.affine(X, G.T, LSE),
    "add_product": copied(lambda x: compiled.add_product(x, LSE[:, None] * X[:, :5], G[:5])),
    "add_product, columns": copied(lambda x: compiled.add_product(x, np.copy(X[:, :5].T).T, G[:5])),
    "add_rows": copied(lambda x: compiled.add_rows(x, G, IDS, 1)),
    "put_rows": lambda: compiled.put_rows(G, IDS, 1, 9),
    "attention over a batch": attention(2, 4),
    "attention over heads": attention(1, 4),
    "attention over groups": attention(1, 2),
    "add": lambda: (compiled.add(X, G), compiled.add(X, ROW), compiled.add(X.T, G.T), compiled.add(LSE, LSE)),
    "add_into": copied(lambda x: compiled.add_into(x, G)),
    "sum": lambda: (compiled.sum(X, [0]), compiled.sum(UPPER, range(3)), compiled.sum(X), compiled.sum(X.T, [0])),
    "square_sum": lambda: (compiled.square_sum(LONG), compiled.square_sum(X)),
    "sgd": copied(lambda x: compiled.sgd(x, G, np.ones_like(X), 0.1, 0.9, True, 0.1)),
    "adam": copied(lambda x: compiled.adam(x, G, np.ones_like(X), np.ones_like(X), 3, 0.1, 0.9, 0.99, 1e-8, 0.1, True)),
}  # fmt: skip


def leaves(value):
    if isinstance(value, (tuple, list)):
        for part in value:
            yield from leaves(part)
    else:
        yield value


@pytest.fixture
def workers(monkeypatch):
    """Small arrays are cut, too."""
    monkeypatch.setattr(threads, "LEAST", 1)
    made = Workers()
    for where in (threads, compiled.attend, compiled.sums):
        monkeypatch.setattr(where, "workers", made, raising=False)
    return made


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("name", KERNELS)
def test_the_same_on_several_threads(name, count, workers):
    alone = list(leaves(KERNELS[name]()))
    workers.start(count)
    for ours, wanted in zip(leaves(KERNELS[name]()), alone, strict=True):
        assert ours.shape == wanted.shape
        assert np.abs(ours - wanted).max() <= 1e-13 * max(1, np.abs(wanted).max()), (name, count)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_norm_has_the_same_bits_on_several_threads(count, workers):
    alone = compiled.square_sum(LONG)
    workers.start(count)
    assert compiled.square_sum(LONG) == alone


def test_parts_make_up_all_rows_and_run_side_by_side(workers):
    workers.start(3)
    meet, seen = threading.Barrier(3, timeout=30), []

    def part(rows):
        meet.wait()  # all three are here at once
        seen.append((rows.start, rows.stop, threading.get_ident()))

    workers.over(10, 1, part)
    assert sorted((start, stop) for start, stop, _ in seen) == [(0, 3), (3, 6), (6, 10)]
    assert len({thread for *_, thread in seen}) == 3


def test_little_work_stays_where_it_is(workers, monkeypatch):
    monkeypatch.setattr(threads, "LEAST", 1000)
    workers.start(2)
    seen = []
    workers.over(10, 10, seen.append)
    assert seen == [slice(0, 10)]


@pytest.mark.parametrize("wrong", [0, 5, 9])
def test_an_error_in_a_part_is_raised_after_all_parts(wrong, workers):
    workers.start(2)
    done = []

    def part(rows):
        if rows.start <= wrong < rows.stop:
            raise ZeroDivisionError(wrong)
        done.append(rows)

    with pytest.raises(ZeroDivisionError, match=str(wrong)):
        workers.over(10, 1, part)
    assert len(done) == 1
    workers.over(10, 1, done.append)  # and they go on
    assert len(done) == 3


def test_a_number_of_threads_is_at_least_one(workers):
    with pytest.raises(UsageError, match="threads=0: at least 1"):
        workers.start(0)


PROGRAM = """
from threadpoolctl import threadpool_info
from mpipar.job import world
from mpipar.job.threads import use_threads
from mpipar.backend.numba.threads import workers

def said():
    return [workers.count, *{pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}]

world()
print(said())
use_threads(3)
print(said())
"""


@pytest.mark.launches
def test_threads_are_the_kernels_and_blas_has_one_in_each():
    free = dict.fromkeys(VARIABLES, "")
    done = launch(0, PROGRAM, env=free | {"MPIPAR_KERNELS": "numba"})
    assert done.returncode == 0, done.stderr
    share = len(os.sched_getaffinity(0))
    assert done.stdout.splitlines() == [f"[{share}, 1]", "[3, 1]"]
