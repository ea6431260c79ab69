"""``mpipar tokenize INPUT ... --out FILE``: text into a token file, a block at a time."""

from __future__ import annotations

from dataclasses import dataclass

from mpipar.cli.command import Command
from mpipar.config.flags import check_limits, flag
from mpipar.data.files import list_files
from mpipar.data.tokenfile import BYTES, DTYPES
from mpipar.data.tokenize import write_tokens
from mpipar.errors import UsageError
from mpipar.job.launcher import launched_size
from mpipar.log import human_bytes


@dataclass(frozen=True, slots=True)
class Tokenize:
    """The flags of `mpipar tokenize`."""

    input: tuple[str, ...] = flag((), "files, directories, globs of text", alone=True)
    out: str = flag("", "the token file to write")
    tokenizer: str = flag(BYTES, "what turns text into tokens", choices=(BYTES,))
    dtype: str = flag("uint8", "of the tokens in the file", choices=tuple(DTYPES))
    force: bool = flag(False, "write over the file where it exists")


def run(flags: Tokenize) -> None:
    check_limits(flags)
    if launched_size() > 1:
        raise UsageError("tokenize is the work of one process: start it without mpirun or srun")
    if not flags.input:
        raise UsageError("tokenize needs text: write  mpipar tokenize INPUT ... --out FILE")
    if not flags.out:
        raise UsageError("tokenize needs a file to write: add  --out tokens.bin")
    entries = list_files(flags.input, "INPUT")
    header = write_tokens(entries, flags.out, flags.dtype, force=flags.force)
    files = "1 file" if len(entries) == 1 else f"{len(entries):,} files"
    print(
        f"{flags.out}: {header.count:,} tokens ({header.tokenizer}, {header.dtype}) of {files}, "
        f"{human_bytes(header.size)}"
    )


COMMAND = Command("turns text into a token file, which train.py maps with --data", Tokenize, run)
