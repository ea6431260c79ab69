"""Models, written as one loop over blocks: they know no ranks and import no communicator."""

from __future__ import annotations

from mpipar.models.gpt import GPT, Block, GPTConfig
from mpipar.models.sample import sample
from mpipar.models.stages import gpt_stages, split_layers

__all__ = ["GPT", "Block", "GPTConfig", "gpt_stages", "sample", "split_layers"]
