"""Counters that people see. Plain numbers; the admin layer gives them names."""

from __future__ import annotations

from typing import Final, final

from mypy_extensions import i64

# Seconds: from a loopback echo to a long-lived stream, at the density of Prometheus' own defaults.
LATENCY_BUCKETS: Final = (
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 300.0,
)  # fmt: skip


def latency_bucket(seconds: float) -> i64:
    """Which of LATENCY_BUCKETS (the first that holds it; their number if none does).

    Written out, since a loop over a tuple of floats costs more than the rest of ending a stream.
    """
    if seconds <= 0.002:
        return 0 if seconds <= 0.0005 else 1 if seconds <= 0.001 else 2
    if seconds <= 0.025:
        return 3 if seconds <= 0.005 else 4 if seconds <= 0.01 else 5
    if seconds <= 0.25:
        return 6 if seconds <= 0.05 else 7 if seconds <= 0.1 else 8
    if seconds <= 2.5:
        return 9 if seconds <= 0.5 else 10 if seconds <= 1.0 else 11
    if seconds <= 60.0:
        return 12 if seconds <= 5.0 else 13 if seconds <= 10.0 else 14
    return 15 if seconds <= 300.0 else 16


@final
class StreamStats:
    """Finished streams of one endpoint, or of one Service port."""

    def __init__(self) -> None:
        self.started: i64 = 0
        self.failed: i64 = 0  # ended by a lost connection or a broken rule
        self.refused: i64 = 0  # sent elsewhere
        self.seconds_sum: float = 0.0
        self._buckets: list[int] = [0] * (len(LATENCY_BUCKETS) + 1)
        # Streams of one bucket in a row are counted here first: a list's integers are boxed.
        self._bucket: i64 = 0
        self._in_bucket: i64 = 0
        self._ok: i64 = 0  # nearly all: counted without a dict
        self._others: dict[int, int] = {}

    def finished(self, status: i64, seconds: float) -> None:
        """`status`: its grpc-status, -1 if none was seen. `seconds`: from its first frame to its last."""
        self.seconds_sum += seconds
        bucket = latency_bucket(seconds)
        if bucket != self._bucket:
            self._buckets[self._bucket] += int(self._in_bucket)
            self._bucket = bucket
            self._in_bucket = 0
        self._in_bucket += 1
        if status == 0:
            self._ok += 1
        else:
            self._others[status] = self._others.get(status, 0) + 1

    @property
    def seconds_buckets(self) -> list[int]:
        """Finished streams by latency: one more than LATENCY_BUCKETS, not cumulative."""
        found = list(self._buckets)
        found[self._bucket] += int(self._in_bucket)
        return found

    @property
    def by_status(self) -> dict[int, int]:
        """Finished streams by grpc-status; -1: none was seen."""
        return {0: int(self._ok), **self._others} if self._ok else dict(self._others)


@final
class Totals:
    """Of the whole engine."""

    def __init__(self) -> None:
        self.downstreams_accepted: i64 = 0
        self.upstreams_dialled: i64 = 0
        self.answered_here: dict[int, int] = {}  # gRPC status -> streams answered without a backend
        self.retried: i64 = 0
        self.stalled: i64 = 0  # connections to backends that were found to be so, each time
        self.downstream_errors: dict[int, int] = {}  # HTTP/2 error code -> connections ended for it
        self.upstream_errors: dict[int, int] = {}
