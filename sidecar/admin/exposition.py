"""The grammar: Prometheus text format 0.0.4 and OpenMetrics 1.0, written line by line.

Sources: prometheus.io/docs/instrumenting/exposition_formats and the OpenMetrics 1.0 specification. They
differ here in the family name of counters and infos (OpenMetrics: without the suffix), the escapes in HELP,
the info type, and the closing # EOF.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Final, Literal

TEXT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"

Kind = Literal["counter", "gauge", "info", "histogram", "summary"]


def escape_label(value: str) -> str:
    if "\\" in value or '"' in value or "\n" in value:
        return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
    return value


def labels(pairs: Mapping[str, str]) -> str:
    """`a="x",b="y"`, without the braces: what `Exposition` takes as a row's labels."""
    return ",".join([f'{name}="{escape_label(value)}"' for name, value in pairs.items()])


def number(value: float) -> str:
    """Go's ParseFloat reads what repr writes, but for the three that are not finite."""
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "+Inf" if value > 0 else "-Inf"
    return repr(value)


class Exposition:
    """Collects families; each name at most once. Empty families are left out."""

    def __init__(self, *, openmetrics: bool) -> None:
        self._openmetrics = openmetrics
        self._lines: list[str] = []

    def family(self, name: str, kind: Kind, text: str, rows: Iterable[tuple[str, float]]) -> None:
        """One sample a row: (labels without braces, value). Counters end in _total and infos in _info."""
        samples = [
            f"{name}{{{row}}} {value if type(value) is int else number(value)}"
            if row
            else f"{name} {number(value)}"
            for row, value in rows
        ]
        if samples:
            self._head(name, kind, text)
            self._lines += samples

    def sums(self, name: str, text: str, rows: Iterable[tuple[str, float, int]]) -> None:
        """A summary without quantiles: (labels, sum, count)."""
        samples = [
            f"{name}_sum{{{row}}} {number(total)}\n{name}_count{{{row}}} {count}"
            for row, total, count in rows
        ]
        if samples:
            self._head(name, "summary", text)
            self._lines += samples

    def histograms(
        self,
        name: str,
        text: str,
        rows: Iterable[tuple[str, Iterable[float], Iterable[int], float]],
    ) -> None:
        """(labels, upper bounds, counts per bucket with one more than bounds, sum). Labels may not be empty.

        Raises ValueError if the numbers of bounds and buckets do not go together.
        """
        samples = []
        for row, bounds, buckets, total in rows:
            edges = [*map(number, map(float, bounds)), "+Inf"]
            heights = list(accumulate(buckets))
            if len(edges) != len(heights):
                raise ValueError(
                    f"{name}{{{row}}}: {len(heights)} buckets for {len(edges) - 1} bounds and +Inf"
                )
            samples += [
                f'{name}_bucket{{{row},le="{edge}"}} {height}'
                for edge, height in zip(edges, heights, strict=True)
            ]
            samples.append(f"{name}_sum{{{row}}} {number(total)}\n{name}_count{{{row}}} {heights[-1]}")
        if samples:
            self._head(name, "histogram", text)
            self._lines += samples

    def finish(self) -> bytes:
        if self._openmetrics:
            self._lines.append("# EOF")
        self._lines.append("")
        return "\n".join(self._lines).encode("utf-8", "replace")

    def _head(self, name: str, kind: Kind, text: str) -> None:
        escaped = text.replace("\\", "\\\\").replace("\n", "\\n")
        shown: str = kind
        if self._openmetrics:
            escaped = escaped.replace('"', '\\"')
            name = name.removesuffix("_total").removesuffix("_info") if kind in ("counter", "info") else name
        elif kind == "info":
            shown = "gauge"
        self._lines.append(f"# HELP {name} {escaped}\n# TYPE {name} {shown}")
