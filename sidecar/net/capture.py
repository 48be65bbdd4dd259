"""Redirected connections: which Service each one meant, whether it speaks HTTP/2, and on to where it belongs.

A server that speaks first must not be kept waiting and what is not HTTP/2 must not notice us, so a
connection to a destination not yet known is dialled through at once and bytes go both ways. Only a client
that opens with the HTTP/2 preface, to an address that is a Service's, is taken over by the engine; the
connection dialled for it is dropped, and the destination is remembered.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import Final, NamedTuple, final

from sidecar.balance.endpoints import ServicePort
from sidecar.net import sniff, sockets
from sidecar.net.channel import Channel
from sidecar.net.dataplane import DataPlane, Listener
from sidecar.net.sockets import Destination
from sidecar.splice.context import NEVER

log: Final = logging.getLogger(__name__)

# Redirected connections at once that are not the engine's: each may hold twice MAX_HELD.
MAX_CAPTURED: Final = 4096
# Held of a direction while nothing is decided, or while the other side does not take it.
MAX_HELD: Final = 262_144
# What the API server is given to say whose address it is; then the connection passes through untouched.
RESOLVE_TIMEOUT: Final = 1.0
# Clients of a known gRPC port speak at once. One that does not is waiting for the server to speak first.
SILENCE_TIMEOUT: Final = 0.2
# Destinations remembered: as many as a busy pod talks to. The oldest is forgotten and asked for again.
MAX_DESTINATIONS: Final = 4096
# Destinations of connections that were passed through, told to people: those of late. No metric has them.
MAX_TOLD: Final = 64
# How long an answer holds. A Service's address is its own for life, but the next Service may get it.
ANSWER_TTL: Final = 300.0
NEGATIVE_TTL: Final = 30.0


class Passed(NamedTuple):
    """Where connections went that were passed through as they came, and why."""

    destination: Destination
    reason: str


@final
class _Known:
    """What is known of a destination."""

    def __init__(self, service: ServicePort | None, until: float, speaks_first: bool) -> None:
        self.service = service
        self.until = until
        self.client_speaks_first = speaks_first  # declared as gRPC, or seen to be


@final
class Capture:
    """Accepts redirected connections. `ask` starts a resolution; `resolved` brings its answer."""

    def __init__(self, plane: DataPlane, ask: Callable[[Destination, float], None]) -> None:
        self.plane: Final = plane
        self.open: dict[Captured, None] = {}
        self.passed_through: dict[str, int] = {}  # reason -> connections so far
        self.passed_to: dict[Passed, int] = {}  # connections so far, the latest last
        self.passing: int = 0  # now
        self._ask = ask
        self._timed: dict[Captured, None] = {}  # with a time-out under way
        self._known: dict[Destination, _Known] = {}
        self._waiting: dict[Destination, list[Captured]] = {}

    def listen(self, host: str, port: int) -> None:
        """Raises PortInUseError."""
        Listener(self.plane.loop, sockets.listen(host, port), self.accept)  # the loop keeps it

    def accept(self, sock: socket.socket, now: float) -> None:
        destination = sockets.original_destination(sock)
        if destination is None or self.full():
            # Somebody dialled the capture port itself: there is nowhere to take it.
            sock.close()
            return
        self.adopt(sock, destination, now)

    def full(self) -> bool:
        """Each takes two files of the clients' share."""
        files = 2 * len(self.open) + len(self.plane.engine.downstreams)
        return len(self.open) >= MAX_CAPTURED or files >= self.plane.client_files

    def adopt(self, sock: socket.socket, destination: Destination, now: float) -> None:
        sockets.tune_accepted(sock)
        known = self._known.get(destination)
        if known is not None and known.until <= now:
            known = None
        captured = Captured(self, sock, destination, known is not None)
        self.open[captured] = None
        if known is None:
            self._waiting.setdefault(destination, []).append(captured)
            self._limit(captured, now + RESOLVE_TIMEOUT)
            if len(self._waiting[destination]) == 1:
                self._ask(destination, now)
        else:
            captured.service = known.service
            if known.service is not None and known.client_speaks_first:
                self._limit(captured, now + SILENCE_TIMEOUT)
                return
        if not captured.closed:
            captured.dial(now)

    def resolved(
        self, destination: Destination, service: ServicePort | None, declared: bool, failed: bool, now: float
    ) -> None:
        """The answer to an `ask`. One that failed leaves what was known before in force."""
        before = self._known.get(destination)
        if failed:
            service = before.service if before is not None else None
        else:
            if before is None and len(self._known) >= MAX_DESTINATIONS:
                del self._known[next(iter(self._known))]
            ttl = NEGATIVE_TTL if service is None else ANSWER_TTL
            seen = before is not None and before.service == service and before.client_speaks_first
            self._known[destination] = _Known(service, now + ttl, declared or seen)
        for captured in self._waiting.pop(destination, []):
            if not captured.closed:
                try:
                    captured.resolved(service, now)
                except Exception as error:
                    self._failed(captured, error, now)

    def learned(self, destination: Destination) -> None:
        """A client of this destination opened with the HTTP/2 preface."""
        known = self._known.get(destination)
        if known is not None:
            known.client_speaks_first = True

    def count(self, reason: str, destination: Destination) -> None:
        self.passed_through[reason] = self.passed_through.get(reason, 0) + 1
        passed = Passed(destination, reason)
        before = self.passed_to.pop(passed, 0)
        if len(self.passed_to) >= MAX_TOLD:
            del self.passed_to[next(iter(self.passed_to))]
        self.passed_to[passed] = before + 1

    def service_of(self, destination: Destination) -> ServicePort | None:
        """Whose address that is, as far as it was found out by now."""
        known = self._known.get(destination)
        return known.service if known is not None else None

    def forget(self, captured: Captured) -> None:
        self.open.pop(captured, None)
        self._timed.pop(captured, None)

    def _limit(self, captured: Captured, until: float) -> None:
        captured.give_up_at = until
        self._timed[captured] = None

    def decided(self, captured: Captured) -> None:
        """It waits for nothing any more."""
        self._timed.pop(captured, None)

    def deadline(self) -> float:
        return min((captured.give_up_at for captured in self._timed), default=NEVER)

    def tick(self, now: float) -> None:
        for captured in [c for c in self._timed if c.give_up_at <= now]:
            del self._timed[captured]
            try:
                captured.give_up(now)
            except Exception as error:
                self._failed(captured, error, now)

    def _failed(self, captured: Captured, error: Exception, now: float) -> None:
        """A bug of ours: one connection of several ends."""
        self.plane.engine.errors.note("capture", error, now)
        captured.failed(error, now)

    def abort_all(self) -> None:
        for captured in list(self.open):
            captured.end()


