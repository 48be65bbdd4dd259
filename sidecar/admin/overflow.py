"""What stands beyond the bounds of `metrics`, summed under one label value so that totals stay whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from sidecar.admin.model import GRPC_STATUS_NAMES, NO_STATUS, RUNGS, UNKNOWN, Endpoint, Histogram, Service

OTHER: Final = "other"


def distinct(endpoints: list[Endpoint]) -> list[Endpoint]:
    """One for each address. A pod that left and came back has two while its last streams end, but a time series
    may stand in a scrape only once: they are summed."""
    by_address: dict[str, Endpoint] = {}
    for e in endpoints:
        known = by_address.get(e["address"])
        if known is None:
            by_address[e["address"]] = e
            continue
        both = Overflow().endpoints([known, e])
        both["address"], both["pod"], both["zone"] = known["address"], known["pod"], known["zone"]
        by_address[e["address"]] = both
    return list(by_address.values())


class Overflow:
    """Sums of endpoints and Services whose totals never fall, though the set they are summed over changes:
    Prometheus reads a fall as a restart from 0 and would count everything again."""

    def __init__(self) -> None:
        self._totals: dict[
            str, tuple[float, float]
        ] = {}  # by figure: the last sum, and what was shown for it

    def endpoints(self, endpoints: list[Endpoint]) -> Endpoint:
        def total(key: str, value: Callable[[Endpoint], float]) -> int:
            return int(self._grown(f"endpoint.{key}", sum(map(value, endpoints))))

        return {
            "address": OTHER,
            "pod": "",
            "zone": "",
            "state": "idle",
            "connections": sum(e["connections"] for e in endpoints),
            "open_streams": sum(e["open_streams"] for e in endpoints),
            "streams_total": total("streams", lambda e: e["streams_total"]),
            "failures_total": total("failures", lambda e: e["failures_total"]),
            "refused_total": total("refused", lambda e: e["refused_total"]),
            "connect_failures_total": total("connect", lambda e: e["connect_failures_total"]),
            "ejections_total": total("ejections", lambda e: e["ejections_total"]),
            "last_error": "",
            "grpc_status": self._status("endpoint", (e["grpc_status"] for e in endpoints)),
            "latency": self._latency("endpoint", [e["latency"] for e in endpoints]),
        }

    def services(self, services: list[Service]) -> Service:
        ages = [age for s in services if (age := s["snapshot_age_seconds"]) is not None]
        known = [age for s in services if (age := s["rung_age_seconds"]) is not None]
        return {
            "service": OTHER,
            "namespace": "",
            "name": OTHER,
            "port": 0,
            "exists": all(s["exists"] for s in services),
            "source": "",
            "snapshot_age_seconds": max(ages, default=None),
            "rung": max((s["rung"] for s in services), key=RUNGS.index, default=RUNGS[-1]),
            "rung_age_seconds": max(known, default=None),
            "queued_streams": sum(s["queued_streams"] for s in services),
            "streams_total": int(self._grown("service.streams", sum(s["streams_total"] for s in services))),
            "grpc_status": self._status("service", (s["grpc_status"] for s in services)),
            "latency": self._latency("service", [s["latency"] for s in services]),
            "endpoints": [e for s in services for e in s["endpoints"]],
        }

    def _status(self, key: str, counts: Iterable[Mapping[int, int]]) -> dict[int, int]:
        merged = dict.fromkeys((NO_STATUS, *range(len(GRPC_STATUS_NAMES))), 0)
        for each in counts:
            for code, count in each.items():
                merged[code if code in merged else UNKNOWN] += count
        grown = {code: int(self._grown(f"{key}.status.{code}", count)) for code, count in merged.items()}
        return {code: count for code, count in grown.items() if count}

    def _latency(self, key: str, histograms: list[Histogram]) -> Histogram:
        """Raises ValueError if they have different numbers of buckets."""
        columns = zip(*(h["buckets"] for h in histograms), strict=True)
        buckets = [int(self._grown(f"{key}.le.{i}", sum(column))) for i, column in enumerate(columns)]
        return {
            "bounds": histograms[0]["bounds"],
            "buckets": buckets,
            "sum": self._grown(f"{key}.sum", sum(h["sum"] for h in histograms)),
            "count": sum(buckets),
        }

    def _grown(self, key: str, total: float) -> float:
        last, shown = self._totals.get(key, (0.0, 0.0))
        shown += max(0.0, total - last)
        self._totals[key] = (total, shown)
        return shown
