"""The playbook's language: clients and backends made of raw bytes around one engine, under virtual time.

A test reads as a transcript: `client.sends(headers(1, POST), data(1, b"hi", end=True))`, then
`backend.receives(Headers(1, ...), Data(1, b"hi", end=True))`. Frames are built and parsed here, by code of
their own; header blocks are decoded by `hpack`, with the table that was agreed on. Connection
housekeeping (SETTINGS, connection WINDOW_UPDATEs, PING answers) is set apart, so that a transcript says
what it is about.
"""

from __future__ import annotations

import functools
import itertools
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import hpack

from sidecar.balance.endpoints import Endpoint, ServicePort, Snapshot
from sidecar.splice.engine import Engine
from sidecar.splice.upstream import Upstream

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY_FLAG = 0x1, 0x1, 0x4, 0x8, 0x20
(
    NO_ERROR,
    PROTOCOL_ERROR,
    INTERNAL_ERROR,
    FLOW_CONTROL_ERROR,
    SETTINGS_TIMEOUT,
    STREAM_CLOSED,
    FRAME_SIZE_ERROR,
    REFUSED_STREAM,
    CANCEL,
    COMPRESSION_ERROR,
    CONNECT_ERROR,
    ENHANCE_YOUR_CALM,
    INADEQUATE_SECURITY,
    HTTP_1_1_REQUIRED,
) = range(14)
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 1, 2, 3, 4
MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = 5, 6

GREETER = ServicePort("default", "greeter", 50051)
ORDERS = ServicePort("shop", "orders", 7000)
MAX_ROUNDS = 1000  # of one turn; an engine that never comes to rest would be a loop
BIG = 1 << 24  # a window nobody fills here

POST = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/greeter.Greeter/SayHello"),
    (":authority", "greeter:50051"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
)
OK = ((":status", "200"), ("content-type", "application/grpc"))
TRAILERS = (("grpc-status", "0"),)
Fields = Sequence[tuple[str | bytes, str | bytes]]


# --- bytes out -------------------------------------------------------------------------------------


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(fields: Fields) -> bytes:
    """A block of literals without indexing: the plainest there is, and no state."""
    return _literal(tuple(fields))


@functools.lru_cache(maxsize=1024)
def _literal(fields: tuple[tuple[str | bytes, str | bytes], ...]) -> bytes:
    return b"".join(b"\x00" + string(_bytes(name)) + string(_bytes(value)) for name, value in fields)


def string(text: bytes) -> bytes:
    return integer(len(text), 7) + text


def integer(value: int, bits: int, high: int = 0) -> bytes:
    most = (1 << bits) - 1
    if value < most:
        return bytes([high | value])
    out = [high | most]
    value -= most
    while value >= 128:
        out.append((value & 127) | 128)
        value >>= 7
    return bytes([*out, value])


def _bytes(text: str | bytes) -> bytes:
    return text.encode("latin-1") if isinstance(text, str) else text


def headers(stream: int, fields: Fields | bytes = POST, end: bool = False) -> bytes:
    """HEADERS of these fields, or of a block as it is."""
    block = fields if isinstance(fields, bytes) else literal(fields)
    return split_headers(stream, block, [], end) if len(block) <= 16384 else _long_headers(stream, block, end)


def _long_headers(stream: int, block: bytes, end: bool) -> bytes:
    return split_headers(stream, block, list(range(16384, len(block), 16384)), end)


def split_headers(stream: int, block: bytes, cuts: Sequence[int], end: bool = False) -> bytes:
    """HEADERS and CONTINUATIONs, cut where told."""
    edges = [0, *cuts, len(block)]
    pieces = [block[a:b] for a, b in itertools.pairwise(edges)]
    out = b""
    for at, piece in enumerate(pieces):
        flags = END_HEADERS if at == len(pieces) - 1 else 0
        if at == 0:
            out += frame(HEADERS, flags | (END_STREAM if end else 0), stream, piece)
        else:
            out += frame(CONTINUATION, flags, stream, piece)
    return out


def data(stream: int, payload: bytes = b"", end: bool = False, pad: int = -1) -> bytes:
    flags = END_STREAM if end else 0
    if pad >= 0:
        return frame(DATA, flags | PADDED, stream, bytes([pad]) + payload + bytes(pad))
    if len(payload) <= 16384:
        return frame(DATA, flags, stream, payload)
    return data(stream, payload[:16384]) + data(stream, payload[16384:], end)


def rst(stream: int, code: int = CANCEL) -> bytes:
    return frame(RST_STREAM, 0, stream, struct.pack(">I", code))


def settings(values: dict[int, int] | None = None, ack: bool = False) -> bytes:
    payload = b"".join(struct.pack(">HI", key, value) for key, value in (values or {}).items())
    return frame(SETTINGS, ACK if ack else 0, 0, payload)