@final
class Captured(Channel):
    """A redirected client, until it is the engine's or a plain relay."""

    def __init__(
        self, capture: Capture, sock: socket.socket, destination: Destination, resolved: bool
    ) -> None:
        super().__init__(capture.plane.loop, sock, False)
        self.capture: Final = capture
        self.destination: Final = destination
        self.service: ServicePort | None = None
        self.give_up_at: float = 0.0  # while something is waited for
        self._resolved: bool = resolved
        self._relaying: bool = False
        self._original: Original | None = None
        self._from_client: bytes = b""  # held until it is decided whose they are
        self._from_server: bytes = b""
        self._verdict: str = sniff.UNDECIDED
        self._client_ended: bool = False

    def dial(self, now: float) -> None:
        """Connect to where the client wanted to go."""
        try:
            sock = sockets.dial(self.destination.host, self.destination.port)
        except OSError as error:
            log.debug("%s port %s: %s", self.destination.host, self.destination.port, sockets.describe(error))
            self.end()
            return
        self._original = Original(self, sock)
        if self._resolved and self.service is None:
            self._pass_through("not_a_service", now)

    # --- what becomes known ----------------------------------------------------------------------

    def resolved(self, service: ServicePort | None, now: float) -> None:
        self._resolved = True
        self.service = service
        self.capture.decided(self)
        if service is None:
            self._pass_through("not_a_service", now)
        else:
            self._decide(now)

    def give_up(self, now: float) -> None:
        if not self._resolved:
            self._pass_through("not_resolved", now)
        elif self._original is None:
            self.dial(now)

    def received(self, data: bytes, now: float) -> None:
        if self._relaying:
            self._to_original(data)
            return
        self._from_client += data
        self._verdict = sniff.client(self._from_client)
        if len(self._from_client) > MAX_HELD:
            self.set_reading(False)
        self._decide(now)

    def from_original(self, data: bytes, now: float) -> None:
        if self._relaying:
            self._to_client(data)
            return
        self._from_server += data
        if len(self._from_server) > MAX_HELD and self._original is not None:
            self._original.set_reading(False)
        if not sniff.may_be_settings(self._from_server):
            # A server that speaks first, and not HTTP/2.
            self._pass_through(sniff.OTHER, now)

    def _decide(self, now: float) -> None:
        verdict = self._verdict
        if verdict == sniff.UNDECIDED or self._relaying:
            return
        if verdict != sniff.HTTP2:
            self._pass_through(verdict, now)
        elif self._resolved and self.service is not None:
            self._take_over(self.service, now)

    def _take_over(self, service: ServicePort, now: float) -> None:
        """It is gRPC to a Service: the engine's from here."""
        self.capture.learned(self.destination)
        self.capture.forget(self)
        original = self._original
        if original is not None:
            self._original = None
            original.abort()
        self.capture.plane.adopt(self.give_away(), service, now, self._from_client)

    # --- relaying --------------------------------------------------------------------------------

    def _pass_through(self, reason: str, now: float) -> None:
        if self._relaying:
            return
        self._relaying = True
        self.capture.decided(self)
        self.capture.count(reason, self.destination)
        self.capture.passing += 1
        if self._original is None:
            self.dial(now)
        if self.closed:
            return
        self.set_reading(True)
        if self._original is not None:
            self._original.set_reading(True)
        held, self._from_client = self._from_client, b""
        self._to_original(held)
        held, self._from_server = self._from_server, b""
        self._to_client(held)
        if self._client_ended:
            self.ended(now)

    def _to_original(self, data: bytes) -> None:
        original = self._original
        if original is not None:
            original.write(data)
            if original.unsent() > MAX_HELD:
                self.set_reading(False)

    def _to_client(self, data: bytes) -> None:
        self.write(data)
        if self.unsent() > MAX_HELD and self._original is not None:
            self._original.set_reading(False)

    def drained(self, now: float) -> None:
        if self._original is not None:
            self._original.set_reading(True)

    def original_drained(self) -> None:
        if not self._client_ended:
            self.set_reading(True)

    def ended(self, now: float) -> None:
        self._client_ended = True
        if not self._relaying:
            self._pass_through(sniff.OTHER, now)
            return
        self.set_reading(False)
        if self._original is not None:
            self._original.end_output()

    def lost(self, why: str, now: float) -> None:
        self.end()

    def failed(self, error: Exception, now: float) -> None:
        self.end()

    def end(self) -> None:
        """Both sides are over."""
        original = self._let_go()
        if original is not None:
            original.abort()
        self.abort()

    def _let_go(self) -> Original | None:
        """Count this connection no longer. The other side's, if there is one, for the caller to end."""
        if self._relaying:
            self._relaying = False
            self.capture.passing -= 1
        self.capture.forget(self)
        original = self._original
        self._original = None
        return original

    def original_lost(self, now: float) -> None:
        """The server's side broke: so does the client's."""
        self._original = None
        if self._relaying:
            self.end()
        elif self.service is None:
            # A Service's clients need no original: the engine has endpoints. Others do.
            self.end()

    def original_ended(self, now: float) -> None:
        """The server will send nothing more."""
        if not self._relaying and self.service is not None:
            return
        self._pass_through(sniff.OTHER, now)
        self.end_output()
        if self._client_ended:
            self.finish()

    def finish(self) -> None:
        """Both directions have ended: close when the last bytes are out."""
        original = self._let_go()
        if original is not None:
            original.close()
        self.close()


@final
class Original(Channel):
    """The connection to where the client wanted to go."""

    def __init__(self, captured: Captured, sock: socket.socket) -> None:
        super().__init__(captured.loop, sock, True)
        self._captured = captured

    def received(self, data: bytes, now: float) -> None:
        self._captured.from_original(data, now)

    def drained(self, now: float) -> None:
        self._captured.original_drained()

    def ended(self, now: float) -> None:
        self.set_reading(False)
        self._captured.original_ended(now)

    def lost(self, why: str, now: float) -> None:
        self._captured.original_lost(now)
