"""Configs drawn at random: any, or only those that no limit refuses."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from hypothesis import strategies as st

from mpipar.config import TrainConfig
from mpipar.config.flags import Option, options

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
PATHS = st.text(st.characters(exclude_characters=",", exclude_categories=["Cs"]), min_size=1).filter(
    lambda text: text == text.strip()
)
VALUES: dict[type, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: st.integers(),
    float: st.floats(allow_nan=False),
    str: TEXTS,
    tuple: st.lists(PATHS).map(tuple),
}
FORMED = {"mesh": ("dp=2,tp=3", "tp=1"), "time_limit": ("none", "90", "2-12:00:00")}  # of fields with a form
ANY = st.builds(TrainConfig, **{each.name: VALUES[type(each.default)] for each in fields(TrainConfig)})


def legal(option: Option) -> st.SearchStrategy[Any]:
    """The values that a field may have."""
    flag = option.flag
    if flag.choices:
        return st.sampled_from(flag.choices)
    if flag.parse is not None:
        return st.sampled_from([option.default, *FORMED[option.field]])
    if isinstance(option.default, bool):
        return st.booleans()
    if isinstance(option.default, int):
        below = None if flag.below is None else int(flag.below) - 1
        return st.integers(None if flag.least is None else int(flag.least), below)
    if isinstance(option.default, float):
        low = flag.above if flag.least is None else flag.least
        return st.floats(
            low, flag.below, allow_nan=False, allow_infinity=False,
            exclude_min=flag.above is not None, exclude_max=flag.below is not None,
        )  # fmt: skip
    return VALUES[type(option.default)]


LEGAL = st.builds(TrainConfig, **{each.field: legal(each) for each in options(TrainConfig).values()})
