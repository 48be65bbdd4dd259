"""The sidecar as a whole: the engine, its sockets, a source of endpoints and the admin port on one loop."""

from __future__ import annotations

import logging
import random
import socket
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from contract.values import Listen, ServiceRef
from sidecar.admin.server import AdminServer
from sidecar.balance.endpoints import ServicePort, Snapshot
from sidecar.balance.outlier import Ejection
from sidecar.discovery.factory import make_source
from sidecar.discovery.source import Resolution
from sidecar.net import sockets
from sidecar.net.capture import Capture
from sidecar.net.dataplane import DataPlane, Listener
from sidecar.net.loop import Loop
from sidecar.net.signals import Signals
from sidecar.net.sockets import Destination
from sidecar.net.transport import Streams
from sidecar.splice.engine import Engine
from sidecar.view import View

log: Final = logging.getLogger("sidecar")

# The loopback addresses a redirected connection arrives at (REDIRECT in OUTPUT rewrites to them).
CAPTURE_HOSTS: Final = ("127.0.0.1", "::1")
# How often, at most, a Service whose calls find no endpoint is told to its source, which may know another way.
# No turn is made for it: calls that wait have timers, which make turns enough.
CHECK_INTERVAL: Final = 0.5
# What a part of the sidecar that has failed by a bug of ours is left alone for.
PART_REST: Final = 1.0
# Once the last stream is over: what a client is given to read its answer and close.
LINGER: Final = 0.1


