"""Command-line flags from a frozen dataclass: each field is one flag, `--micro-batch` for `micro_batch`.

>>> from dataclasses import dataclass
>>> @dataclass(frozen=True)
... class Walk:
...     steps: int = flag(10, "steps to walk", least=0)
>>> read(Walk, ["--steps", "3"])
Walk(steps=3)
"""

from __future__ import annotations

import math
import reprlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any, NamedTuple, TypeVar, get_type_hints

from mpipar.errors import UsageError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Flag:
    """What a field says of itself beside its type and default: its meaning and what values it may have."""

    meaning: str
    least: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()


class Kind(NamedTuple):
    """How values of a type are written: a word for the help, a name for messages, how they are read."""

    word: str
    name: str
    words: float  # at most so many words belong to the flag
    read: Callable[[str], Any]


class Option(NamedTuple):
    """One flag as the command line knows it."""

    field: str
    kind: Kind
    flag: Flag
    default: Any


def flag(
    default: Any,
    meaning: str,
    *,
    least: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A field of a flag dataclass: its default, its meaning, the limits that `check_limits` tests."""
    return field(default=default, metadata={"flag": Flag(meaning, least, above, below, choices)})


def split_commas(text: str) -> tuple[str, ...]:
    """The parts of a comma-separated list; an empty part is an error, as an unset variable leaves one."""
    parts = tuple(part.strip() for part in text.split(","))
    if not all(parts):
        raise ValueError(text)
    return parts


KINDS: dict[object, Kind] = {
    bool: Kind("", "a switch", 0, bool),
    int: Kind("N", "a whole number", 1, int),
    float: Kind("X", "a finite number", 1, float),
    str: Kind("TEXT", "a text", 1, str),
    tuple[str, ...]: Kind("PATH,...", "one or more paths, none of them empty", math.inf, split_commas),
}


def options(cls: type[Any]) -> dict[str, Option]:
    """The flags of a dataclass by their spelling, in the order of its fields."""
    types = get_type_hints(cls)
    return {
        spelling(each.name): Option(each.name, KINDS[types[each.name]], each.metadata["flag"], each.default)
        for each in fields(cls)
    }


def spelling(name: str) -> str:
    """How a field is written on the command line: ``--micro-batch`` for ``micro_batch``."""
    return "--" + name.replace("_", "-")


def read(cls: type[T], argv: Sequence[str]) -> T:
    """The dataclass that a command line says; a flag given twice counts the last time, a list grows.

    Raises UsageError for an unknown flag, a missing value and a value of the wrong type.
    """
    known = options(cls)
    given: dict[str, Any] = {}
    words = deque(argv)
    while words:
        word = words.popleft()
        name, equals, text = word.partition("=")
        if name not in known:
            raise UsageError(unknown_flag(word, name, list(known)))
        texts = [text] if equals else following(known[name].kind, words)
        set_value(given, name, known[name], texts)
    return cls(**given)


def following(kind: Kind, words: deque[str]) -> list[str]:
    """Takes the words that belong to a flag: none, one, or all up to the next flag."""
    taken: list[str] = []
    while words and len(taken) < kind.words and not words[0].startswith("--"):
        taken.append(words.popleft())
    return taken


def set_value(given: dict[str, Any], name: str, option: Option, texts: list[str]) -> None:
    kind = option.kind
    if kind.words == 0:
        if texts:
            raise UsageError(f"{name} is a switch and takes no value: write {name} alone, or leave it out")
        given[option.field] = True
        return
    if not texts:
        raise UsageError(f"{name} needs a value: write {name} {example(option)}")
    values = [convert(name, kind, text) for text in texts]
    given[option.field] = values[0] if kind.words == 1 else sum(values, given.get(option.field, ()))


def convert(name: str, kind: Kind, text: str) -> Any:
    try:
        return kind.read(text)
    except ValueError:
        raise UsageError(f"{name}: {reprlib.repr(text)} given, {kind.name} wanted") from None


def unknown_flag(word: str, name: str, known: list[str]) -> str:
    if not name.startswith("-"):
        return f"{word!r} stands alone: every setting is a flag, written --name value (see --help)"
    near = nearest(name.lstrip("-"), [other.lstrip("-") for other in known])
    return f"unknown flag {name}" + (f": did you mean --{near}?" if near else "; --help lists all flags")


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """``: did you mean …?`` with the nearest of the known words, or nothing where none is near."""
    near = nearest(word, known)
    return f": did you mean {near}?" if near else ""


def nearest(word: str, known: Sequence[str]) -> str:
    return next(iter(get_close_matches(word, known, n=1, cutoff=0.5)), "")


def check_limits(config: Any) -> None:
    """Raises UsageError for the first field that is not finite, out of its range or not among its choices."""
    for name, option in options(type(config)).items():
        value = getattr(config, option.field)
        if option.flag.choices and value not in option.flag.choices:
            known = ", ".join(option.flag.choices)
            close = did_you_mean(value, option.flag.choices) or "."
            raise UsageError(f"{name} {value} is unknown{close} Known: {known}")
        if not within(value, option.flag):
            raise UsageError(f"{name} {value}: must be {option.kind.name}{limits(option.flag)}")


def within(value: Any, flag: Flag) -> bool:
    return (
        not (isinstance(value, float) and not math.isfinite(value))
        and (flag.least is None or value >= flag.least)
        and (flag.above is None or value > flag.above)
        and (flag.below is None or value < flag.below)
    )


def limits(flag: Flag) -> str:
    """The range in words: ``, at least 0, below 1``."""
    named = (("at least", flag.least), ("above", flag.above), ("below", flag.below))
    return "".join(f", {words} {limit}" for words, limit in named if limit is not None)


def example(option: Option) -> str:
    """What a value looks like: the choices, the default, or a word for its type."""
    return "|".join(option.flag.choices) or str(option.default or option.kind.word)


def usage(cls: type[Any], command: str) -> str:
    """The text of ``--help``: a line a flag, with its meaning and default."""
    rows = [(f"{name} {word_of(option)}", described(option)) for name, option in options(cls).items()]
    rows.append(("--help", "this text"))
    width = max(len(left) for left, _ in rows)
    lines = [f"  {left:<{width}}  {right}" for left, right in rows]
    return "\n".join([f"{command} [--flag value ...]", "", *lines])


def word_of(option: Option) -> str:
    return "|".join(option.flag.choices) or option.kind.word


def described(option: Option) -> str:
    bare = option.default is False or option.default in ("", ())
    return option.flag.meaning + ("" if bare else f" (default {option.default})")
