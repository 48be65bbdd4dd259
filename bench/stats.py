"""Medians and ratios of samples. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Summary(NamedTuple):
    """The rounds of one figure."""

    median: float
    least: float
    most: float
    rounds: int


def summarise(values: Sequence[float]) -> Summary | None:
    """None without values: a peer that could not be measured."""
    if not values:
        return None
    return Summary(statistics.median(values), min(values), max(values), len(values))


def ratio(ours: Summary | None, other: Summary | None) -> float | None:
    """ours / other by their medians; None if either is missing or other is not positive."""
    if ours is None or other is None or other.median <= 0:
        return None
    return ours.median / other.median
