"""The playbook's language: clients and backends made of raw bytes around one engine, under virtual time.

A test reads as a transcript: `client.sends(headers(1, POST), data(1, b"hi", end=True))`, then
`backend.receives(Headers(1, ...), Data(1, b"hi", end=True))`. Frames are built and read by `rawhttp2`.
Connection housekeeping (SETTINGS, connection WINDOW_UPDATEs, PING answers) is set apart, so that a transcript
says what it is about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from rawhttp2 import (
    OK,
    POST,
    PREFACE,
    TRAILERS,
    Data,
    Event,
    Fields,
    FrameReader,
    Goaway,
    Headers,
    Ping,
    Settings,
    Window,
    data,
    headers,
    ping,
    settings,
)

from sidecar.balance.endpoints import Endpoint, ServicePort, Snapshot
from sidecar.splice.engine import Engine
from sidecar.splice.upstream import Upstream

GREETER = ServicePort("default", "greeter", 50051)
ORDERS = ServicePort("shop", "orders", 7000)
MAX_ROUNDS = 1000  # of one turn; an engine that never comes to rest would be a loop
BIG = 1 << 24  # a window nobody fills here


class Party:
    """One end of a connection to the engine: a client, or one connection of a backend."""

    def __init__(self, world: World, peer: Any, is_client: bool) -> None:
        self.world = world
        self.peer = peer
        self.is_client = is_client
        self.reader = FrameReader(preface=not is_client)
        self.inbox: list[Event] = []  # not yet taken by the test
        self.housekeeping: list[Event] = []
        self.capacity: int | None = None  # octets the socket still takes; None: all
        self.broken = False  # nothing can be written to it any more, and nobody has noticed yet
        self.unsent = b""
        self.closed = False  # by the engine
        self.left = False  # by this party
        self.connected = False

    # what the party does

    def sends(self, *octets: bytes) -> None:
        """One write, one read of the engine's, one turn."""
        if not self.closed and not self.left:
            self.world.engine.received(self.peer, b"".join(octets), self.world.now)
        self.world.settle()

    def sends_octet_by_octet(self, *octets: bytes) -> None:
        for octet in b"".join(octets):
            self.sends(bytes([octet]))

    def leaves(self, why: str = "reset the connection") -> None:
        """The connection is lost."""
        if not self.closed and not self.left:
            self.left = True
            self.world.engine.lost(self.peer, why, self.world.now)
        self.world.settle()

    def stops_reading(self, capacity: int = 0) -> None:
        self.capacity = capacity

    def reads(self, octets: int | None = None) -> None:
        """Take so many octets off the socket (all, and from now on, without a number)."""
        if octets is None:
            self.capacity = None
        else:
            self.capacity = (self.capacity or 0) + octets
        taken = self._take(self.unsent)
        before = len(self.unsent)
        self.unsent = self.unsent[taken:]
        if before and not self.closed:
            self.world.engine.socket_state(self.peer, len(self.unsent), self.world.now)
            if self.peer.finished and not self.unsent:
                self.peer.touch()
        self.world.settle()

    def _take(self, octets: bytes) -> int:
        taken = len(octets) if self.capacity is None else min(self.capacity, len(octets))
        if self.capacity is not None:
            self.capacity -= taken
        for event in self.reader.feed(octets[:taken]):
            self._saw(event)
        return taken

    # what happens to it

    def write(self, octets: bytes) -> None:
        """As PeerChannel.flush does it."""
        if self.broken and not self.unsent:
            self.peer.not_written()
            return
        before = len(self.unsent)
        self.unsent += octets
        if not before:
            taken = self._take(octets)
            self.unsent = octets[taken:]
        if self.unsent or before or self.peer.has_waiting():
            self.world.engine.socket_state(self.peer, len(self.unsent), self.world.now)

    def _saw(self, event: Event) -> None:
        quiet = isinstance(event, (Settings, Ping)) or (isinstance(event, Window) and event.stream == 0)
        (self.housekeeping if quiet else self.inbox).append(event)

    # what the test asks

    def take(self, keep_windows: bool = False) -> list[Event]:
        """What came since the last time, without stream WINDOW_UPDATEs unless wanted."""
        found = [e for e in self.inbox if keep_windows or not isinstance(e, Window)]
        self.inbox = []
        return found

    def receives(self, *expected: Event) -> None:
        """Exactly this came, and nothing else but WINDOW_UPDATEs."""
        found = self.take()
        assert found == list(expected), f"\n got      {found}\n expected {list(expected)}"

    def receives_nothing(self) -> None:
        self.receives()

    def receives_body(self, stream: int) -> tuple[bytes, bool]:
        """All DATA of one stream so far (nothing else may have come), and whether it ended."""
        body, ended = b"", False
        for event in self.take():
            assert isinstance(event, Data), f"{event} is not DATA"
            assert event.stream == stream
            body += event.payload
            ended = ended or event.end
        return body, ended

    def granted(self, stream: int) -> int:
        """Credit that came for a stream; takes those events only."""
        total = sum(e.increment for e in self.inbox if isinstance(e, Window) and e.stream == stream)
        self.inbox = [e for e in self.inbox if not (isinstance(e, Window) and e.stream == stream)]
        return total

    def connection_granted(self) -> int:
        return sum(e.increment for e in self.housekeeping if isinstance(e, Window))

    def is_told(self, code: int, last: int | None = None) -> None:
        """The connection ends with GOAWAY of this code, and is closed."""
        found = [e for e in self.take() if isinstance(e, Goaway)]
        assert found, "no GOAWAY came"
        assert found[-1].code == code, found[-1]
        assert last is None or found[-1].last == last
        assert self.closed

    def still_works(self) -> None:
        """A PING is answered."""
        assert not self.closed, f"closed with {self.inbox[-3:]}"
        before = len(self.housekeeping)
        self.sends(ping(b"stillyou"))
        assert Ping(b"stillyou", True) in self.housekeeping[before:]


