"""The mesh as a person writes it. A failure shows the text and the axes or the message that came of it."""

from __future__ import annotations

import pytest

from mpipar.config import AXES, parse_axes
from mpipar.errors import UsageError

pytestmark = pytest.mark.alone


@pytest.mark.parametrize(
    ("text", "axes"),
    [
        ("", {}),
        ("  ", {}),
        ("dp=2", {"dp": 2}),
        ("dp=2,tp=4", {"dp": 2, "tp": 4}),
        (" tp = 4 , dp=1 ", {"tp": 4, "dp": 1}),
        (",".join(f"{name}=1" for name in AXES), dict.fromkeys(AXES, 1)),
    ],
)
def test_axes_in_the_order_written(text: str, axes: dict[str, int]) -> None:
    assert list(parse_axes(text).items()) == list(axes.items())


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("dp=2,tpp=2", "unknown axis 'tpp': did you mean tp? Axes: dp, pp, cp, tp, ep, replica"),
        ("rows=2", "unknown axis 'rows'. Axes: dp, pp, cp, tp, ep, replica"),
        ("DP=2", "unknown axis 'DP'. Axes: dp"),
        ("dp=2,dp=2", "axis 'dp' is written twice"),
        ("dp=0", "the size of 'dp' is '0'; write a whole number, at least 1"),
        ("dp=-1", "the size of 'dp' is '-1'; write a whole number, at least 1"),
        ("dp=two", "the size of 'dp' is 'two'; write a whole number, at least 1"),
        ("dp=1.5", "the size of 'dp' is '1.5'; write a whole number, at least 1"),
        ("dp=", "the size of 'dp' is ''; write a whole number, at least 1"),
        ("2x2", "'2x2' is no axis; write name=size, as dp=2,tp=2"),
        ("dp", "'dp' is no axis"),
        ("dp=2,", "'' is no axis"),
        ("=2", "'=2' is no axis"),
    ],
)
def test_bad_axes(text: str, fragment: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_axes(text)
    assert fragment in str(raised.value)
    assert str(raised.value).startswith(f"--mesh {text}: ")
