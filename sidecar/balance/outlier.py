"""Outlier ejection: which endpoint should rest for a while, and for how long. Pure: time is an argument.

After the concepts of gRFC A50: the ejection time grows with each ejection and shrinks again with calm, and no
more than a share of the endpoints rests at once. Unlike A50's algorithms, which compare endpoints over
intervals, it counts failures in a row, as Envoy's consecutive ejections do: a sidecar sees few calls, and
all endpoints of a few.
"""

from __future__ import annotations

from typing import Final, final

from mypy_extensions import i64

# A50's max_ejection_time.
MOST_SECONDS: Final = 300.0
# A50's interval: so much time in use takes one earlier ejection back.
CALM_SECONDS: Final = 10.0


@final
class Record:
    """What is remembered of one endpoint."""

    def __init__(self) -> None:
        self.in_a_row: i64 = 0  # failures since the last success
        self.ejections: i64 = 0  # ever
        self.ejected: bool = False
        self.until: float = 0.0  # when the ejection ends; or ended
        self._failed_at: float = -1.0
        self._level: i64 = 0  # ejections that still count towards the next one's length

    def succeeded(self) -> None:
        self.in_a_row = 0
        self._failed_at = -1.0

    def failed(self, now: float) -> None:
        """What fails at one moment is one failure: a lost connection takes all its streams along."""
        if now != self._failed_at:
            self._failed_at = now
            self.in_a_row += 1

    def eject(self, base: float, now: float) -> float:
        """From now on it rests. For how many seconds: `base` the first time, twice that the second, ..."""
        calm: i64 = int((now - self.until) / CALM_SECONDS) if self.ejections > 0 else 0
        self._level = self._level - calm + 1 if calm < self._level else 1
        most = base if base > MOST_SECONDS else MOST_SECONDS
        seconds = base * float(self._level)
        if seconds > most:
            seconds = most
        self.ejections += 1
        self.in_a_row = 0
        self.ejected = True
        self.until = now + seconds
        return seconds

    def back(self, now: float) -> None:
        """It is used again, at its time or before it."""
        self.ejected = False
        self.succeeded()
        if now < self.until:
            self.until = now


@final
class Ejection:
    """The rules. `failures` in a row eject; `seconds` is the first ejection's length; of the endpoints that could
    be used at most `share` percent rest at once."""

    def __init__(self, failures: int, seconds: float, share: int) -> None:
        self.failures: Final[i64] = failures
        self.seconds: Final = seconds
        self.share: Final[i64] = share

    def wanted(self, record: Record) -> bool:
        return not record.ejected and record.in_a_row >= self.failures

    def allowed(self, usable: i64, ejected: i64) -> bool:
        """Whether one more may rest. `usable`: endpoints that take calls now, this one included."""
        return (ejected + 1) * 100 <= self.share * (usable + ejected)
