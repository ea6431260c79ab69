"""A schedule as a TOML file that a person can edit: numbers at the top, then one list of texts a rank."""

from __future__ import annotations

import os
import reprlib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import tomli_w

from mpipar.config.flags import did_you_mean
from mpipar.errors import ScheduleError
from mpipar.parallel.schedule.actions import COMPUTATIONS, KINDS, Action, Schedule
from mpipar.parallel.schedule.check import check, check_numbers, positions
from mpipar.parallel.schedule.makers import NAMES, make
from mpipar.parallel.schedule.messages import connect

__all__ = ["as_text", "find", "read", "write"]

NUMBERS = ("ranks", "stages", "micro_batches")
MOST = 100_000  # of anything
KEYS = ("name", *NUMBERS, "places", "lists")
HEADER = """\
# A pipeline schedule: for each rank the list of its actions, in order: "KIND STAGE MICRO_BATCH", both from 0.
# Where no list has a send, a receive or sync, they are put in: computations alone are enough.

"""


def read(path: str | Path, ranks: int | None = None, micro_batches: int | None = None) -> Schedule:
    """The schedule of a file, checked. `ranks`, `micro_batches`: those of the run, which the file must have.

    Raises ScheduleError, naming the file with its line or its entry, for a file that cannot be read, is no TOML, has an
    unknown key or action, or no schedule that ranks could run.
    """
    table = load(path)
    numbers = {key: take_number(path, table, key) for key in NUMBERS}
    for key, wanted in (("ranks", ranks), ("micro_batches", micro_batches)):
        if wanted is not None and numbers[key] != wanted:
            raise ScheduleError(
                f"{path}: it is for {key} = {table[key]}, and this run has {wanted}: write a file for that"
            )
    schedule = Schedule(
        name=take_name(path, table),
        lists=take_lists(path, table),
        places=take_places(path, table),
        **numbers,
    )
    note = ""
    try:
        check_numbers(schedule)
        positions(schedule)  # while the numbers of actions are those of the file
        if all(actions == computations(actions) for actions in schedule.lists):
            schedule, note = connect(schedule), " (counted with the sends and receives that were put in)"
        check(schedule)
    except ScheduleError as error:
        raise ScheduleError(f"{path}: {error}{note}") from None
    return schedule


def find(
    source: str, ranks: int | None = None, micro_batches: int | None = None, chunks: int = 2
) -> Schedule:
    """The schedule that a flag says, by its name or by its file; a name needs both numbers.

    Raises ScheduleError for what is neither, and as `make` and `read` do.
    """
    if source not in NAMES and (source.endswith(".toml") or os.path.exists(source)):
        return read(source, ranks, micro_batches)
    return make(source, ranks or 0, micro_batches or 0, chunks)


def load(path: str | Path) -> dict[str, Any]:
    """The table of the file, with all keys that it must have and no other."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        table = tomllib.loads(text + "\n")  # without it the last line has no number in messages
    except OSError as error:
        raise ScheduleError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ScheduleError(f"{path} is no UTF-8 at byte {error.start}: write it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ScheduleError(f"{path} is no TOML: {error}") from None
    for key in table:
        if key not in KEYS:
            close = did_you_mean(key, KEYS) or f". Known: {', '.join(KEYS)}"
            raise ScheduleError(f"{path}: unknown key {key!r}{close}")
    for key in (*NUMBERS, "lists"):
        if key not in table:
            example = "[lists] with rank_0 = [...], rank_1 = ..." if key == "lists" else f"{key} = 4"
            raise ScheduleError(f"{path}: {key} is missing: write  {example}")
    return table


def take_number(path: str | Path, table: Mapping[str, Any], key: str) -> int:
    value = table[key]
    if type(value) is not int or not 1 <= value <= MOST:
        raise ScheduleError(f"{path}: {key} = {shown(value)}: a whole number wanted, 1 to {MOST}")
    return value


def take_name(path: str | Path, table: Mapping[str, Any]) -> str:
    name = table.get("name", Path(path).stem)
    if not isinstance(name, str) or not name.isprintable() or not name:
        raise ScheduleError(f"{path}: name = {shown(name)}: a text of one line wanted")
    return name


def take_places(path: str | Path, table: Mapping[str, Any]) -> tuple[int, ...]:
    """The rank of each stage; empty where the file leaves it to the rule."""
    places = table.get("places", [])
    if not isinstance(places, list) or not all(type(place) is int for place in places):
        raise ScheduleError(f"{path}: places = {shown(places)}: a list with the rank of each stage wanted")
    return tuple(places)


def take_lists(path: str | Path, table: Mapping[str, Any]) -> tuple[tuple[Action, ...], ...]:
    lists, ranks = table["lists"], table["ranks"]
    keys = [f"rank_{rank}" for rank in range(ranks)]
    if not isinstance(lists, dict) or set(lists) != set(keys):
        found = ", ".join(lists) if isinstance(lists, dict) else shown(lists)
        wanted = keys[0] if ranks == 1 else f"{keys[0]} to {keys[-1]}"
        raise ScheduleError(f"{path}: [lists] has {found or 'nothing'}: one list a rank wanted, {wanted}")
    return tuple(tuple(take_list(f"{path}: {key}", lists[key])) for key in keys)


def take_list(where: str, entries: Any) -> Iterator[Action]:
    if not isinstance(entries, list):
        raise ScheduleError(f'{where} = {shown(entries)}: a list of texts wanted, as ["forward 0 0"]')
    for number, entry in enumerate(entries, start=1):
        yield take_action(f"{where}, action {number}", entry)


def take_action(where: str, entry: Any) -> Action:
    """The action that an entry says. Raises ScheduleError for an unknown kind and for what is no number."""
    where = f"{where} ({shown(entry)})"
    if not isinstance(entry, str):
        raise ScheduleError(f'{where}: a text wanted, as "forward 0 3"')
    kind, *numbers = entry.split() or [""]
    if kind not in KINDS:
        close = did_you_mean(kind, KINDS) or f". Known: {', '.join(KINDS)}"
        raise ScheduleError(f"{where}: {kind!r} is no kind of action{close}")
    if len(numbers) != (0 if kind == "sync" else 2) or not all(map(is_number, numbers)):
        wanted = (
            "sync alone" if kind == "sync" else f'stage and micro-batch in whole numbers, as "{kind} 0 3"'
        )
        raise ScheduleError(f"{where}: {wanted} wanted")
    return Action(kind, *map(int, numbers))


def is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def shown(value: Any) -> str:
    return reprlib.repr(value)


def write(schedule: Schedule, path: str | Path) -> None:
    """Raises ScheduleError where the file cannot be written; one that is there is written over."""
    try:
        Path(path).write_text(as_text(schedule), encoding="utf-8")
    except OSError as error:
        raise ScheduleError(f"{path} cannot be written: {error.strerror}") from None


def as_text(schedule: Schedule) -> str:
    """The file that `read` gives back as this schedule: with computations alone where the rest follows from them."""
    bare = replace(schedule, lists=tuple(map(computations, schedule.lists)))
    lists = bare.lists if connect(bare) == schedule else schedule.lists
    table: dict[str, Any] = {key: getattr(schedule, key) for key in ("name", *NUMBERS)}
    if schedule != replace(schedule, places=()):  # not where the rule puts them
        table["places"] = schedule.places
    table["lists"] = {f"rank_{rank}": list(map(str, actions)) for rank, actions in enumerate(lists)}
    return HEADER + tomli_w.dumps(table)


def computations(actions: tuple[Action, ...]) -> tuple[Action, ...]:
    return tuple(action for action in actions if action.kind in COMPUTATIONS)
