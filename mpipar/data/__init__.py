"""Text as bytes or tokens: which files, which part validates, which windows make a batch, and how ranks share it."""

from __future__ import annotations

from mpipar.data.batches import Batches, MicroBatch
from mpipar.data.corpus import Corpus
from mpipar.data.files import FileEntry, list_files
from mpipar.data.windows import TextBatches
from mpipar.job.agree import on_all_ranks, on_first_rank

__all__ = [
    "Batches",
    "Corpus",
    "FileEntry",
    "MicroBatch",
    "TextBatches",
    "list_files",
    "on_all_ranks",
    "on_first_rank",
]
