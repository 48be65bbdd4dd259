"""What is watched and what was last said about it: the part that all sources share. Pure."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from sidecar.balance.endpoints import Endpoint, ServicePort, Snapshot
from sidecar.discovery.slices import ServiceInfo, SliceInfo, endpoints_of
from sidecar.discovery.source import Resolution

_log: Final = logging.getLogger(__name__)


class Emitter:
    """Collects events and leaves out every Snapshot that says nothing new."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._events: list[Snapshot | Resolution] = []
        self._last: dict[ServicePort, tuple[bool, tuple[Endpoint, ...]]] = {}

    def snapshot(
        self, wanted: ServicePort, service: ServiceInfo | None, slices: Iterable[SliceInfo], now: float
    ) -> None:
        """Yield what these objects say of `wanted`, if it differs from what was said last."""
        exists = service is not None and service.port(wanted.port) is not None
        endpoints = endpoints_of(service, slices, wanted.port) if service is not None and exists else ()
        if self._last.get(wanted) != (exists, endpoints):
            self._last[wanted] = (exists, endpoints)
            self._events.append(Snapshot(wanted, endpoints, self._source, now, exists))

    def resolution(self, resolution: Resolution) -> None:
        self._events.append(resolution)

    def answered(self, wanted: ServicePort) -> bool:
        """Whether a Snapshot of it was yielded since it was last forgotten."""
        return wanted in self._last

    def size(self, wanted: ServicePort) -> int:
        """How many endpoints the last Snapshot had."""
        return len(self._last[wanted][1]) if wanted in self._last else 0

    def forget(self, wanted: ServicePort) -> None:
        self._last.pop(wanted, None)

    def take(self) -> list[Snapshot | Resolution]:
        events, self._events = self._events, []
        return events


class FaultLog:
    """One log line per distinct fault, however often it recurs, until `clear`."""

    # More distinct faults at a time than anybody reads; beyond it they are counted, not logged.
    MAX_REMEMBERED: Final = 64

    def __init__(self) -> None:
        self.last = ""
        self._seen: set[str] = set()

    def report(self, fault: str) -> None:
        self.last = fault
        if fault not in self._seen and len(self._seen) < self.MAX_REMEMBERED:
            self._seen.add(fault)
            _log.warning("%s", fault)

    def clear(self) -> None:
        """What was wrong is right again: the next fault is news."""
        self.last = ""
        self._seen.clear()


def summary(faults: Iterable[str]) -> str:
    """Many faults of one object as one line."""
    listed = list(faults)
    more = f" (and {len(listed) - 1} more like it)" if len(listed) > 1 else ""
    return listed[0] + more if listed else ""


def resolution_of(host: str, port: int, service: ServiceInfo | None) -> Resolution:
    """The answer for an address once it is known which Service has `host` (None: no Service)."""
    found = service.port(port) if service is not None else None
    if service is None or found is None:
        return Resolution(host, port, None)
    named = ServicePort(service.namespace, service.name, port)
    return Resolution(host, port, named, declared_grpc=found.declared_grpc)
