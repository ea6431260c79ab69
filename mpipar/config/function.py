"""A config that a Python function returns: ``FILE.py:FUNCTION`` or ``package.module:function``."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import fields
from types import ModuleType
from typing import Any, TypeVar

from mpipar.config.flags import did_you_mean
from mpipar.config.toml import take
from mpipar.errors import UsageError

T = TypeVar("T")
MODULE = "mpipar_config"  # the name under which a config file is imported
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def names_function(source: str) -> bool:
    """Whether this is a function, and no TOML file."""
    return not source.endswith(".toml") and (":" in source or source.endswith(".py"))


def call(cls: type[Any], source: str) -> Any:
    """What the function returns, checked field by field. Every rank must call it: a function does not travel.

    Raises UsageError for a module that cannot be imported, a function that is not there, wants arguments, fails, or
    returns something else.
    """
    function = find(source)
    config = guarded(source, function)
    if type(config) is not cls:
        raise UsageError(
            f"--config {source} returned {type(config).__name__}: "
            f"return a {cls.__module__.rpartition('.')[0]}.{cls.__name__}"
        )
    given = {each.name: getattr(config, each.name) for each in fields(cls)}
    return cls(**{name: take(source, cls, name, value) for name, value in given.items()})


def find(source: str) -> Callable[[], Any]:
    where, _, name = source.rpartition(":")
    if not where or not name.isidentifier():
        raise UsageError(
            f"--config {source} names no function: write FILE.py:FUNCTION or package.module:function"
        )
    module = guarded(
        source, lambda: from_file(where) if where.endswith(".py") else importlib.import_module(where)
    )
    function = getattr(module, name, None)
    if function is None:
        raise UsageError(f"--config {source}: there is no {name} in {where}{did_you_mean(name, own(module))}")
    if not callable(function) or wants_arguments(function):
        raise UsageError(f"--config {source}: {name} must be a function without arguments")
    return function  # type: ignore[no-any-return]


def wants_arguments(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # some of what is written in C does not tell
        return True
    return any(each.default is each.empty and each.kind not in VARIADIC for each in parameters)


def from_file(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(MODULE, os.path.abspath(path))
    assert spec is not None, "the name ends with .py"
    assert spec.loader is not None, "a file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE] = module  # its dataclasses look themselves up there
    before = sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # a run that is refused leaves no __pycache__
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


def own(module: ModuleType) -> list[str]:
    """The functions that a module defines itself."""
    return [name for name, _ in inspect.getmembers(module, inspect.isfunction)]


def guarded(source: str, step: Callable[[], T]) -> T:
    """What `step` returns; an error of the user's code becomes one message with its last line there."""
    try:
        return step()
    except UsageError:
        raise
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
        raise UsageError(f"--config {source}: {told}{last_line(error)}") from None


def last_line(error: Exception) -> str:
    """`` (FILE.py, line 3)``: the deepest line that is neither ours nor the import system's."""
    if isinstance(error, SyntaxError):
        return ""  # its text has file and line
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if not is_machinery(frame.filename)
    ]
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""


def is_machinery(filename: str) -> bool:
    return filename in (__file__, importlib.__file__) or filename.startswith("<frozen")
