"""A config as a TOML file: one key a field, at the top level, with the names, types and limits of the flags."""

from __future__ import annotations

import json
import re
import reprlib
import tomllib
from typing import Any

import tomli_w

from mpipar.config.flags import Option, check_value, did_you_mean, limits, options
from mpipar.errors import UsageError


def read_toml(cls: type[Any], path: str) -> dict[str, Any]:
    """The fields that a file sets.

    Raises UsageError, with the line where there is one, for a file that cannot be read or is no TOML, an unknown key, a
    value of the wrong type or out of its range.
    """
    text, table = parsed(path, f"--config {path}")
    return {key: take(f"{path}{place(text, key)}", cls, key, value) for key, value in table.items()}


def read_tables(classes: dict[str, type[Any]], path: str) -> dict[str, dict[str, Any]]:
    """The fields that each table of a file sets, ``[run]`` by its class and so on; a table may be absent.

    Raises UsageError as `read_toml` does, and for a key that stands outside of the tables.
    """
    text, file = parsed(path, path)
    for name, table in file.items():
        if name not in classes or not isinstance(table, dict):
            known = ", ".join(f"[{each}]" for each in classes)
            close = did_you_mean(name, list(classes)) if isinstance(table, dict) else ""
            raise UsageError(f"{path}{place(text, name)}: {name!r} is none of the tables {known}{close}")
    return {
        name: {
            key: take(f"{path}{place(text, key)}, [{name}]", cls, key, value)
            for key, value in file.get(name, {}).items()
        }
        for name, cls in classes.items()
    }


def parsed(path: str, said: str) -> tuple[str, dict[str, Any]]:
    """The text of a file and its tables; `said` is how messages name it."""
    text = read_text(path, said)
    try:
        return text, tomllib.loads(text + "\n")  # without it the last line has no number in messages
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{said} is no TOML: {error}") from None


def read_text(path: str, said: str) -> str:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:  # Windows may begin it with a mark
            return file.read()
    except OSError as error:
        raise UsageError(f"{said} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{said} is no UTF-8 at byte {error.start}: write it as UTF-8") from None


def place(text: str, key: str) -> str:
    """``, line 3`` where the key begins a line that is no part of a longer text."""
    begins = re.compile(rf"\s*(?:\[+\s*)?([\"']?){re.escape(key)}\1\s*[=.\]]")
    lines = text.split("\n")  # splitlines knows ends of lines that TOML does not
    for number, line in enumerate(lines):
        if begins.match(line) and is_toml("\n".join(lines[:number])):
            return f", line {number + 1}"
    return ""


def is_toml(text: str) -> bool:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True


def take(where: str, cls: type[Any], key: str, value: Any) -> Any:
    """The value of a field that a file or a function gives, checked; `where` begins every message."""
    known = {option.field: option for option in options(cls).values()}
    if isinstance(value, dict):
        raise UsageError(
            f"{where}: [{key}] is a table: settings stand at the top of the file, as steps = 300"
        )
    if key not in known:
        close = did_you_mean(key, list(known)) or "; the keys are the flags of --help, with _ for -"
        raise UsageError(f"{where}: unknown key {key!r}{close}")
    option, said = known[key], f"{where}: {key} = {as_written(value)}"
    try:
        taken = option.kind.take(value)
    except (ValueError, OverflowError):
        raise UsageError(f"{said}: {option.kind.name} wanted, as {key} = {example(option)}") from None
    check_value(said, taken, option)
    check_form(said, taken, option)
    return taken


def check_form(said: str, value: Any, option: Option) -> None:
    try:
        if option.flag.parse is not None:
            option.flag.parse(value)
    except UsageError as error:
        raise UsageError(f"{said}: {error}") from None


def as_written(value: Any) -> str:
    """A value as TOML writes it, cut where it is long; JSON is the same for all that a config holds."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else reprlib.repr(value)


def example(option: Option) -> str:
    return as_written(option.default or option.kind.example)


def as_toml(config: Any, header: str) -> str:
    """The text of a file that `read_toml` reads to the same config, each field with its meaning above it."""
    parts = [f"{comment(header)}\n"]
    for option in options(type(config)).values():
        value = getattr(config, option.field)
        entry = {option.field: list(value) if isinstance(value, tuple) else value}
        parts.append(f"{comment(meaning(option))}\n{tomli_w.dumps(entry)}")
    return "\n".join(parts)


def meaning(option: Option) -> str:
    """What the field is, with the values that it may have."""
    allowed = ", ".join(option.flag.choices) or limits(option.flag).removeprefix(", ")
    return option.flag.meaning + (f" ({allowed})" if allowed else "")


def comment(text: str) -> str:
    """One line: a comment may hold no control characters."""
    return "# " + "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
