"""Counters that people see. Plain numbers; the admin layer gives them names."""

from __future__ import annotations

from typing import Final, final

from mypy_extensions import i64

# Seconds: from a loopback echo to a long-lived stream, at the density of Prometheus' own defaults.
LATENCY_BUCKETS: Final = (
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 300.0,
)  # fmt: skip


@final
class StreamStats:
    """Finished streams of one endpoint."""

    def __init__(self) -> None:
        self.started: i64 = 0
        self.failed: i64 = 0  # ended by a lost connection or a broken rule
        self.refused: i64 = 0  # sent elsewhere
        self.cancelled: i64 = 0  # by the client
        self.by_status: dict[int, int] = {}  # grpc-status; -1: none was seen
        self.seconds_sum: float = 0.0
        self.seconds_buckets: list[int] = [0] * (len(LATENCY_BUCKETS) + 1)

    def finished(self, status: i64, seconds: float) -> None:
        self.by_status[status] = self.by_status.get(status, 0) + 1
        self.seconds_sum += seconds
        at = 0
        for bound in LATENCY_BUCKETS:
            if seconds <= bound:
                break
            at += 1
        self.seconds_buckets[at] += 1


@final
class Totals:
    """Of the whole engine."""

    def __init__(self) -> None:
        self.downstreams_accepted: i64 = 0
        self.upstreams_dialled: i64 = 0
        self.answered_here: dict[int, int] = {}  # gRPC status -> streams answered without a backend
        self.retried: i64 = 0
        self.downstream_errors: dict[int, int] = {}  # HTTP/2 error code -> connections ended for it
        self.upstream_errors: dict[int, int] = {}
