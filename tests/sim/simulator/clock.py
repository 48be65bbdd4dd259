"""Virtual time: what is to happen, in the order in which it will."""

from __future__ import annotations

import heapq
from collections.abc import Callable

START = 1000.0
# A run of a minute makes some ten thousand events; a hundred times as many is a loop.
MAX_EVENTS = 1_000_000


class Violation(Exception):  # noqa: N818 - it is the simulator's finding, not its failure
    """An invariant does not hold. `rule` names it; the rest tells how."""

    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(f"{rule}: {detail}")
        self.rule = rule
        self.detail = detail


class Clock:
    """Events at equal times happen in the order in which they were asked for."""

    def __init__(self) -> None:
        self.now = START
        self.events = 0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._asked = 0

    def at(self, when: float, act: Callable[[], None]) -> None:
        self._asked += 1
        heapq.heappush(self._due, (when if when > self.now else self.now, self._asked, act))

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        self.at(self.now + seconds, act)

    def run(self, until: float) -> None:
        due = self._due
        while due and due[0][0] <= until:
            self.now, _, act = heapq.heappop(due)
            self.events += 1
            if self.events > MAX_EVENTS:
                raise Violation("rest", f"{MAX_EVENTS} events and no end")
            act()
        self.now = until
