"""How both halves write their log: as text or JSON, one record a line, and never more than a disk can take.

`configure` sets the root logger up. `RateLimit` holds back what repeats: a fault that comes with every
stream is told a few times, then once in a while with the number left out.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, TextIO

# The same message this often in a row, then once in SAME_SECONDS. Enough to see that it repeats.
SAME_BURST: Final = 5
SAME_SECONDS: Final = 30.0
# All messages together: a start-up or a rollout says a few hundred things at once, and what is said steadily is
# at most 10 lines a second, about 150 MB a day before the kubelet's own rotation (10 MiB by default).
ALL_BURST: Final = 500
ALL_PER_SECOND: Final = 10.0
# Different messages told apart at a time; the one that was silent longest is forgotten for a new one.
MAX_MESSAGES: Final = 256
# Messages are told apart by their beginning: it keeps what is remembered small.
MAX_KEY: Final = 200

TEXT_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
FORMATS: Final = ("text", "json")

Clock = Callable[[], float]


class _Bucket:
    """A token bucket that counts what it held back."""

    __slots__ = ("held_back", "refilled_at", "tokens")

    def __init__(self, burst: float, now: float) -> None:
        self.tokens = burst
        self.refilled_at = now
        self.held_back = 0

    def take(self, burst: float, per_second: float, now: float) -> bool:
        self.tokens = min(burst, self.tokens + (now - self.refilled_at) * per_second)
        self.refilled_at = now
        if self.tokens < 1.0:
            self.held_back += 1
            return False
        self.tokens -= 1.0
        return True


class RateLimit(logging.Filter):
    """Lets a record through or counts it. Debug records always pass: whoever asks for them wants each one.

    `clock` gives seconds that only rise. A record that passes after others like it were held back says how
    many, in its attribute `left_out`, and in `all_left_out` how many of any kind.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._all = _Bucket(ALL_BURST, clock())
        self._same: dict[tuple[str, int, str], _Bucket] = {}  # the one used last stands last

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno <= logging.DEBUG:
            return True
        now = self._clock()
        key = (record.name, record.levelno, record.getMessage()[:MAX_KEY])
        same = self._same.pop(key, None) or _Bucket(SAME_BURST, now)
        if len(self._same) >= MAX_MESSAGES:
            del self._same[next(iter(self._same))]
        self._same[key] = same
        if not same.take(SAME_BURST, 1.0 / SAME_SECONDS, now):
            return False
        if not self._all.take(ALL_BURST, ALL_PER_SECOND, now):
            return False
        record.left_out, same.held_back = same.held_back, 0
        record.all_left_out, self._all.held_back = self._all.held_back, 0
        return True

    def overdue(self, *, closing: bool = False) -> list[logging.LogRecord]:
        """For messages that were held back and have not come again for SAME_SECONDS (or ever will, when
        `closing`): how often each was."""
        now = self._clock()
        found = []
        for (name, level, text), same in self._same.items():
            if same.held_back and (closing or now - same.refilled_at >= SAME_SECONDS):
                record = logging.LogRecord(name, level, "", 0, "%s", (text,), None)
                record.left_out, same.held_back = same.held_back, 0
                found.append(record)
        return found


class _Handler(logging.StreamHandler[TextIO]):
    """Tells with the next record, or at the end, what was held back before it."""

    def __init__(self, stream: TextIO, limit: RateLimit) -> None:
        super().__init__(stream)
        self._limit = limit
        self.addFilter(limit)

    def emit(self, record: logging.LogRecord) -> None:
        for late in self._limit.overdue():
            super().emit(late)
        super().emit(record)

    def close(self) -> None:
        for late in self._limit.overdue(closing=True):
            super().emit(late)
        super().close()


def _left_out(record: logging.LogRecord) -> str:
    same, others = getattr(record, "left_out", 0), getattr(record, "all_left_out", 0)
    parts = [f"{same} more like it"] if same else []
    parts += [f"{others} of other kinds"] if others else []
    return f" ({' and '.join(parts)} left out)" if parts else ""


class TextFormatter(logging.Formatter):
    """For people. A line break inside a message, which a peer may have sent, does not make a second record."""

    def __init__(self) -> None:
        super().__init__(TEXT_FORMAT)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        record.message = " ".join(record.message.splitlines()) + _left_out(record)
        return super().formatMessage(record)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (RFC 3339, UTC), level, logger, message; exception and left_out if any."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        for name in ("left_out", "all_left_out"):
            if getattr(record, name, 0):
                line[name] = getattr(record, name)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure(
    level: str, form: str, stream: TextIO | None = None, clock: Clock = time.monotonic
) -> logging.Handler:
    """Log from `level` (debug, info, warning, error) up, as `form` (text, json), to `stream`, by default
    standard error. Replaces whatever handlers the root logger had."""
    handler = _Handler(stream if stream is not None else sys.stderr, RateLimit(clock))
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    return handler
