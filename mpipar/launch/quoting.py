"""What a user's text may hold where it becomes part of a batch script: allow-lists, and quotes for the rest.

A word of an `#SBATCH` line is read by sbatch, which knows patterns (``%j``) and quotes of its own: there only plain
characters may stand. In the body the shell reads, and every path is quoted. A control character is refused everywhere.
"""

from __future__ import annotations

import re
import shlex

from mpipar.errors import UsageError

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*", re.ASCII)
LIST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._,-]*", re.ASCII)  # of partitions, features
MODULE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+/-]*", re.ASCII)
MEMORY = re.compile(r"[0-9]{1,9}[KMGT]?", re.ASCII)
LOG_PATH = re.compile(r"/[A-Za-z0-9 ._+/@=,~-]*", re.ASCII)
ASSIGNMENT = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)=(?P<value>.*)", re.ASCII | re.DOTALL)
# Variables by which a shell or a loader runs other code, and SLURM's own.
RUNS_CODE = (
    "BASH_",
    "ENV",
    "LD_PRELOAD",
    "LD_AUDIT",
    "PROMPT_COMMAND",
    "SHELLOPTS",
    "BASHOPTS",
    "IFS",
    "PS4",
    "SLURM_",
)


def name(text: str) -> None:
    """A job, an account, a qos. Raises UsageError, as all of these."""
    must(NAME, text, "letters, digits and . _ - are allowed, and no - in front")


def names(text: str) -> None:
    must(LIST, text, "letters, digits and . _ - are allowed, with a comma between several, and no - in front")


def module(text: str) -> None:
    must(MODULE, text, "letters, digits and . _ + / - are allowed, and no - in front")


def memory(text: str) -> None:
    must(MEMORY, text, "write a number with K, M, G or T, as 16G")


def path(text: str) -> None:
    """A path of the body: any characters that can be seen; it is quoted where it stands."""
    if not text.isprintable():
        raise UsageError("a path has no newlines and no control characters")
    if text.startswith("-"):
        raise UsageError(f"a path that begins with - would be an option: write ./{text}")


def assignment(text: str) -> None:
    """NAME=value, of a variable that runs no code."""
    match = ASSIGNMENT.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r} is no variable: write NAME=value")
    if not match["value"].isprintable():
        raise UsageError(f"the value of {match['name']} has a newline or a control character")
    if match["name"].startswith(RUNS_CODE):
        raise UsageError(f"{match['name']} is not set from here: write it into a script of your own")


def log_path(text: str, said: str) -> str:
    """A path as an `#SBATCH` line takes it, in quotes where it has blanks."""
    if not LOG_PATH.fullmatch(text):
        raise UsageError(
            f"{said} {text!r} is part of the name of SLURM's log: letters, digits, blanks and . _ + / @ = , ~ - "
            "are allowed there; name another directory"
        )
    return f'"{text}"' if " " in text else text


def must(form: re.Pattern[str], text: str, allowed: str) -> None:
    if text and not form.fullmatch(text):
        raise UsageError(f"{allowed}")


def quoted(*words: str) -> str:
    """Words as the shell reads them back."""
    return shlex.join(words)


def exported(text: str) -> str:
    """``export NAME='the value'``."""
    variable, _, value = text.partition("=")
    return f"export {variable}={shlex.quote(value)}"
