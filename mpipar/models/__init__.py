"""Models, written as one loop over blocks: they know no ranks and import no communicator."""

from __future__ import annotations

from mpipar.models.gpt import GPT, Block, GPTConfig
from mpipar.models.sample import sample

__all__ = ["GPT", "Block", "GPTConfig", "sample"]
