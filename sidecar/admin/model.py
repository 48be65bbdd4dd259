"""What the admin port tells, as `__main__` fills it from the engine. JSON-ready: /status is this as it is.

Plain dicts with checked keys, so that a field added here is a field of /status with no further code. Names
are part of the public interface: add, do not rename. Times are seconds, sizes bytes. A figure named `*_total`
only grows while the process lives; that of an endpoint starts again when the endpoint leaves and returns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, NotRequired, Protocol, TypedDict

State = Literal["starting", "ready", "draining"]
EndpointState = Literal["idle", "connecting", "ready", "draining", "backoff", "ejected"]
ENDPOINT_STATES: Final[tuple[EndpointState, ...]] = (
    "idle",
    "connecting",
    "ready",
    "draining",
    "backoff",
    "ejected",
)

# grpc/grpc doc/statuscodes.md. A number outside it counts as UNKNOWN, as it does for a gRPC client.
GRPC_STATUS_NAMES: Final = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND"),
    *("ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED"),
    *("OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)
UNKNOWN: Final = 2
NO_STATUS: Final = -1  # the stream ended without one: cancelled, reset, connection lost


# Where the endpoints in use come from, best first (docs/adr/0005); the source's word for it.
RUNGS: Final = ("live", "memory", "disk", "dns", "original", "none")


class Readiness(NamedTuple):
    """Whether the pod may count on the sidecar, and one line that says why (not)."""

    ready: bool
    reason: str


class Build(TypedDict):
    version: str
    build: Literal["compiled", "interpreted"]
    python: str  # "3.11.7"
    pid: int
    host: str  # the pod's name, where Kubernetes runs it
    started_at: str  # RFC 3339, UTC
    uptime_seconds: float


class Histogram(TypedDict):
    """Durations of finished streams. `buckets[i]` counts those <= bounds[i] and above the bound before (not
    cumulative); the one more bucket at the end is for the rest. len(buckets) == len(bounds) + 1."""

    bounds: list[float] | tuple[float, ...]  # seconds, rising; the engine's, the same for all
    buckets: list[int]
    sum: float  # seconds
    count: int


class Endpoint(TypedDict):
    address: str  # "10.0.0.7:50051" or "[fd00::7]:50051"
    pod: str  # empty if unknown
    zone: str
    state: EndpointState
    connections: int  # open to it now
    open_streams: int
    streams_total: int  # given to it, retries included
    failures_total: int  # streams that ended by the transport: reset or connection lost
    refused_total: int  # streams it did not take: REFUSED_STREAM, or above GOAWAY's last stream id
    connect_failures_total: int
    ejections_total: int  # times it was to rest because its calls kept failing
    last_error: str  # one line, empty if none
    grpc_status: dict[int, int]  # finished streams by grpc-status code, or NO_STATUS
    latency: Histogram


class Service(TypedDict):
    """One Service port. Its totals are its own, not its endpoints' sum: they do not fall when one leaves."""

    service: str  # "greeter.default:50051"
    namespace: str
    name: str
    port: int
    exists: bool  # False: the source knows of no such Service or port
    source: str
    snapshot_age_seconds: float | None  # None: no snapshot yet
    rung: str  # one of RUNGS
    rung_age_seconds: float | None  # since it was last known to be so; None where nobody can vouch for it
    queued_streams: int  # waiting for an endpoint now
    streams_total: int
    grpc_status: dict[int, int]  # as the application saw it: answers made by the sidecar included
    latency: Histogram
    endpoints: list[Endpoint]


class Count(TypedDict):
    open: int
    total: int


class Passthrough(TypedDict):
    """Connections to one destination that were passed through as they came, for one reason."""

    destination: str  # "10.96.0.7:443"
    service: str  # "payments.shop:443"; empty if it is none's, or not known
    reason: str
    connections: int  # so far


class Connections(TypedDict):
    """From the application to the sidecar."""

    open: int
    total: int
    kinds: dict[str, Count]  # "grpc", "passthrough", "undecided"
    passthrough_reasons: dict[str, int]  # connections ever passed through: tls, http1, not_http2, ...
    passthrough: list[Passthrough]  # the destinations of late, the latest first


class Memo(TypedDict):
    """A bounded memory of header blocks or fields already understood."""

    hits: int
    misses: int
    entries: int


class Engine(TypedDict):
    protocol_errors: dict[str, int]  # peers' faults by HTTP/2 error code name: "PROTOCOL_ERROR", ...
    memos: dict[str, Memo]  # "block", "shape", "field"
    held_bytes: int  # taken from one side and not yet written to the other
    internal_errors: dict[str, int]  # exceptions, all of them bugs of the sidecar, by what was being done
    last_internal_error: str  # one line, empty if there was none; the log has tracebacks
    counters: NotRequired[dict[str, int]]  # anything else that only grows: evenstream_engine_<name>_total
    gauges: NotRequired[dict[str, float]]  # anything else: evenstream_engine_<name>


class Status(TypedDict):
    build: Build
    state: State
    reason: str  # one line: why the state is what it is
    source: Mapping[str, Any]  # Source.status()
    services: list[Service]
    connections: Connections
    engine: Engine


class StatusView(Protocol):
    """What the admin port asks for; called inside the request, on the loop, so it only reads."""

    def readiness(self, now: float) -> Readiness:
        """For /readyz, every few seconds for ever: cheap."""

    def status(self, now: float) -> Status:
        """For /status and /metrics. A new value each time, or one nobody changes while it is rendered."""
