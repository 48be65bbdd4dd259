"""What all parts of one engine share: the time of this turn, timers, and what the shell is to do after it."""

from __future__ import annotations

import heapq
import random
from typing import TYPE_CHECKING, Final, final

from mypy_extensions import i64

from sidecar.balance.outlier import Ejection
from sidecar.splice.internal import InternalErrors
from sidecar.splice.stats import Totals
from sidecar.wire.memo import BlockMemo

if TYPE_CHECKING:
    from sidecar.splice.downstream import Downstream
    from sidecar.splice.peer import Peer
    from sidecar.splice.stream import Stream
    from sidecar.splice.upstream import Upstream

# When nothing is due.
NEVER: Final = float("inf")
# What all peers together may make us keep. The sum, with 25 MB for the program and 17 MB for 10,000 connections, stays
# below the 192 MiB that a pod's sidecar is given by default.
#
# Streams at once, at about 0.9 KB each.
MAX_STREAMS_IN_ALL: Final[i64] = 30_000
# DATA that one side has sent and the other does not take, and output that sockets do not take.
MAX_HELD_IN_ALL: Final[i64] = 67_108_864
# Request header blocks of streams that are not answered yet: they may have to be sent again.
MAX_BLOCKS_IN_ALL: Final[i64] = 16_777_216
# Copies of request bodies that may have to be sent again.
MAX_REPLAY_IN_ALL: Final[i64] = 16_777_216
# Header blocks that have begun and not ended. Real ones end a moment later, and those over a frame's length are rare.
MAX_BLOCKS_UNDER_WAY: Final[i64] = 3_145_728


class Timer:
    """Something to be done later. `cancelled` timers are dropped when they come up."""

    def __init__(self) -> None:
        self.cancelled: bool = False

    def fire(self) -> None:
        raise NotImplementedError

    # What an exception in `fire` ends; a bug of ours, all of it.

    def peer(self) -> Peer | None:
        """The connection it is about."""
        return None

    def stream(self) -> Stream | None:
        """The stream it is about."""
        return None

    def needed(self) -> bool:
        """Whether something stands still for good unless it is fired again."""
        return False


@final
class Context:
    def __init__(self, seed: int) -> None:
        self.now: float = 0.0  # seconds, the caller's clock
        self.random: Final = random.Random(seed)  # noqa: S311 - spreads load, guards nothing
        self.memo: Final = BlockMemo()
        self.totals: Final = Totals()
        self.errors: Final = InternalErrors()
        self.ejection: Ejection | None = None  # the rules; None: no endpoint is ejected
        self.touched: list[Peer] = []  # to be flushed at the end of the turn
        self.dials: list[Upstream] = []  # to be connected
        self.flush_wanted: bool = False  # some output is so large that the turn should not wait with it
        # Clients that have not said SETTINGS yet, oldest first, and when each is given up.
        self.handshakes: dict[Downstream, float] = {}
        # Counted over all connections; each has its bound above.
        self.streams: i64 = 0
        self.held: i64 = 0
        self.lent: i64 = 0
        self.blocks_held: i64 = 0
        self.replay_held: i64 = 0
        self.blocks_under_way: i64 = 0
        self._timers: list[tuple[float, int, Timer]] = []
        self._timer_count: i64 = 0
        self._first: Timer | None = None  # of the timers
        self._first_at: float = NEVER

    def after(self, seconds: float, timer: Timer) -> None:
        """Have `timer` fired so much later than now."""
        self._timer_count += 1
        heapq.heappush(self._timers, (self.now + seconds, int(self._timer_count), timer))
        self._find_first()

    def deadline(self) -> float:
        """When the next timer is due; infinity if there is none."""
        while self._first is not None and self._first.cancelled:
            heapq.heappop(self._timers)
            self._find_first()
        return self._first_at

    def next_due(self) -> Timer | None:
        """The next timer to be fired now, taken off the list."""
        while self._first is not None and self._first_at <= self.now:
            timer = self._first
            heapq.heappop(self._timers)
            self._find_first()
            if not timer.cancelled:
                return timer
        return None

    def _find_first(self) -> None:
        # Kept apart from the list because every turn asks, and because to ask is dear: tuples, boxed floats.
        if self._timers:
            self._first_at, _, self._first = self._timers[0]
        else:
            self._first_at = NEVER
            self._first = None