def window(stream: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", increment))


def ping(payload: bytes = b"pingping", ack: bool = False) -> bytes:
    return frame(PING, ACK if ack else 0, 0, payload)


def goaway(last: int, code: int = NO_ERROR, debug: bytes = b"") -> bytes:
    return frame(GOAWAY, 0, 0, struct.pack(">II", last, code) + debug)


# --- what a party saw ------------------------------------------------------------------------------


class Headers(NamedTuple):
    stream: int
    fields: tuple[tuple[str, str], ...]
    end: bool = False


class Data(NamedTuple):
    stream: int
    payload: bytes
    end: bool = False

    def __repr__(self) -> str:
        size = len(self.payload)
        shown = repr(self.payload) if size <= 40 else f"{self.payload[:20]!r}... {size} octets"
        return f"Data({self.stream}, {shown}, {self.end})"


class Reset(NamedTuple):
    stream: int
    code: int


class Goaway(NamedTuple):
    last: int
    code: int
    debug: bytes = b""


class Window(NamedTuple):
    stream: int
    increment: int


class Ping(NamedTuple):
    payload: bytes
    ack: bool


class Settings(NamedTuple):
    values: dict[int, int]
    ack: bool


class Closed(NamedTuple):
    pass


Event = Headers | Data | Reset | Goaway | Window | Ping | Settings | Closed


def as_text(fields: Fields) -> tuple[tuple[str, str], ...]:
    return tuple((_bytes(name).decode("latin-1"), _bytes(value).decode("latin-1")) for name, value in fields)


def request(stream: int, fields: Fields = POST, end: bool = False) -> Headers:
    return Headers(stream, as_text(fields), end)


response = request


class FrameReader:
    """Bytes to events, strictly: a rule the engine broke is an AssertionError here."""

    def __init__(self, preface: bool) -> None:
        self.decoder = hpack.Decoder(max_header_list_size=1 << 22)
        # We never announce another size, yet the engine says 0 on its own; a dynamic reference would fail.
        self._preface = preface
        self._rest = b""
        self._block: list[bytes] = []
        self._block_stream = 0
        self._block_flags = 0
        self.blocks: list[bytes] = []  # as they were on the wire
        self.first_settings_seen = False

    def feed(self, octets: bytes) -> list[Event]:
        buffer = self._rest + octets
        self._rest = b""
        found: list[Event] = []
        at = 0
        if self._preface:
            if len(buffer) < len(PREFACE):
                assert PREFACE.startswith(buffer)
                self._rest = buffer
                return found
            assert buffer.startswith(PREFACE)
            at = len(PREFACE)
            self._preface = False
        while len(buffer) - at >= 9:
            length = int.from_bytes(buffer[at : at + 3], "big")
            assert length <= 16384, "a frame over the default MAX_FRAME_SIZE"
            if len(buffer) - at < 9 + length:
                break
            kind, flags, stream = struct.unpack_from(">BBI", buffer, at + 3)
            payload = buffer[at + 9 : at + 9 + length]
            at += 9 + length
            event = self._event(kind, flags, stream, payload)
            if event is not None:
                found.append(event)
        self._rest = buffer[at:]
        return found

    def _event(self, kind: int, flags: int, stream: int, payload: bytes) -> Event | None:
        assert stream < 1 << 31, "the reserved bit is set"
        if not self.first_settings_seen:
            assert kind == SETTINGS, "the first frame is not SETTINGS"
            assert not flags & ACK, "the first SETTINGS are an acknowledgement"
            self.first_settings_seen = True
        assert not self._block or (kind == CONTINUATION and stream == self._block_stream), "block interrupted"
        if kind in (HEADERS, CONTINUATION):
            assert stream != 0
            assert not flags & (PADDED | PRIORITY_FLAG)
            return self._headers(kind, flags, stream, payload)
        if kind == DATA:
            assert stream != 0
            assert not flags & PADDED
            return Data(stream, payload, bool(flags & END_STREAM))
        if kind == RST_STREAM:
            assert stream != 0
            return Reset(stream, struct.unpack(">I", payload)[0])
        if kind == WINDOW_UPDATE:
            (increment,) = struct.unpack(">I", payload)
            assert 0 < increment < 1 << 31, "an illegal increment"
            return Window(stream, increment)
        assert stream == 0
        if kind == SETTINGS:
            values = dict(struct.iter_unpack(">HI", payload))
            assert not (flags & ACK and values)
            return Settings(values, bool(flags & ACK))
        if kind == PING:
            assert len(payload) == 8
            return Ping(payload, bool(flags & ACK))
        assert kind == GOAWAY, f"a frame of type {kind}"
        last, code = struct.unpack(">II", payload[:8])
        return Goaway(last, code, payload[8:])

    def _headers(self, kind: int, flags: int, stream: int, payload: bytes) -> Headers | None:
        if kind == HEADERS:
            self._block_stream = stream
            self._block_flags = flags
        else:
            assert self._block, "CONTINUATION without HEADERS"
        self._block.append(payload)
        if not flags & END_HEADERS:
            return None
        block = b"".join(self._block)
        self._block = []
        self.blocks.append(block)
        return Headers(stream, self.decode(block), bool(self._block_flags & END_STREAM))

    def decode(self, block: bytes) -> tuple[tuple[str, str], ...]:
        if self.decoder.header_table_size == 0:
            return _without_table(block)
        decoded = self.decoder.decode(block, raw=True)
        assert not self.decoder.header_table.dynamic_entries, "the engine's blocks carry state"
        return as_text(list(decoded))


@functools.lru_cache(maxsize=1024)
def _without_table(block: bytes) -> tuple[tuple[str, str], ...]:
    """A block on a connection whose table is empty: it means the same each time, so it is decoded once."""
    decoder = hpack.Decoder(max_header_list_size=1 << 22)
    decoder.header_table_size = decoder.max_allowed_table_size = 0
    return as_text(list(decoder.decode(block, raw=True)))


# --- parties ---------------------------------------------------------------------------------------


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
                assert self.bugs_expected or not engine.errors.total, "\n".join(self.bugs)
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
            # DataPlane.close: the rest is flushed unless the connection is gone; then `lost`, once.
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