class Sidecar:
    """Call `run` once. The constructor raises PortInUseError if a port cannot be had, and NoSourceError."""

    def __init__(self, settings: Mapping[str, Any], environ: Mapping[str, str]) -> None:
        self.loop: Final = Loop()
        self.engine: Final = Engine(random.SystemRandom().getrandbits(64))
        self.plane: Final = DataPlane(self.loop, self.engine, sockets.raise_file_limit())
        ejection = settings["outlier-ejection"]
        if ejection.failures:
            self.engine.eject_outliers(Ejection(*ejection))
        self._namespace: str = settings["namespace"]
        self._streams = Streams(self.loop)
        now = self.loop.now()
        self._source = make_source(
            settings["source"],
            dial=self._streams.dial,
            now=now,
            random=random.Random(),  # noqa: S311 - jitter
            environ=environ,
            namespace=self._namespace,
            state_dir=settings["state-dir"],
        )
        self.engine.errors.report = log.error
        # What failed by a bug of ours, and must not be tried in a loop.
        self._rests_until: dict[Callable[[float], None], float] = {}
        self._drain_timeout: float = settings["drain-timeout"]
        self._check_at = now + CHECK_INTERVAL
        self._watched: set[ServicePort] = set()
        self._drain_until: float = float("inf")
        self._idle_since: float = 0.0
        self._drained: bool = False
        self.capture: Capture | None = None
        for wanted in settings["listen"]:
            self._listen(wanted)
        if settings["capture"] is not None:
            self.capture = Capture(self.plane, self._ask)
            self._listen_capture(self.capture, settings["capture"])
        for ref in settings["services"]:
            self.engine.service(self._service_port(ref))
        self._view = View(self.engine, self._source, self.capture, now)
        self._admin = AdminServer(self._view, on_drain=self.drain, log=log.error)
        admin = settings["admin"]
        self._admin_listener = Listener(self.loop, sockets.listen(admin.host, admin.port), self._accept_admin)
        self._parts: list[_Part] = [self._streams, self._source, self._admin]
        if self.capture is not None:
            self._parts.append(self.capture)
        self._signals = Signals(self.loop, self._signalled)

    def _listen(self, wanted: Listen) -> None:
        self.plane.listen(wanted.address.host, wanted.address.port, self._service_port(wanted.service))
        self.engine.service(self._service_port(wanted.service))

    def _listen_capture(self, capture: Capture, port: int) -> None:
        for host in CAPTURE_HOSTS:
            try:
                capture.listen(host, port)
            except sockets.PortInUseError:
                if host == CAPTURE_HOSTS[0] or (socket.has_ipv6 and _has_ipv6_loopback()):
                    raise

    def _service_port(self, ref: ServiceRef) -> ServicePort:
        return ServicePort(ref.namespace or self._namespace, ref.name, ref.port)

    # --- running ---------------------------------------------------------------------------------

    def run(self) -> None:
        """Until SIGTERM, SIGINT or POST /drain, and then until the streams are over."""
        try:
            self.loop.run(self.plane, self.turn)
        finally:
            self._source.close(self.loop.now())
            self._admin.close()
            self.plane.abort_all()
            if self.capture is not None:
                self.capture.abort_all()
            self._signals.close()
            self.loop.close()

    def turn(self, now: float) -> float:
        """All that is not the data plane; when to be called again, unless something happens."""
        for part in self._parts:
            if part.deadline() <= now:
                self._guarded(part.tick, now)
        if now >= self._check_at:
            self._check_at = now + CHECK_INTERVAL
            self._guarded(self._tell_of_stuck, now)
        self._guarded(self._watch_new, now)
        self._guarded(self._take_events, now)
        deadline = self._check_at
        for part in self._parts:
            deadline = min(deadline, max(part.deadline(), self._rests_until.get(part.tick, now)))
        if self.engine.draining:
            deadline = min(deadline, self._drain_turn(now))
        return deadline

    def _guarded(self, do: Callable[[float], None], now: float) -> None:
        """A bug in one part must not keep the others from their turn, nor be met again at once."""
        if self._rests_until.get(do, now) > now:
            return
        try:
            do(now)
        except Exception as error:
            self.engine.errors.note(do.__qualname__, error, now)
            self._rests_until[do] = now + PART_REST

    def _watch_new(self, now: float) -> None:
        services = self.engine.services
        if len(services) == len(self._watched):
            return
        for key in [key for key in services if key not in self._watched]:
            self._watched.add(key)
            self._source.watch(key, now)

    def _tell_of_stuck(self, now: float) -> None:
        for service in self.engine.services.values():
            if service.stuck():
                self._source.failing(service.key, now)

    def _take_events(self, now: float) -> None:
        for event in self._source.events():
            self._take_event(event, now)

    def _take_event(self, event: Snapshot | Resolution, now: float) -> None:
        try:
            if isinstance(event, Snapshot):
                log.info(
                    "%s: %d endpoints from %s%s",
                    event.service,
                    len(event.endpoints),
                    event.source,
                    "" if event.exists else " (no such Service)",
                )
                self.engine.update(event, now)
            else:
                self._resolved(event, now)
        except Exception as error:
            self.engine.errors.note("event", error, now)

    # --- capture ---------------------------------------------------------------------------------

    def _ask(self, destination: Destination, now: float) -> None:
        self._source.resolve(destination.host, destination.port, now)

    def _resolved(self, event: Resolution, now: float) -> None:
        if self.capture is None:
            return
        if event.service is not None:
            self.engine.service(event.service)
            self._watch_new(now)
        destination = Destination(event.host, event.port)
        self.capture.resolved(destination, event.service, event.declared_grpc, event.failed, now)

    # --- admin and the end -----------------------------------------------------------------------

    def _accept_admin(self, sock: socket.socket, now: float) -> None:
        try:
            peer = sock.getpeername()[0]
        except OSError:  # it has left already
            sock.close()
            return
        transport = self._streams.adopt(sock)
        transport.attach(_AdminHandler(self._admin.accept(transport, peer, now)))

    def _signalled(self, count: int) -> None:
        """The first signal drains, a second ends at once."""
        if count == 1:
            self.drain()
        else:
            self.loop.stop()

    def drain(self) -> None:
        """GOAWAY to every client; `run` returns when their streams are over, or after the drain timeout."""
        if self.engine.draining:
            return
        now = self.loop.now()
        log.info("draining: %d open streams", self.engine.open_streams())
        self.engine.drain(now)
        self.loop.attentive = True
        self._drain_until = now + self._drain_timeout

    def _drain_turn(self, now: float) -> float:
        passing = self.capture.passing if self.capture is not None else 0
        busy = self.engine.open_streams() > 0 or bool(self.engine.downstreams) or passing > 0
        if busy:
            self._idle_since = 0.0
        elif self._idle_since == 0.0:
            self._idle_since = now
        over = now >= self._drain_until or (not busy and now - self._idle_since >= LINGER)
        if over and not self._drained:  # the turn that stops the loop is not its last
            self._drained = True
            log.info("drained: %d streams left", self.engine.open_streams())
            self.loop.stop()
        return self._drain_until if busy else self._idle_since + LINGER


class _Part(Protocol):
    """What wants a turn at its own time."""

    def deadline(self) -> float: ...

    def tick(self, now: float) -> None: ...


class _AdminHandler:
    """Fits an admin connection to the transport's handler, which also says `connected`."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def connected(self, now: float) -> None:
        pass

    def received(self, data: bytes, now: float) -> None:
        self._connection.received(data, now)

    def lost(self, reason: str, now: float) -> None:
        self._connection.lost(reason, now)


def _has_ipv6_loopback() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True
