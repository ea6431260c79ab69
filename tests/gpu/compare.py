"""Holds the stand-in and the backend against an installed CuPy: every name exists, every argument is one of CuPy's.

``python tests/gpu/compare.py`` where cupy-cuda12x or cupy-cuda13x is installed. Needs no card and no driver. Prints
what is amiss and exits with 1.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cupy

ROOT = Path(__file__).parents[2]
STANDIN, BACKEND = ROOT / "tests" / "standin", ROOT / "mpipar" / "backend" / "cupy"


def standin() -> ModuleType:
    """The stand-in, under another name and with CuPy left where it is."""
    real = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "cupy"}
    for name in real:
        del sys.modules[name]
    sys.path.insert(0, str(STANDIN))
    found = importlib.import_module("cupy")
    sys.path.remove(str(STANDIN))
    for name in [name for name in sys.modules if name.partition(".")[0] == "cupy"]:
        del sys.modules[name]
    sys.modules.update(real)
    return found


def arguments(function: Any) -> list[str] | None:
    """The names of the arguments, from the signature or the first line of the documentation; None where none tells."""
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        told = re.match(r"[\w.]+\(([^)]*)\)", function.__doc__ or "")
        return re.findall(r"(?:^|, )\**(\w+)", told.group(1)) if told else None


def functions(ours: ModuleType) -> Iterator[str]:
    """What is amiss with the stand-in's functions."""
    for name, function in vars(ours).items():
        if getattr(function, "__module__", "") != "cupy" or name.startswith("_") or inspect.isclass(function):
            continue
        real = getattr(cupy, name, None)
        if function.__qualname__.startswith("elementwise."):
            if not isinstance(real, cupy.ufunc) and name != "clip":
                yield f"cupy.{name} is no ufunc"
        elif name not in HELPERS:
            yield from lacking(f"cupy.{name}", function, real)


POSITIONAL = {"shape", "axes", "axis1", "axis2"}  # which CuPy's documentation does not name
HELPERS = {
    "refused", "binary", "reflected", "in_place", "operand", "places", "computed", "elementwise",
}  # fmt: skip


def lacking(name: str, ours: Any, real: Any) -> Iterator[str]:
    if real is None:
        yield f"{name} does not exist"
        return
    known = arguments(real)
    if known is not None and not {"args", "kwargs"} & set(known):
        for argument in arguments(ours) or []:
            if argument not in known:
                yield f"{name} has no argument {argument!r}: it has {', '.join(known)}"


def methods(ours: ModuleType) -> Iterator[str]:
    for name, method in vars(ours.ndarray).items():
        special = (
            name.startswith("__")
            and name != "__weakref__"
            and "refused" not in getattr(method, "__qualname__", "refused")
        )
        if name.startswith("_") and not special:  # what the stand-in refuses need not be there
            continue
        real = getattr(cupy.ndarray, name, None)
        if real is None:
            yield f"cupy.ndarray.{name} does not exist"
        elif inspect.isfunction(method) and not name.startswith("_"):
            known = arguments(real) or []
            for argument in list(inspect.signature(method).parameters)[1:]:
                if argument not in known and argument not in POSITIONAL:
                    yield f"cupy.ndarray.{name} has no argument {argument!r}: it has {', '.join(known)}"


def uses() -> Iterator[str]:
    """Every ``cp.…`` of the backend, and every keyword that it is called with."""
    for path in sorted(BACKEND.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and (name := dotted(node)) and resolved(name) is None:
                yield f"{path.name}:{node.lineno}: cupy.{name} does not exist"
            if (
                isinstance(node, ast.Call)
                and (name := dotted(node.func))
                and (real := resolved(name)) is not None
            ):
                known = arguments(real) or []
                for keyword in node.keywords:
                    if known and keyword.arg not in known and "kwargs" not in known:
                        yield f"{path.name}:{node.lineno}: cupy.{name} has no argument {keyword.arg!r}"


def dotted(node: ast.AST) -> str:
    """``cuda.Device`` for ``cp.cuda.Device``; "" where it does not begin with cp."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts, node = [node.attr, *parts], node.value
    return ".".join(parts) if isinstance(node, ast.Name) and node.id == "cp" else ""


def resolved(name: str) -> Any:
    found: Any = cupy
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def machine(ours: ModuleType) -> Iterator[str]:
    """The part of cupy.cuda."""
    cuda = ours.cuda
    wanted = [
        *(f"cuda.runtime.{name}" for name in vars(cuda.runtime)),
        *(
            f"cuda.{name}"
            for name in ("Device.use", "Device.mem_info", "set_allocator", "get_current_stream")
        ),
        *(f"cuda.{name}" for name in ("memory.OutOfMemoryError", "PinnedMemory", "PinnedMemoryPointer")),
        *(f"cuda.{name}" for name in ("MemoryPool.malloc", "MemoryPool.used_bytes", "Stream.synchronize")),
    ]
    yield from (f"cupy.{name} does not exist" for name in wanted if resolved(name) is None)


def main() -> int:
    ours = standin()
    amiss = [*functions(ours), *methods(ours), *machine(ours), *uses()]
    print("\n".join(amiss) or f"the stand-in and the backend use what CuPy {cupy.__version__} has")
    return 1 if amiss else 0


if __name__ == "__main__":
    sys.exit(main())
