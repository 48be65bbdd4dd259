"""From what a client reports to what the screen shows: shares of the last second, counts of this phase."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Final

from demolib.processes import Report
from demolib.screen import Row, Screen, View

WINDOW_S: Final = 1.0  # bars show the calls of this last while
BUSY_SHARE: Final = 0.5  # with three servers and more nobody's fair share


class Panel:
    """Call order: `phase`, then `show` as reports come; `client_ended` before another client's first report."""

    def __init__(self, screen: Screen) -> None:
        self.states: dict[str, str] = {}  # the servers on it, in order; empty: neither coming nor going
        self._screen = screen
        self._recent: deque[Report] = deque()
        self._base: Mapping[str, int] = {}  # the calls before this phase began
        self._failed_before = 0  # by clients that have ended

    def phase(self, title: str, text: str, base: Mapping[str, int]) -> None:
        """Begin one. `base`: the client's calls so far, which are not this phase's."""
        self._base = base
        self._recent.clear()
        self._screen.phase(title, text)

    def client_ended(self, failed: int) -> None:
        self._failed_before += failed

    def show(self, report: Report) -> None:
        self._recent.append(report)
        while self._recent[0].at < report.at - WINDOW_S:
            self._recent.popleft()
        oldest = self._recent[0]
        recent = {name: count - oldest.calls.get(name, 0) for name, count in report.calls.items()}
        seconds = report.at - oldest.at
        shares = {name: recent.get(name, 0) / (total(recent) or 1) for name in self.states}
        rows = [
            Row(
                name=name,
                state=state or _load(shares[name], report.open.get(name, 0)),
                share=shares[name],
                calls=report.calls.get(name, 0) - self._base.get(name, 0),
                streams=report.open.get(name, 0),
            )
            for name, state in self.states.items()
        ]
        rate = total(recent) / seconds if seconds else 0.0
        self._screen.show(View(rows, rate, self._failed_before + report.failed))


def _load(share: float, streams: int) -> str:
    """The state of a server that neither comes nor goes."""
    if share > BUSY_SHARE:
        return "busy"
    return "" if share or streams else "idle"


def total(counts: Mapping[str, int]) -> int:
    return sum(counts.values())


def over(names: Iterable[str], counts: Mapping[str, int]) -> dict[str, int]:
    """The counts of all `names`, 0 where there is none, and of whoever else got any."""
    return {**dict.fromkeys(names, 0), **{name: count for name, count in counts.items() if count}}
