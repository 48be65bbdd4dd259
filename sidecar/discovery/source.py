"""The shape of a source, and what it needs from whoever runs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from sidecar.balance.endpoints import ServicePort, Snapshot

if TYPE_CHECKING:
    import ssl

# The ladder: where the endpoints in use come from, best first (docs/adr/0005).
LIVE: Final = "live"  # a watch that is up
MEMORY: Final = "memory"  # what the source last said; it is out of touch
DISK: Final = "disk"  # what a sidecar before this one left in the pod's state volume
DNS: Final = "dns"  # the addresses the Service's name has
ORIGINAL: Final = "original"  # the address the application itself wanted: the cluster IP
NONE: Final = "none"  # nothing is known yet
RUNGS: Final = (LIVE, MEMORY, DISK, DNS, ORIGINAL, NONE)


class NoSourceError(ValueError):
    """The environment does not say how to reach the source; one clear line."""


class Standing(NamedTuple):
    """On which rung the endpoints of a Service port stand, and how long ago it was last known to be so."""

    rung: str  # one of RUNGS
    age: float | None  # seconds; None where the rung has none: ORIGINAL and NONE


class Resolution(NamedTuple):
    """The answer to `Source.resolve`: which Service port stands behind an address, if any."""

    host: str
    port: int
    service: ServicePort | None  # None: no Service has this address and port
    declared_grpc: bool = False  # appProtocol kubernetes.io/h2c or grpc, or a port named grpc or grpc-*
    failed: bool = False  # True: could not be found out (service is None); may be asked again


class Source(Protocol):
    """Endpoints from one place. Sans-IO but for what it is handed: the caller passes the time in, calls
    `tick` no later than `deadline`, and takes the events after every call into the source (and after
    every call into a Handler the source gave to a Dial)."""

    def watch(self, service: ServicePort, now: float) -> None:
        """From now on yield a Snapshot of this port at once and at each change. Idempotent."""

    def unwatch(self, service: ServicePort, now: float) -> None:
        """Stop that. Unknown ports are ignored."""

    def resolve(self, host: str, port: int, now: float) -> None:
        """Find the Service whose clusterIP is `host`; exactly one Resolution follows per call."""

    def tick(self, now: float) -> None:
        """Do what time asks for."""

    def deadline(self) -> float:
        """When `tick` is wanted next, on the same clock; infinity if never."""

    def events(self) -> Sequence[Snapshot | Resolution]:
        """What happened since the last call, in order."""

    def synced(self) -> bool:
        """Whether everything watched has been answered at least once (readiness)."""

    def standing(self, service: ServicePort, now: float) -> Standing:
        """Where what is in force for this port comes from. For /metrics too: cheap."""

    def failing(self, service: ServicePort, now: float) -> None:
        """No endpoint of it can be connected to while calls wait; a source that is out of touch may know
        another way. May be said again and again."""

    def status(self, now: float) -> dict[str, Any]:
        """For people, JSON-ready: kind, state, age_seconds, last_error and counters."""

    def close(self, now: float) -> None:
        """End: close what was dialled; nothing follows."""


class Transport(Protocol):
    """An ordered byte stream that is being or has been opened. Writes before it is up are kept."""

    def write(self, data: bytes) -> None: ...

    def close(self) -> None:
        """Flush what was written, then close. `Handler.lost` is not called after it."""


class Handler(Protocol):
    """Receives from a Transport. `lost` comes at most once and last."""

    def connected(self, now: float) -> None:
        """The transport is up; with TLS: the handshake is done and ALPN chose h2."""

    def received(self, data: bytes, now: float) -> None: ...

    def lost(self, reason: str, now: float) -> None:
        """Refused, timed out, closed or broken; `reason` is one line for people."""


class Dial(Protocol):
    """Opens a Transport without blocking. `tls` None: plain TCP."""

    def __call__(
        self, host: str, port: int, handler: Handler, tls: ssl.SSLContext | None, server_name: str
    ) -> Transport: ...
