"""An engine to be reported on, and the two ends of an admin connection, both without sockets."""

from __future__ import annotations

import math
from typing import Any, cast

from sidecar.admin.connection import AdminConnection
from sidecar.admin.model import (
    Endpoint,
    EndpointState,
    Histogram,
    Readiness,
    Service,
    Status,
)
from sidecar.admin.server import AdminServer

# Some bounds; the engine has its own.
LATENCY_BOUNDS = (
    *(0.0001, 0.0003, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 100.0),
)


def empty_histogram() -> Histogram:
    return {"bounds": LATENCY_BOUNDS, "buckets": [0] * (len(LATENCY_BOUNDS) + 1), "sum": 0.0, "count": 0}


def observe(histogram: Histogram, seconds: float, times: int = 1) -> None:
    index = next((i for i, bound in enumerate(LATENCY_BOUNDS) if seconds <= bound), len(LATENCY_BOUNDS))
    histogram["buckets"][index] += times
    histogram["sum"] += seconds * times
    histogram["count"] += times


def endpoint(number: int, state: EndpointState = "ready") -> Endpoint:
    return {
        "address": f"10.244.{number // 250}.{number % 250 + 1}:50051",
        "pod": f"greeter-7d9c6b5f4-{number:05d}",
        "zone": f"zone-{'abc'[number % 3]}",
        "state": state,
        "connections": 1,
        "open_streams": 0,
        "streams_total": 0,
        "failures_total": 0,
        "refused_total": 0,
        "connect_failures_total": 0,
        "ejections_total": 0,
        "last_error": "",
        "grpc_status": {},
        "latency": empty_histogram(),
    }


def service(name: str = "greeter", endpoints: int = 3) -> Service:
    return {
        "service": f"{name}.default:50051",
        "namespace": "default",
        "name": name,
        "port": 50051,
        "exists": True,
        "source": "kubernetes",
        "snapshot_age_seconds": 12.5,
        "rung": "live",
        "rung_age_seconds": 3.5,
        "queued_streams": 0,
        "streams_total": 0,
        "grpc_status": {},
        "latency": empty_histogram(),
        "endpoints": [endpoint(number) for number in range(endpoints)],
    }


def change(endpoint: Endpoint, **figures: Any) -> None:
    assert figures.keys() <= endpoint.keys()
    cast(dict[str, Any], endpoint).update(figures)


def call(service: Service, index: int, code: int = 0, seconds: float = 0.0025, times: int = 1) -> None:
    """Calls that ended at one endpoint, counted as the engine counts them."""
    at = service["endpoints"][index]
    for counted in (service, at):
        counted["streams_total"] += times
        counted["grpc_status"][code] = counted["grpc_status"].get(code, 0) + times
        observe(counted["latency"], seconds, times)


class FakeView:
    """Reports what it holds; the tests change that."""

    def __init__(self) -> None:
        self.ready = Readiness(True, "ready")
        self.services: list[Service] = []
        self.asked = 0
        self.fault: Exception | None = None
        self.held: Status = {
            "build": {
                "version": "0.1.0",
                "build": "compiled",
                "python": "3.11.7",
                "pid": 7,
                "host": "web-5c9f7d8b6-x2x8p",
                "started_at": "2026-11-23T12:00:00Z",
                "uptime_seconds": 93.5,
            },
            "state": "ready",
            "reason": "ready",
            "source": {
                "kind": "kubernetes",
                "state": "watching",
                "age_seconds": 1.25,
                "last_error": "",
                "counters": {"lists": 2, "events": 40},
            },
            "services": self.services,
            "connections": {"open": 0, "total": 0, "kinds": {}, "passthrough_reasons": {}, "passthrough": []},
            "engine": {
                "protocol_errors": {},
                "memos": {"block": {"hits": 900, "misses": 100, "entries": 3}},
                "held_bytes": 4096,
                "internal_errors": {},
                "last_internal_error": "",
            },
        }

    def readiness(self, now: float) -> Readiness:
        return self.ready

    def status(self, now: float) -> Status:
        self.asked += 1
        if self.fault is not None:
            raise self.fault
        return self.held


class Wire:
    """The transport. Takes everything at once unless told to stall."""

    def __init__(self) -> None:
        self.sent = b""
        self.closed = False
        self.stalled = False

    def write(self, data: bytes) -> None:
        assert not self.closed, f"written after close: {data!r}"
        self.sent += data

    def unsent(self) -> int:
        return len(self.sent) if self.stalled else 0

    def close(self) -> None:
        assert not self.closed, "closed twice"
        self.closed = True


class Port:
    """An AdminServer with a clock that the test winds."""

    def __init__(self, view: FakeView, *, drain: bool = True) -> None:
        self.now = 1000.0
        self.drained = 0
        self.logged: list[str] = []
        self.server = AdminServer(view, on_drain=self._drain if drain else None, log=self.logged.append)

    def _drain(self) -> None:
        self.drained += 1

    def connect(self, host: str = "127.0.0.1") -> Peer:
        wire = Wire()
        return Peer(self, self.server.accept(wire, host, self.now), wire)

    def wait(self, seconds: float) -> None:
        """Let time pass as the loop does: a tick at every deadline on the way, and one at the end."""
        end = self.now + seconds
        for _ in range(100_000):
            deadline = self.server.deadline()
            if deadline > end:
                break
            self.now = max(self.now, deadline)
            self.server.tick(self.now)
        else:
            raise AssertionError(f"tick at {self.now} does not move the deadline {self.server.deadline()}")
        self.now = end
        self.server.tick(self.now)


class Peer:
    """Whoever connected."""

    def __init__(self, port: Port, connection: AdminConnection, wire: Wire) -> None:
        self.port = port
        self.connection = connection
        self.wire = wire

    @property
    def closed(self) -> bool:
        return self.wire.closed

    def send(self, data: bytes) -> None:
        self.connection.received(data, self.port.now)

    def taken(self) -> bytes:
        sent, self.wire.sent = self.wire.sent, b""
        return sent

    def asks(self, request: str, *, wait: float = 0.0) -> bytes:
        """Send a request written with plain line ends, and take what is answered within `wait` seconds."""
        self.send(request.replace("\n", "\r\n").encode())
        if wait:
            self.port.wait(wait)
        return self.taken()

    def gets(self, path: str, *lines: str) -> tuple[int, dict[str, str], bytes]:
        head = "\n".join([f"GET {path} HTTP/1.1", "Host: 127.0.0.1:15020", *lines])
        return parsed(self.asks(head + "\n\n", wait=0.05))


def parsed(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    """(status, header fields by lower-case name, body) of exactly one answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    assert len(body) == int(fields.get("content-length", math.nan)), "the body is as long as announced"
    return int(first.split()[1]), fields, body
