"""A step names all of its buffers, each as read, as filled, or both: whoever stages buffers relies on it."""

from __future__ import annotations

from dataclasses import fields
from typing import get_args

import pytest

from mpipar.comm import steps


@pytest.mark.parametrize("step", get_args(steps.Step), ids=lambda step: step.__name__)
def test_every_buffer_is_read_or_filled(step: type) -> None:
    buffers = {f.name for f in fields(step) if f.type.startswith("Buffer")}
    assert buffers == {*step.reads, *step.writes}
