"""The figures of a run, for the table at its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple


class Figure(NamedTuple):
    scenario: str
    what: str
    value: str
    allowed: str  # empty: for information


class Figures:
    """Tests write into it as they measure, before they judge, so that a bad figure is in the table too."""

    def __init__(self) -> None:
        self.all: list[Figure] = []

    def note(self, scenario: str, what: str, value: object, allowed: str = "") -> None:
        text = f"{value:.2f}" if isinstance(value, float) else str(value)
        self.all.append(Figure(scenario, what, text, allowed))

    def table(self) -> list[str]:
        rows = [Figure("scenario", "figure", "measured", "allowed"), *self.all]
        widths = [max(len(row[column]) for row in rows) for column in range(len(Figure._fields))]
        return [
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


FIGURES: Final = Figures()
