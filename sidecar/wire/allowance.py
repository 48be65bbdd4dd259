"""What a peer may do that serves nobody, until it is cut off: frames that move nothing, and those that are dear here.

Frames of use in either direction earn the first kind back, so that only a peer that does little else runs out.
"""

from __future__ import annotations

from typing import Final, final

from mypy_extensions import i64

from sidecar.wire import frames
from sidecar.wire.budget import Budget
from sidecar.wire.faults import ConnectionFault

# Frames that move nothing (PING, SETTINGS, PRIORITY, empty DATA, WINDOW_UPDATE, unknown types). Frames of use
# in either direction earn them back, so only a peer that does little else ever runs out.
NUISANCE_BUDGET: Final[i64] = 1000
NUISANCE_PER_SECOND: Final = 100.0
# What may be earned ahead: four frames for each of 5,000 streams, for some servers open the window of every stream
# that is sent to them, and a burst of requests is answered by a burst of that.
NUISANCE_MOST: Final[i64] = 20_000
# SETTINGS and GOAWAY are looked at with every open stream, so nothing earns them. A peer that measures its bandwidth
# changes its window a dozen times.
SETTINGS_BUDGET: Final[i64] = 100
SETTINGS_PER_SECOND: Final = 10.0
# WINDOW_UPDATEs of this much or more, for octets we did send, are no nuisance: receivers give back what they
# read in steps of 1 KiB and up.
SMALL_CREDIT: Final[i64] = 1024
# For one frame of use a peer may answer with credit for the stream and for the connection, and probe with a PING.
EARNED_PER_FRAME: Final = 4.0


@final
class Allowance:
    def __init__(self) -> None:
        self._nuisance = Budget(NUISANCE_BUDGET, NUISANCE_PER_SECOND, NUISANCE_MOST)
        self._settings = Budget(SETTINGS_BUDGET, SETTINGS_PER_SECOND)
        self._credit_due: i64 = 0  # what honest WINDOW_UPDATEs may give back

    def earn(self) -> None:
        """A frame of use has come or gone."""
        self._nuisance.earn(EARNED_PER_FRAME)

    def sent_data(self, size: i64) -> None:
        self._credit_due += 2 * size  # once for the stream, once for the connection
        self._nuisance.earn(EARNED_PER_FRAME)

    def credit_received(self, increment: i64, now: float) -> None:
        """Raises ConnectionFault, as the next two do: it has been too many."""
        if SMALL_CREDIT <= increment <= self._credit_due:
            self._credit_due -= increment
        else:
            self.nuisance("WINDOW_UPDATE", now)

    def nuisance(self, what: str, now: float) -> None:
        """A frame that moves nothing."""
        if not self._nuisance.spend(now):
            raise ConnectionFault(
                frames.ENHANCE_YOUR_CALM, "too many frames that move nothing, last: " + what
            )

    def settings(self, what: str, now: float) -> None:
        """A frame that is looked at with every open stream."""
        if not self._settings.spend(now):
            raise ConnectionFault(frames.ENHANCE_YOUR_CALM, "too many " + what)
