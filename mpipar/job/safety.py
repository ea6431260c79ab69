"""Hooks that end the whole job when one rank fails, and say why once. `docs/failures.md` is the user's side.

They watch uncaught exceptions (of threads too), `sys.exit` and Ctrl-C. A session that shows errors itself and
goes on (IPython, `python -i`, pytest) is left alone.

A bare `raise SystemExit(3)`, `exit()` and `quit()` pass by every hook that Python has: such a rank waits in MPI's own
end for the others, and if those wait for it, the job hangs. `sys.exit(3)` is seen.
"""

from __future__ import annotations

import argparse
import atexit
import io
import os
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import partial
from opcode import opmap
from types import FrameType, TracebackType
from typing import Any, NoReturn

from mpipar.comm.comm import Comm
from mpipar.errors import LauncherError, UsageError
from mpipar.job.ending import Job, say
from mpipar.job.launcher import launched_size

RETURNS = {opmap[name] for name in ("RETURN_VALUE", "RETURN_CONST") if name in opmap}
INTERRUPTED = 130  # what a shell reports after Ctrl-C

_job: Job | None = None


def watch(start: Callable[[], Comm]) -> None:
    """Installs the hooks before MPI has started; `start` starts it where a rank must end before that.

    Without a launcher the one effect is that a UsageError, a LauncherError or Ctrl-C ends in one message.
    """
    global _job  # noqa: PLW0603  (sys.excepthook is one per process, too)
    if _job is not None or _is_hosted():
        return
    _job = Job(start)
    _hook_exceptions(_job)
    if launched_size() > 1:
        _hook_exits(_job)


def install(world: Comm) -> None:
    """Installs the hooks, or completes `watch`, when MPI has started with more than one rank. Collective."""
    watch(lambda: world)
    if _job is not None:
        _job.started(world)


def _is_hosted() -> bool:
    """Whether this process is a session whose host shows errors and goes on."""
    if hasattr(sys, "ps1") or sys.flags.inspect:  # -i sets it too
        return True
    if "PYTEST_VERSION" in os.environ and "_pytest" in sys.modules:
        return True
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None


# ---- uncaught exceptions --------------------------------------------------------------------------------


def _hook_exceptions(job: Job) -> None:
    previous, previous_of_threads = sys.excepthook, threading.excepthook

    def uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not job.is_mine():
            previous(kind, error, trace)
        elif issubclass(kind, KeyboardInterrupt):
            _leave(job, INTERRUPTED, "interrupted", "interrupted")
        elif issubclass(kind, UsageError | LauncherError):
            _leave(job, 2, str(error), f"{job.name}: {error}")
        elif job.size == 1:
            previous(kind, error, trace)
        else:
            theirs = previous is not sys.__excepthook__
            _fail(job, error, "", partial(previous, kind, error, trace) if theirs else None)

    def uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
        if not job.is_mine() or job.size == 1 or args.exc_value is None or args.exc_type is SystemExit:
            previous_of_threads(args)
        else:
            theirs = previous_of_threads is not threading.__excepthook__
            name = args.thread.name if args.thread is not None else "?"
            _fail(
                job,
                args.exc_value,
                f", thread {name}",
                partial(previous_of_threads, args) if theirs else None,
            )

    sys.excepthook, threading.excepthook = uncaught, uncaught_in_thread


def _leave(job: Job, code: int, text: str, alone: str) -> NoReturn:
    job.leave(code, text, alone)
    raise SystemExit(code)  # the one way in which an excepthook chooses the exit code


def _fail(job: Job, error: BaseException, where: str, theirs: Callable[[], object] | None) -> None:
    """`theirs` is the hook that was there before us and shows the error in its own way."""
    trace = "".join(traceback.format_exception(error))
    head = f"---- {job.name}{where}: {type(error).__name__}, the job ends here ----\n"

    def show() -> None:
        say(head + ("" if theirs is not None else trace))
        if theirs is not None:
            theirs()

    job.fail(trace, show)


# ---- sys.exit -------------------------------------------------------------------------------------------


def _hook_exits(job: Job) -> None:
    """Wraps sys.exit. That it was called means little, for SystemExit may be caught: the end of the program
    tells. The outermost frame of a program that came to its end stopped at a return; any other was left by
    an exception.
    """
    program = _program()
    asked: list[tuple[int, str]] = []

    def exit(status: Any = None, /) -> NoReturn:
        if threading.current_thread() is threading.main_thread():
            asked[:] = [(_exit_code(status), _caller())]
        raise SystemExit(status)

    def at_exit() -> None:
        if job.ended or not job.is_mine() or _has_returned(program):
            return
        trace = getattr(sys, "last_traceback", None)
        if trace is not None and trace.tb_frame is program:  # a hook installed after ours has shown it
            job.fail(repr(sys.last_value), lambda: None)
        elif asked and asked[0][0] != 0:
            code, site = asked[0]
            unsaid = job.said if job.rank > 0 else ""
            what = f"{job.name}: sys.exit({code}) at {site}, the other ranks go on: the job ends"
            job.leave(code, job.said, unsaid + what)

    sys.exit = exit
    atexit.register(at_exit)
    _hold_parser_errors(job)


def _program() -> FrameType:
    """The outermost frame of the main thread: the module that is run, or `python -m`'s runner."""
    frame = sys._current_frames()[threading.main_thread().ident or 0]
    while frame.f_back is not None:
        frame = frame.f_back
    return frame


def _has_returned(program: FrameType) -> bool:
    return program.f_code.co_code[program.f_lasti] in RETURNS


def _caller() -> str:
    """file:line of the call of sys.exit, or of the parser that made it."""
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename in (__file__, argparse.__file__):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _exit_code(status: object) -> int:
    """The exit code that the interpreter makes of the argument of sys.exit."""
    if isinstance(status, int):
        return status & 0xFF
    return 0 if status is None else 1


def _hold_parser_errors(job: Job) -> None:
    """Of a bad flag rank 0 tells; another rank keeps its text until it shows that it is alone with it."""
    original = argparse.ArgumentParser.error

    def error(self: argparse.ArgumentParser, message: str) -> NoReturn:
        held = io.StringIO()
        try:
            with redirect_stderr(held):
                original(self, message)
        finally:
            job.said = held.getvalue()
            if job.rank == 0:
                say(job.said)

    argparse.ArgumentParser.error = error  # type: ignore[method-assign]
