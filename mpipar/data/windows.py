"""Which windows of the tokens make a batch: a function of the seed, the step and the row, nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from mpipar.data.corpus import Corpus
from mpipar.random import key


@dataclass(frozen=True, slots=True)
class TextBatches:
    """Rows of `context` + 1 tokens: what goes in, and one further on, what comes out. It has no state.

    A row is the bytes of its tokens, in the dtype of the corpus.
    """

    corpus: Corpus
    seed: int
    batch: int  # rows a batch over all ranks
    context: int

    def row(self, step: int, index: int) -> bytes:
        """Row `index` of batch `step`, from anywhere in the training tokens."""
        text, window = self.corpus.train, self.context + 1
        start = key(self.seed, "row", step, index) % (len(text) - window + 1)
        return bytes(text[start : start + window])

    def validation_rows(self, count: int) -> list[bytes]:
        """At most `count` rows, evenly spaced over the validation tokens; the same on every mesh.

        Few tokens give fewer rows, but whole batches of them; they overlap only where there is not even one.
        """
        text, window = self.corpus.validation, self.context + 1
        apart = (len(text) - 1) // self.context  # rows whose targets do not overlap
        rows = min(count, max(1, apart // self.batch) * self.batch)
        last = len(text) - window
        starts = [last * row // max(1, rows - 1) for row in range(rows)]
        return [bytes(text[start : start + window]) for start in starts]
