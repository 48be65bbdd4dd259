"""What the engine and the sockets hold, as the admin port's status model."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from typing import Final, Literal

from contract import names
from contract.values import Address
from sidecar.admin.model import (
    ENDPOINT_STATES,
    Build,
    Connections,
    Count,
    Endpoint,
    EndpointState,
    Engine,
    Histogram,
    Passthrough,
    Readiness,
    Service,
    State,
    Status,
)
from sidecar.discovery.source import Source
from sidecar.net.capture import Capture
from sidecar.splice import engine as engine_module
from sidecar.splice.backend import Backend
from sidecar.splice.engine import Engine as SpliceEngine
from sidecar.splice.service import Service as SpliceService
from sidecar.splice.stats import LATENCY_BUCKETS, StreamStats
from sidecar.wire.frames import error_name

# With the API server out of reach the pod must start all the same. 0.5 s of this are discovery's (ladder.py): by
# then it has fallen back as far as it can, and captured connections go where they were going without us.
SYNC_PATIENCE: Final = 0.6


def build_kind() -> Literal["compiled", "interpreted"]:
    """Which of the two runs, found out from what was really loaded."""
    return "interpreted" if engine_module.__file__.endswith(".py") else "compiled"


class View:
    """Reads; changes nothing."""

    def __init__(self, engine: SpliceEngine, source: Source, capture: Capture | None, now: float) -> None:
        self._engine = engine
        self._source = source
        self._capture = capture
        self._started = now
        self._started_at = datetime.now(UTC).isoformat(timespec="seconds")
        self._was_ready = False
        self._version = names.VERSION

    def readiness(self, now: float) -> Readiness:
        """Ready once, it stays ready until it drains: an API server that goes away takes nobody's readiness."""
        if self._engine.draining:
            return Readiness(False, "draining")
        if self._was_ready or self._source.synced():
            self._was_ready = True
            return Readiness(True, "ready")
        if now - self._started >= SYNC_PATIENCE:
            return Readiness(
                True, "ready; endpoints are not known yet, connections go where they were meant to"
            )
        return Readiness(False, "waiting for the first snapshots")

    def status(self, now: float) -> Status:
        readiness = self.readiness(now)
        state: State = "draining" if self._engine.draining else "ready" if readiness.ready else "starting"
        return Status(
            build=self._build(now),
            state=state,
            reason=readiness.reason,
            source=self._source.status(now),
            services=[self._service(service, now) for service in self._engine.services.values()],
            connections=self._connections(),
            engine=self._engine_status(),
        )

    def _build(self, now: float) -> Build:
        return Build(
            version=self._version,
            build=build_kind(),
            python=platform.python_version(),
            pid=os.getpid(),
            host=platform.node(),
            started_at=self._started_at,
            uptime_seconds=round(now - self._started, 3),
        )

    def _connections(self) -> Connections:
        engine = self._engine
        grpc = Count(open=len(engine.downstreams), total=int(engine.totals.downstreams_accepted))
        kinds = {"grpc": grpc}
        reasons: dict[str, int] = {}
        capture = self._capture
        if capture is not None:
            reasons = dict(capture.passed_through)
            kinds["passthrough"] = Count(open=capture.passing, total=sum(reasons.values()))
            undecided = len(capture.open) - capture.passing
            kinds["undecided"] = Count(open=undecided, total=undecided)
        return Connections(
            open=sum(kind["open"] for kind in kinds.values()),
            total=sum(kind["total"] for kind in kinds.values()),
            kinds=kinds,
            passthrough_reasons=reasons,
            passthrough=_passthrough(capture) if capture is not None else [],
        )

    def _engine_status(self) -> Engine:
        engine = self._engine
        totals = engine.totals
        errors: dict[str, int] = {}
        for counts in (totals.downstream_errors, totals.upstream_errors):
            for code, count in counts.items():
                name = error_name(code)
                errors[name] = errors.get(name, 0) + count
        memo = engine.memo
        return Engine(
            protocol_errors=errors,
            memos={
                "block": {
                    "hits": int(memo.hits),
                    "misses": int(memo.shape_hits + memo.misses),
                    "entries": memo.blocks(),
                },
                "shape": {
                    "hits": int(memo.shape_hits),
                    "misses": int(memo.misses),
                    "entries": memo.shapes(),
                },
                "field": {
                    "hits": int(memo.field_hits),
                    "misses": int(memo.field_misses),
                    "entries": memo.fields(),
                },
            },
            held_bytes=engine.held(),
            internal_errors=dict(engine.errors.counts),
            last_internal_error=engine.errors.last,
            counters={
                "retried_streams": int(totals.retried),
                "upstreams_dialled": int(totals.upstreams_dialled),
                "upstreams_stalled": int(totals.stalled),
            },
        )

    def _service(self, service: SpliceService, now: float) -> Service:
        snapshot = service.snapshot
        stats = service.stats
        rung, age = self._source.standing(service.key, now)
        return Service(
            service=service.name,
            namespace=service.key.namespace,
            name=service.key.name,
            port=service.key.port,
            exists=snapshot is None or snapshot.exists,
            source=snapshot.source if snapshot is not None else "",
            snapshot_age_seconds=now - snapshot.taken_at if snapshot is not None else None,
            rung=rung,
            rung_age_seconds=age,
            queued_streams=service.queued(),
            streams_total=int(stats.started),
            grpc_status=stats.by_status,
            latency=_histogram(stats),
            endpoints=[_endpoint(b) for b in [*service.backends.values(), *service.retiring]],
        )


def _passthrough(capture: Capture) -> list[Passthrough]:
    found: list[Passthrough] = []
    for passed, count in reversed(capture.passed_to.items()):
        service = capture.service_of(passed.destination)
        found.append(
            Passthrough(
                destination=str(Address(*passed.destination)),
                service=str(service) if service is not None else "",
                reason=passed.reason,
                connections=count,
            )
        )
    return found


def _endpoint(backend: Backend) -> Endpoint:
    endpoint = backend.endpoint
    stats = backend.stats
    return Endpoint(
        address=endpoint.address,
        pod=endpoint.pod,
        zone=endpoint.zone,
        state=_STATES[backend.state()],
        connections=len(backend.upstreams),
        open_streams=int(backend.open_streams),
        streams_total=int(stats.started),
        failures_total=int(stats.failed),
        refused_total=int(stats.refused),
        connect_failures_total=int(backend.connect_failures),
        ejections_total=int(backend.record.ejections),
        last_error=backend.last_error,
        grpc_status=stats.by_status,
        latency=_histogram(stats),
    )


def _histogram(stats: StreamStats) -> Histogram:
    return Histogram(
        bounds=LATENCY_BUCKETS,
        buckets=stats.seconds_buckets,
        sum=round(stats.seconds_sum, 6),
        count=sum(stats.seconds_buckets),
    )


_STATES: Final[dict[str, EndpointState]] = {state: state for state in ENDPOINT_STATES}