class Client(Party):
    def __init__(self, world: World, peer: Any) -> None:
        super().__init__(world, peer, True)
        self.next_id = 1

    def calls(self, body: bytes = b"request", end: bool = True, fields: Fields = POST) -> int:
        """Opens the next stream: a whole unary request, or a first message."""
        stream = self.next_id
        self.next_id += 2
        self.sends(headers(stream, fields), data(stream, body, end))
        return stream

    def opens(self, fields: Fields | bytes = POST, end: bool = False) -> int:
        stream = self.next_id
        self.next_id += 2
        self.sends(headers(stream, fields, end))
        return stream

    def outcome(self, stream: int) -> tuple[str, str]:
        """grpc-status and grpc-message of a finished call."""
        for event in self.inbox:
            if isinstance(event, Headers) and event.stream == stream and event.end:
                fields = dict(event.fields)
                return fields.get("grpc-status", ""), fields.get("grpc-message", "")
        raise AssertionError(f"stream {stream} has no trailers in {self.inbox}")


class BackendConnection(Party):
    def __init__(self, world: World, peer: Upstream, host: str) -> None:
        super().__init__(world, peer, False)
        self.host = host

    def answers(self, stream: int, body: bytes = b"response", trailers: Fields = TRAILERS) -> None:
        self.sends(headers(stream, OK), data(stream, body), headers(stream, trailers, end=True))

    def streams_open(self) -> list[int]:
        return sorted(self.peer.streams)


ACCEPT, REFUSE, SILENCE, MUTE = "accept", "refuse", "silence", "mute"


