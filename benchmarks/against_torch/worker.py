"""One rank of one competitor: ``python worker.py JOB``."""

from __future__ import annotations

from importlib import import_module

from turns import take_turns, told

if __name__ == "__main__":
    job = told()  # before NumPy or torch, which count the cores, are imported
    take_turns(job, import_module(f"{job['side']}_side").prepare(job))
