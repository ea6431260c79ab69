"""What the tape costs: ``python benchmarks/tape.py``. Microseconds an operation, forward and backward, on 4 numbers.

A chain of operations is run forward and backward; NumPy's own time for the same arithmetic stands beside it. The
smallest of several runs is taken: whatever else the machine does only adds. With ``--most 10`` the exit code is 1
where an operation takes longer.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from time import process_time

import numpy as np

import mpipar as mp
from mpipar import Tensor

LENGTH = 1000  # operations in a chain
RUNS = 15

mesh = mp.Mesh(ranks=[0], tp=1)
values = np.array([0.9, 1.0, 1.1, 1.2])
x = mp.tensor(values, mesh, requires_grad=True)
y = mp.tensor(values / values.mean(), mesh)
row = y.local

OPERATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[np.ndarray], object]]] = {
    # by mpipar, and by NumPy: forward, and what the gradient takes
    "x + y": (lambda x: x + y, lambda a: a + row),
    "x * 1.01": (lambda x: x * 1.01, lambda a: (a * 1.01, a * 1.01)),
    "x * y": (lambda x: x * y, lambda a: (a * row, a * row)),
    "x.tanh()": (lambda x: x.tanh(), lambda a: (np.tanh(a), a * (1 - a * a))),
    "x.reshape(2, 2).reshape(4)": (
        lambda x: x.reshape(2, 2).reshape(4),
        lambda a: (a.reshape(2, 2).reshape(4), a.reshape(2, 2).reshape(4)),
    ),
}


def chain(step: Callable[[Tensor], Tensor]) -> None:
    z = x
    for _ in range(LENGTH):
        z = step(z)
    z.sum().backward()
    x.clear_grad()


def by_numpy(step: Callable[[np.ndarray], object]) -> None:
    for _ in range(LENGTH):
        step(values)


def microseconds(run: Callable[[], None]) -> float:
    """An operation's share of the fastest run."""
    run()
    times = []
    for _ in range(RUNS):
        begin = process_time()
        run()
        times.append(process_time() - begin)
    return 1e6 * min(times) / LENGTH


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--most", type=float, default=float("inf"), help="µs an operation may take")
    most = parser.parse_args().most
    print(f"{'µs an operation':30} {'mpipar':>8} {'NumPy':>8}")
    slow = []
    for name, (ours, theirs) in OPERATIONS.items():
        count = name.count("reshape") or 1
        mine = microseconds(lambda ours=ours: chain(ours)) / count
        print(f"{name:30} {mine:8.2f} {microseconds(lambda theirs=theirs: by_numpy(theirs)) / count:8.2f}")
        if mine > most:
            slow.append(name)
    if slow:
        print(f"more than {most} µs: {', '.join(slow)}", file=sys.stderr)
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