class World:
    """One engine, the clients and backends around it, and the time."""

    def __init__(self, seed: int = 1, now: float = 1000.0) -> None:
        self.engine = Engine(seed)
        # Tracebacks of exceptions in the engine, which it survives; a test that plants one takes them out.
        self.bugs: list[str] = []
        self.engine.errors.report = self.bugs.append
        self.now = now
        self.bugs_expected = False
        self.parties: dict[Any, Party] = {}
        self.backends: dict[str, list[BackendConnection]] = {}
        self.dialling: list[Upstream] = []
        self.dials = 0
        self.manners: dict[str, str] = {}  # host -> ACCEPT, REFUSE, SILENCE or MUTE
        self.backend_settings: dict[str, dict[int, int]] = {}
        self.after_dial: Callable[[BackendConnection], None] | None = None

    # --- the scene

    def endpoints(self, *hosts: int | str, service: ServicePort = GREETER, exists: bool = True) -> None:
        found = tuple(Endpoint(host_name(host), 50051) for host in hosts)
        self.engine.update(Snapshot(service, found, "file", self.now, exists), self.now)
        self.settle()

    def client(self, values: dict[int, int] | None = None, service: ServicePort = GREETER) -> Client:
        """A client that has said its preface and SETTINGS and acknowledged ours."""
        client = self.raw_client(service)
        client.sends(PREFACE, settings(values), settings(ack=True))
        return client

    def raw_client(self, service: ServicePort = GREETER) -> Client:
        """A client that has connected and not said a word."""
        client = Client(self, self.engine.accept(service, self.now))
        self.parties[client.peer] = client
        self.settle()
        return client

    def backend(self, host: int | str) -> BackendConnection:
        """The newest connection of a backend."""
        return self.backends[host_name(host)][-1]

    def connections(self) -> Iterable[BackendConnection]:
        return (each for found in self.backends.values() for each in found)

    # --- the shell's part

    def settle(self) -> None:
        """What the shell does at the end of a turn, until nothing is left to do."""
        engine = self.engine
        for _ in range(MAX_ROUNDS):
            dials = list(engine.take_dials())
            for upstream in dials:
                self._dial(upstream)
            touched = engine.take_touched()
            for peer in touched:
                self._flush(peer)
            if not touched and not dials:
                assert self.bugs_expected or not engine.errors.counts, "\n".join(self.bugs)
                return
        raise AssertionError(f"the engine still wants something done after {MAX_ROUNDS} rounds of one turn")

    def _dial(self, upstream: Upstream) -> None:
        self.dials += 1
        if upstream.gone:
            return
        host = upstream.backend.endpoint.host
        manner = self.manners.get(host, ACCEPT)
        if manner == REFUSE:
            self.engine.lost(upstream, "refused the connection", self.now)
        elif manner == SILENCE:
            self.dialling.append(upstream)
        else:
            self.accept_dial(upstream, greet=manner != MUTE)

    def accept_dial(self, upstream: Upstream, greet: bool = True) -> BackendConnection:
        """The backend takes the connection and, unless it is mute, says SETTINGS."""
        host = upstream.backend.endpoint.host
        backend = BackendConnection(self, upstream, host)
        self.parties[upstream] = backend
        self.backends.setdefault(host, []).append(backend)
        if upstream in self.dialling:
            self.dialling.remove(upstream)
        self.engine.connected(upstream, self.now)
        if greet:
            self.engine.received(upstream, settings(self.backend_settings.get(host)), self.now)
        if self.after_dial is not None:
            self.after_dial(backend)
        return backend

    def _flush(self, peer: Any) -> None:
        party = self.parties.get(peer)
        if party is None:
            # Still dialling: the shell closes the socket if the engine gave the connection up.
            if peer.gone and peer in self.dialling:
                self.dialling.remove(peer)
                self.engine.lost(peer, "closed", self.now)
            return
        octets = b"".join(peer.take_output())
        if party.closed or party.left:
            return
        if octets:
            party.write(octets)
        if peer.finished:
            # PeerChannel.flush and DataPlane.close: a client's last answers are waited for; otherwise the rest is
            # flushed unless the connection is gone; then `lost`, once.
            if party.unsent and peer.ended_idle and not (peer.gone or peer.error_code):
                return
            party.closed = True
            if not peer.gone:
                party.unsent += b"".join(peer.take_output())  # what `socket_state` had to say
            if not peer.gone and party.unsent:
                party.unsent = party.unsent[party._take(party.unsent) :]
            self.engine.lost(peer, "closed", self.now)

    def advance(self, seconds: float) -> None:
        """Let time pass, with every timer at its own time."""
        until = self.now + seconds
        while self.engine.deadline() <= until:
            self.now = max(self.now, self.engine.deadline())
            self.engine.tick(self.now)
            self.settle()
        self.now = until
        self.engine.tick(self.now)
        self.settle()

    # --- what must hold

    def nothing_is_left(self) -> None:
        """Every stream is over: no count, no held octet, no queue may remember one."""
        engine = self.engine
        assert engine.open_streams() == 0
        assert engine.held() == 0
        unsent = sum(
            len(party.unsent) for party in self.parties.values() if not party.closed and not party.left
        )
        kept = engine.kept()
        assert kept["held"] == unsent
        assert kept["streams"] == kept["lent"] == kept["blocks"] == kept["replay"] == 0
        for service in engine.services.values():
            assert service.queued() == 0
            assert not service.waiting
            assert service.stats.started == sum(service.stats.by_status.values())
            for backend in [*service.backends.values(), *service.retiring]:
                assert backend.open_streams == 0, f"{backend.endpoint.host} counts {backend.open_streams}"
                assert not backend.pending
                finished = sum(backend.stats.by_status.values())
                assert backend.stats.started == finished + backend.stats.refused
                for upstream in backend.upstreams:
                    assert not upstream.streams
                    assert upstream.held_for == upstream.held_back == upstream.lent_for == 0
        for party in self.parties.values():
            if not party.closed and not party.left:
                assert party.peer.held_for == party.peer.held_back == party.peer.lent_for == 0
                assert not party.peer.streams


def host_name(host: int | str) -> str:
    return f"10.0.0.{host}" if isinstance(host, int) else host


def ready(*hosts: int, seed: int = 1, settings: dict[int, int] | None = None) -> World:
    """A world with these endpoints of the greeter."""
    world = World(seed)
    for host in hosts:
        world.backend_settings[host_name(host)] = settings or {}
    world.endpoints(*hosts)
    return world


def who_has(world: World, stream_count: int = 1) -> BackendConnection:
    """The one backend's connection with so many open streams."""
    (found,) = [c for c in world.connections() if not c.closed and len(c.streams_open()) == stream_count]
    return found


def with_timeout(text: str) -> tuple[tuple[str, str], ...]:
    return (*POST, ("grpc-timeout", text))
