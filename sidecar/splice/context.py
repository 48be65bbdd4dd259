"""What all parts of one engine share: the time of this turn, timers, and what the shell is to do after it."""

from __future__ import annotations

import heapq
import random
from typing import TYPE_CHECKING, Final, final

from mypy_extensions import i64

from sidecar.splice.stats import Totals
from sidecar.wire.blocks import BlockMemo

if TYPE_CHECKING:
    from sidecar.splice.peer import Peer
    from sidecar.splice.upstream import Upstream


class Timer:
    """Something to be done later. `cancelled` timers are dropped when they come up."""

    def __init__(self) -> None:
        self.cancelled: bool = False

    def fire(self) -> None:
        raise NotImplementedError


@final
class Context:
    def __init__(self, seed: int) -> None:
        self.now: float = 0.0
        self.random: Final = random.Random(seed)  # noqa: S311 - spreads load, guards nothing
        self.memo: Final = BlockMemo()
        self.totals: Final = Totals()
        self.touched: list[Peer] = []  # to be flushed at the end of the turn
        self.dials: list[Upstream] = []  # to be connected
        self._timers: list[tuple[float, int, Timer]] = []
        self._timer_count: i64 = 0

    def after(self, seconds: float, timer: Timer) -> None:
        self._timer_count += 1
        heapq.heappush(self._timers, (self.now + seconds, int(self._timer_count), timer))

    def deadline(self) -> float:
        """When the next timer is due; infinity if there is none."""
        while self._timers and self._timers[0][2].cancelled:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else float("inf")

    def fire_due(self) -> None:
        while self._timers and self._timers[0][0] <= self.now:
            timer = heapq.heappop(self._timers)[2]
            if not timer.cancelled:
                timer.fire()
