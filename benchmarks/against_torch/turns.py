"""The worker's side of taking turns: it waits at a socket, asleep, until the parent calls for a step."""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any, NamedTuple


class Player(NamedTuple):
    """What a side gives: `make` a batch in the form that `step` takes, outside the time; `step` returns
    this rank's term of the loss: the terms of all ranks add up to the mean over the tokens.
    """

    make: Callable[[int], Any]
    step: Callable[[Any], float]
    versions: dict[str, str]


def told() -> dict[str, Any]:
    """What the parent wants of this process: the JSON on its command line. Takes its cores before BLAS counts them."""
    job: dict[str, Any] = json.loads(sys.argv[1])
    rank = int(os.environ.get("RANK") or os.environ.get("PMI_RANK") or os.environ["OMPI_COMM_WORLD_RANK"])
    cores = job["cores"]
    os.sched_setaffinity(0, cores if job["ranks"] == 1 else {cores[rank % len(cores)]})
    return job | {"rank": rank}


def take_turns(job: dict[str, Any], player: Player) -> None:
    """Runs a step whenever the parent calls its number, until it hangs up."""
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(job["address"])
        with line.makefile("rw") as file:
            send(file, {"name": job["name"], "rank": job["rank"], "versions": player.versions})
            for word in file:
                batch = player.make(int(word))
                faults, begin = page_faults(), perf_counter()
                loss = player.step(batch)
                end = perf_counter()
                answer = {"begin": begin, "end": end, "loss": loss, "faults": page_faults() - faults}
                send(file, answer | {"peak": peak_memory()})
    os._exit(0)  # without the goodbyes of the libraries, which may wait for each other


def send(file: Any, message: dict[str, Any]) -> None:
    file.write(json.dumps(message) + "\n")
    file.flush()


def page_faults() -> int:
    """Minor ones of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def peak_memory() -> int:
    """Bytes that were resident at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
