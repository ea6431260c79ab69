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
    parse: Callable[[Any], object] | None = None
    alone: bool = False


class Kind(NamedTuple):
    """How values of a type are written: a word for the help, a name for messages, how they are read."""

    word: str
    name: str
    words: float  # at most so many words belong to the flag
    read: Callable[[str], Any]
    take: Callable[
        [Any], Any
    ]  # the value that a file or a function gives; ValueError where it is of another type
    example: Any


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
    parse: Callable[[Any], object] | None = None,
    alone: bool = False,
) -> Any:
    """A field of a flag dataclass: its default, its meaning, the limits that `check_limits` tests.

    `parse` raises UsageError for a value of the wrong form. `alone`: the field (of texts) has no flag of its own, it
    takes the words that stand alone on the command line.
    """
    return field(
        default=default, metadata={"flag": Flag(meaning, least, above, below, choices, parse, alone)}
    )


def split_commas(text: str) -> tuple[str, ...]:
    """The parts of a comma-separated list; an empty part is an error, as an unset variable leaves one."""
    parts = tuple(part.strip() for part in text.split(","))
    if not all(parts):
        raise ValueError(text)
    return parts


def exactly(kind: type) -> Callable[[Any], Any]:
    """Takes values of this type and of no other: True is no whole number here."""

    def take(value: Any) -> Any:
        if type(value) is not kind:
            raise ValueError(value)
        return value

    return take


def take_number(value: Any) -> float:
    if type(value) not in (int, float):
        raise ValueError(value)
    return float(value)


def take_texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(type(text) is str and text for text in value):
        raise ValueError(value)
    return tuple(value)


NARROW = 18  # characters of choices that stand beside a flag in the help; more stand with its meaning
PATHS = "one or more paths, none of them empty"
KINDS: dict[object, Kind] = {
    bool: Kind("", "a switch", 0, bool, exactly(bool), True),
    int: Kind("N", "a whole number", 1, int, exactly(int), 1),
    float: Kind("X", "a finite number", 1, float, take_number, 0.1),
    str: Kind("TEXT", "a text", 1, str, exactly(str), "TEXT"),
    tuple[str, ...]: Kind("PATH,...", PATHS, math.inf, split_commas, take_texts, ("PATH",)),
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
    return cls(**values(options(cls), argv))


def values(known: dict[str, Option], argv: Sequence[str]) -> dict[str, Any]:
    """The values of those fields that a command line names."""
    flags = {name: option for name, option in known.items() if not option.flag.alone}
    switches = {off(name): option.field for name, option in flags.items() if option.kind.words == 0}
    alone = next((option.field for option in known.values() if option.flag.alone), None)
    given: dict[str, Any] = {}
    words = deque(argv)
    while words:
        word = words.popleft()
        name, equals, text = word.partition("=")
        if word in switches:
            given[switches[word]] = False
        elif alone is not None and not word.startswith("-"):
            given[alone] = (*given.get(alone, ()), word)
        elif name not in flags:
            raise UsageError(unknown_flag(word, name, list(flags)))
        else:
            texts = [text] if equals else following(flags[name].kind, words)
            set_value(given, name, flags[name], texts)
    return given


def off(name: str) -> str:
    """How a switch is turned off that a file has turned on: ``--no-sequence-parallel``."""
    return "--no-" + name.removeprefix("--")


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
    read = [convert(name, kind, text) for text in texts]
    given[option.field] = read[0] if kind.words == 1 else sum(read, given.get(option.field, ()))


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
        check_value(f"{name} {','.join(value) if isinstance(value, tuple) else value}", value, option)


def check_value(said: str, value: Any, option: Option) -> None:
    """Raises UsageError for a value that its field cannot have; `said` is how the user wrote it."""
    if option.flag.choices and value not in option.flag.choices:
        known = ", ".join(option.flag.choices)
        close = did_you_mean(value, option.flag.choices) or "."
        raise UsageError(f"{said} is unknown{close} Known: {known}")
    if not within(value, option.flag):
        raise UsageError(f"{said}: must be {option.kind.name}{limits(option.flag)}")
    if not is_unicode(value):
        raise UsageError(
            f"{ascii(said)[1:-1]} is no UTF-8: name it by a directory or a glob whose name is, or rename it"
        )


def is_unicode(value: Any) -> bool:
    """False for a text with bytes that are no UTF-8, which Python smuggles in from the command line."""
    try:
        "".join(value if isinstance(value, str | tuple) else "").encode()
    except UnicodeEncodeError:
        return False
    return True


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


def wants_help(argv: Sequence[str]) -> bool:
    return "--help" in argv or "-h" in argv


def usage(known: dict[str, Option], command: str) -> str:
    """The text of ``--help``: a line a flag, with its meaning and default."""
    rows = [(label(name, option), described(option)) for name, option in known.items()]
    if any(option.kind.words == 0 for option in known.values()):
        rows.append(("--no-SWITCH", "turns a switch off again"))
    rows.append(("--help", "this text"))
    width = max(len(left) for left, _ in rows)
    alone = [f" {label(name, option)}" for name, option in known.items() if option.flag.alone]
    lines = [f"  {left:<{width}}  {right}" for left, right in rows]
    return "\n".join([f"{command}{''.join(alone)} [--flag value ...]", "", *lines])


def label(name: str, option: Option) -> str:
    """``--steps N``; ``INPUT ...`` for what stands alone."""
    if option.flag.alone:
        return f"{option.field.upper()} ..."
    choices = "|".join(option.flag.choices)
    return f"{name} {choices if 0 < len(choices) <= NARROW else option.kind.word}"


def described(option: Option) -> str:
    bare = option.default is False or option.default in ("", ())
    choices = "|".join(option.flag.choices)
    listed = f": {choices}" if len(choices) > NARROW else ""
    return option.flag.meaning + listed + ("" if bare else f" (default {option.default})")
