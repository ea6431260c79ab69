"""Which card is whose, what is in the way, and whether MPI may have its memory. No card is needed.

A failure shows the message: it must name what is wrong and the line to write, alike on all ranks.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from mpipar import Mesh, UsageError
from mpipar.backend import cards, cpu
from mpipar.job import aware, device, local_rank, world
from mpipar.job.device import Place, choose, problem_of

SIZE, RANK = world().size, world().rank
HERE, THERE = Place("node a, card 0"), Place("node b, card 0")


# ---- what a driver and CuPy's packages say ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("driver", "runtime", "message"),
    [
        (12020, 12090, ""),  # within a major version any driver serves
        (13010, 12090, ""),  # and newer ones serve older CuPys
        (13000, 13000, ""),
        (0, 12090, "no NVIDIA driver"),
        (11080, 12090, "speaks CUDA 11.8, and CuPy needs 12.0 or newer: update the driver"),
        (12080, 13000, "CUDA 13, and the NVIDIA driver speaks 12.8: write"),
        (12080, 13000, "pip uninstall -y cupy-cuda13x && pip install 'mpipar[cuda12]'"),
    ],
)
def test_the_driver_and_the_cuda_of_cupy(driver: int, runtime: int, message: str) -> None:
    found = cards.misfit(driver, runtime)
    assert message in found
    assert bool(message) == bool(found)


@pytest.mark.parametrize(
    ("driver", "packages", "message"),
    [
        (0, [], "there is no NVIDIA driver on this machine"),
        (12040, [], "CuPy is not installed: write  pip install 'mpipar[cuda12]'"),
        (13000, [], "CuPy is not installed: write  pip install 'mpipar[cuda13]'"),
        (14000, [], "pip install 'mpipar[cuda13]'"),  # the newest that there is
        (
            13000,
            ["cupy-cuda13x"],
            "cupy-cuda13x is installed but cannot be imported: libcublas.so.13 is missing",
        ),
    ],
)
def test_no_cupy(driver: int, packages: list[str], message: str) -> None:
    error = ImportError("\n=====\nlibcublas.so.13 is missing\n=====")
    assert message in cards.no_cupy(driver, packages, error)


def test_two_packages_of_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    named = [SimpleNamespace(metadata={"Name": name}) for name in ("cupy-cuda12x", "numpy", "cupy-cuda13x")]
    monkeypatch.setattr(cards.metadata, "distributions", lambda: named)
    monkeypatch.setattr(cards, "driver_version", lambda: 13000)
    assert cards.look().problem == (
        "2 packages bring CuPy (cupy-cuda12x, cupy-cuda13x) and overwrite each other: write\n"
        "  pip uninstall -y cupy-cuda12x cupy-cuda13x && pip install 'mpipar[cuda13]'"
    )


def runtime(**changes: Any) -> Any:
    """A CuPy with two cards, one of them in two parts."""
    bus = {"pciDomainID": 0, "pciBusID": 7, "pciDeviceID": 0}
    properties = [
        {"name": b"A", "uuid": b"1" * 16, **bus},
        {"name": b"A", "uuid": b"2" * 16, **bus},
        {"name": b"B", "uuid": b"3" * 16, **bus, "pciBusID": 8},
    ]
    given = {
        "CUDARuntimeError": RuntimeError, "driverGetVersion": lambda: 12040, "runtimeGetVersion": lambda: 12090,
        "getDeviceCount": lambda: len(properties), "getDeviceProperties": lambda k: properties[k],
    }  # fmt: skip
    return SimpleNamespace(cuda=SimpleNamespace(runtime=SimpleNamespace(**given | changes)))


def test_parts_of_a_card_are_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", runtime())
    look = cards.look()
    assert not look.problem
    assert [card.name for card in look.cards] == ["A", "A", "B"]
    assert len({card.identity for card in look.cards}) == 3


def test_cuda_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> int:
        raise RuntimeError("cudaErrorNotInitialized")

    monkeypatch.setitem(sys.modules, "cupy", runtime(getDeviceCount=fail))
    assert "no card that it can use (cudaErrorNotInitialized)" in cards.look().problem
    monkeypatch.setitem(sys.modules, "cupy", runtime(getDeviceCount=lambda: 0))
    assert "CUDA_VISIBLE_DEVICES" in cards.look().problem


# ---- all ranks together -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("places", "per_card", "message"),
    [
        ([HERE, THERE], 1, ""),  # a machine each
        ([HERE, HERE, THERE], 2, ""),
        (
            [HERE, HERE],
            1,
            "2 ranks are more than 1 card with 1 rank each: start 1 rank, or write --ranks-per-gpu 2",
        ),
        ([HERE, HERE, HERE, THERE], 2, "4 ranks are more than 2 cards with 2 ranks each: start 4 ranks"),
        ([Place(problem="no card")] * 2, 1, "no card"),
        ([HERE, Place(problem="no card"), Place(problem="no card")], 1, "no card (on ranks 1, 2)"),
    ],
)
def test_what_keeps_ranks_from_cards(places: list[Place], per_card: int, message: str) -> None:
    found = problem_of(places, per_card)
    assert found.startswith(message)
    assert bool(found) == bool(message)


def test_one_rank_without_a_card_is_told_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(problem="no card here") if RANK == SIZE - 1 else Place(f"card {RANK}", "A", RANK)
    monkeypatch.setattr(device, "my_place", lambda: place)
    where = "" if SIZE == 1 else rf" \(on rank {SIZE - 1}\)"
    with pytest.raises(UsageError, match=f"^device 'gpu': no card here{where}$"):
        Mesh(dp=SIZE, device="gpu")
    choice = choose("auto")
    assert choice.xp is cpu()
    assert choice.words.startswith("the CPU (no card here")


def test_cards_are_taken_by_place_on_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = tuple(cards.Seen(number, f"card {number}", "A") for number in range(2))
    monkeypatch.setattr(cards, "look", lambda: cards.Look(seen))
    taken: list[int] = []
    monkeypatch.setattr(cards, "take", lambda number, name, aware: taken.append(number) or cpu())
    choice = choose("gpu", ranks_per_gpu=2)
    assert taken == [local_rank() % 2]
    assert choice.words == ("GPU (A)" if SIZE == 1 else "GPU (A, collectives through host buffers)")
    if SIZE > 2:
        with pytest.raises(UsageError, match="write --ranks-per-gpu 2"):
            choose("gpu")
    choose("gpu", (RANK,))  # a mesh of one takes the same card
    assert taken[-1] == local_rank() % 2


def test_an_unknown_device() -> None:
    with pytest.raises(UsageError, match=r"device 'cuda' is not known; write device='auto', 'cpu' or 'gpu'"):
        Mesh(dp=SIZE, device="cuda")


# ---- a GPU-aware MPI --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims", "works", "found"),
    [
        (["perhaps", "perhaps"], True, True),
        (["perhaps", "perhaps"], False, False),
        (["yes", "yes"], False, True),  # said by the user: not tried
        (["yes", "no"], True, False),
        (["perhaps", "no"], True, False),
        (["perhaps"], True, False),  # one rank needs no MPI
    ],
)
def test_mpi_gets_memory_of_cards_where_all_ranks_say_so_and_it_works(
    claims: list[Any], works: bool, found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aware, "probe", lambda card: works)
    places = [Place("card", claim=claim) for claim in claims]
    assert device.is_gpu_aware(world(), places[0], places) is found


def test_the_user_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aware, "mpi_says_yes", lambda path: True)
    for said, claim in (("1", "yes"), ("0", "no"), ("", "perhaps")):
        monkeypatch.setenv(aware.VARIABLE, said)
        assert aware.claim() == claim
    monkeypatch.setattr(aware, "mpi_says_yes", lambda path: False)
    assert aware.claim() == "no"
    monkeypatch.setenv(aware.VARIABLE, "on")
    with pytest.raises(UsageError, match="MPIPAR_GPU_AWARE_MPI='on': write 1"):
        aware.claim()


def test_a_library_that_does_not_know_the_question_says_no(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not aware.mpi_says_yes("libc.so.6")
    assert not aware.mpi_says_yes("")
    assert not aware.mpi_says_yes("/no/such/library.so")
    for answer in (0, 1):
        library = SimpleNamespace(MPIX_Query_cuda_support=lambda answer=answer: answer)
        monkeypatch.setattr(aware.ctypes, "CDLL", lambda path, library=library: library)
        assert aware.mpi_says_yes("libmpi.so") is bool(answer)


@pytest.mark.parametrize(
    ("code", "works"), [("pass", True), ("raise SystemExit(1)", False), ("import os; os.abort()", False)]
)
def test_the_child_is_believed_only_where_it_ends_well(
    code: str, works: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """A wrong "yes" of the library kills the child, not the rank."""
    child = tmp_path / "python"
    child.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{code}'\n")
    child.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(child))
    assert aware.probe(0) is works
