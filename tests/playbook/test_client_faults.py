"""A client that breaks each rule a client can break, RFC 9113 section by section.

h2spec covers much of this from outside (`make interop`); here every case also holds that the backend is told
CANCEL, that the rest of the connection goes on if only a stream was at fault, and that another client's stream on
the same backend connection never notices.
"""

# ruff: noqa: E501 - the tables' rows are one line each
from __future__ import annotations

import struct
from typing import NamedTuple

import pytest
from rawhttp2 import (
    ACK,
    CANCEL,
    COMPRESSION_ERROR,
    CONTINUATION,
    DATA,
    ENABLE_PUSH,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_FRAME_SIZE,
    NO_ERROR,
    OK,
    PADDED,
    PING,
    POST,
    PREFACE,
    PRIORITY,
    PRIORITY_FLAG,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    SETTINGS_TIMEOUT,
    STREAM_CLOSED,
    TRAILERS,
    WINDOW_UPDATE,
    Data,
    Goaway,
    Reset,
    data,
    frame,
    goaway,
    headers,
    literal,
    ping,
    request,
    response,
    rst,
    settings,
    string,
    window,
)
from transcript import World, ready

CONNECTION, STREAM = "connection", "stream"
# Where the stream at fault stands: its request open, ended, or the whole stream over; or not opened yet.
OPEN, HALF_CLOSED, CLOSED, IDLE = "open", "half-closed", "closed", "idle"

VICTIM, SIBLING, NEXT = 1, 3, 5  # the client's numbers; the backend's are the same
THEIRS = 5  # the backend's number of the other client's stream


class Fault(NamedTuple):
    section: str
    what: str
    octets: bytes
    scope: str
    code: int
    state: str = OPEN


def on_connection(section: str, what: str, octets: bytes, code: int, state: str = OPEN) -> Fault:
    return Fault(section, what, octets, CONNECTION, code, state)


def on_stream(section: str, what: str, octets: bytes, code: int, state: str = OPEN) -> Fault:
    return Fault(section, what, octets, STREAM, code, state)


def opening(*fields: tuple[str, str], without: str = "", end: bool = True) -> bytes:
    """HEADERS of a new stream: POST with these fields, less one."""
    return headers(NEXT, (*[f for f in POST if f[0] != without], *fields), end)


BLOCK = literal(POST)
SUM = (("sum", "1"),)

FRAMING = [
    on_connection("4.2", "DATA over MAX_FRAME_SIZE", frame(DATA, 0, VICTIM, bytes(16385)), FRAME_SIZE_ERROR),
    on_connection("4.2", "an unknown frame over MAX_FRAME_SIZE", frame(0x77, 0, 0, bytes(16385)), FRAME_SIZE_ERROR),
    on_connection("4.3", "index 0", headers(NEXT, b"\x80"), COMPRESSION_ERROR, IDLE),
    on_connection("4.3", "index 0 in trailers", headers(VICTIM, b"\x80", True), COMPRESSION_ERROR),
    on_connection("4.3", "index 0 on a closed stream", headers(VICTIM, b"\x80", True), COMPRESSION_ERROR, CLOSED),
    on_connection("4.3", "a size update after a field", headers(NEXT, b"\x83\x20"), COMPRESSION_ERROR, IDLE),
    on_connection("4.3", "a table larger than any", headers(NEXT, b"\x3f\xe2\x1f" + BLOCK), COMPRESSION_ERROR, IDLE),
    on_connection("4.3", "a table of 1 where 0 was agreed", headers(NEXT, b"\x21" + BLOCK), COMPRESSION_ERROR, IDLE),
    on_connection("4.3", "three size updates", headers(NEXT, b"\x20\x20\x20" + BLOCK), COMPRESSION_ERROR, IDLE),
]  # fmt: skip

STATES = [
    on_connection("5.1", "idle: DATA", data(NEXT, b"x"), PROTOCOL_ERROR, IDLE),
    on_connection("5.1", "idle: RST_STREAM", rst(NEXT), PROTOCOL_ERROR, IDLE),
    on_connection("5.1", "idle: WINDOW_UPDATE", window(NEXT, 1), PROTOCOL_ERROR, IDLE),
    on_connection("5.1", "idle, a server's number: DATA", data(2, b"x"), PROTOCOL_ERROR, IDLE),
    on_connection("5.1", "idle, a server's number: RST_STREAM", rst(2), PROTOCOL_ERROR, IDLE),
    on_connection("5.1", "idle, a server's number: WINDOW_UPDATE", window(2, 1), PROTOCOL_ERROR, IDLE),
    on_stream("5.1", "half-closed: DATA", data(VICTIM, b"x"), STREAM_CLOSED, HALF_CLOSED),
    on_stream("5.1", "half-closed: empty DATA", data(VICTIM, b""), STREAM_CLOSED, HALF_CLOSED),
    on_stream("5.1", "half-closed: END_STREAM again", data(VICTIM, b"", True), STREAM_CLOSED, HALF_CLOSED),
    on_stream("5.1", "half-closed: trailers", headers(VICTIM, SUM, True), STREAM_CLOSED, HALF_CLOSED),
    on_connection("5.1", "closed: HEADERS", headers(VICTIM, SUM, True), STREAM_CLOSED, CLOSED),
    on_connection("5.1", "closed: the same number again", headers(VICTIM, POST, True), STREAM_CLOSED, CLOSED),
    on_connection("5.1.1", "an even number", headers(2, POST, True), PROTOCOL_ERROR, IDLE),
    on_connection("5.1.1", "a number below the highest, never used", headers(9, POST, True) + headers(7, POST, True), STREAM_CLOSED, IDLE),
    on_connection("5.5", "an extension frame inside a block", frame(HEADERS, END_STREAM, NEXT, BLOCK) + frame(0x77, 0, 0), PROTOCOL_ERROR, IDLE),
]  # fmt: skip

FRAMES = [
    on_connection("6.1", "DATA on stream 0", data(0, b"x"), PROTOCOL_ERROR),
    on_connection("6.1", "padding as long as the payload", frame(DATA, PADDED, VICTIM, b"\3ab"), PROTOCOL_ERROR),
    on_connection("6.1", "no pad length", frame(DATA, PADDED, VICTIM), FRAME_SIZE_ERROR),
    on_connection("6.2", "HEADERS on stream 0", headers(0, POST), PROTOCOL_ERROR),
    on_connection("6.2", "padding longer than the payload", frame(HEADERS, PADDED | END_HEADERS, NEXT, b"\xff" + BLOCK), PROTOCOL_ERROR, IDLE),
    on_connection("6.2", "half a priority", frame(HEADERS, PRIORITY_FLAG | END_HEADERS, NEXT, b"\0\0\0\0"), FRAME_SIZE_ERROR, IDLE),
    on_connection("6.3", "PRIORITY on stream 0", frame(PRIORITY, 0, 0, bytes(5)), PROTOCOL_ERROR),
    on_stream("6.3", "PRIORITY of 4 octets", frame(PRIORITY, 0, VICTIM, bytes(4)), FRAME_SIZE_ERROR),
    on_connection("6.3", "PRIORITY of 4 octets on a server's number", frame(PRIORITY, 0, 2, bytes(4)), FRAME_SIZE_ERROR),
    on_connection("6.4", "RST_STREAM on stream 0", rst(0), PROTOCOL_ERROR),
    on_connection("6.4", "RST_STREAM of 3 octets", frame(RST_STREAM, 0, VICTIM, bytes(3)), FRAME_SIZE_ERROR),
    on_connection("6.5", "SETTINGS on a stream", frame(SETTINGS, 0, VICTIM), PROTOCOL_ERROR),
    on_connection("6.5", "SETTINGS of 5 octets", frame(SETTINGS, 0, 0, bytes(5)), FRAME_SIZE_ERROR),
    on_connection("6.5", "an acknowledgement with settings", frame(SETTINGS, ACK, 0, bytes(6)), FRAME_SIZE_ERROR),
    on_connection("6.5.2", "ENABLE_PUSH 2", settings({ENABLE_PUSH: 2}), PROTOCOL_ERROR),
    on_connection("6.5.2", "INITIAL_WINDOW_SIZE of 2^31", settings({INITIAL_WINDOW_SIZE: 2**31}), FLOW_CONTROL_ERROR),
    on_connection("6.5.2", "MAX_FRAME_SIZE of 16383", settings({MAX_FRAME_SIZE: 16383}), PROTOCOL_ERROR),
    on_connection("6.5.2", "MAX_FRAME_SIZE of 2^24", settings({MAX_FRAME_SIZE: 2**24}), PROTOCOL_ERROR),
    on_connection("6.6", "PUSH_PROMISE from a client", frame(PUSH_PROMISE, END_HEADERS, VICTIM, b"\0\0\0\2" + BLOCK), PROTOCOL_ERROR),
    on_connection("6.7", "PING on a stream", frame(PING, 0, VICTIM, bytes(8)), PROTOCOL_ERROR),
    on_connection("6.7", "PING of 7 octets", frame(PING, 0, 0, bytes(7)), FRAME_SIZE_ERROR),
    on_connection("6.8", "GOAWAY on a stream", frame(GOAWAY, 0, VICTIM, bytes(8)), PROTOCOL_ERROR),
    on_connection("6.8", "GOAWAY of 7 octets", frame(GOAWAY, 0, 0, bytes(7)), FRAME_SIZE_ERROR),
    on_connection("6.9", "WINDOW_UPDATE of 3 octets", frame(WINDOW_UPDATE, 0, VICTIM, bytes(3)), FRAME_SIZE_ERROR),
    on_stream("6.9", "WINDOW_UPDATE of 0", window(VICTIM, 0), PROTOCOL_ERROR),
    on_stream("6.9", "WINDOW_UPDATE of 0, half-closed", window(VICTIM, 0), PROTOCOL_ERROR, HALF_CLOSED),
    on_connection("6.9", "WINDOW_UPDATE of 0 on the connection", window(0, 0), PROTOCOL_ERROR),
    on_stream("6.9.1", "a stream's window over 2^31-1", window(VICTIM, 2**31 - 1), FLOW_CONTROL_ERROR),
    on_connection("6.9.1", "the connection's window over 2^31-1", window(0, 2**31 - 1), FLOW_CONTROL_ERROR),
    on_stream("6.9.1", "DATA beyond the stream's window", data(VICTIM, bytes(65536)), FLOW_CONTROL_ERROR),
    on_connection("6.10", "CONTINUATION without HEADERS", frame(CONTINUATION, END_HEADERS, VICTIM), PROTOCOL_ERROR),
    on_connection("6.10", "CONTINUATION on another stream", frame(HEADERS, 0, NEXT, BLOCK) + frame(CONTINUATION, END_HEADERS, 7), PROTOCOL_ERROR, IDLE),
    on_connection("6.10", "DATA of another stream inside a block", frame(HEADERS, 0, NEXT, BLOCK) + data(VICTIM, b"x"), PROTOCOL_ERROR, IDLE),
]  # fmt: skip

MESSAGES = [
    on_stream("8.1", "trailers without END_STREAM", headers(VICTIM, SUM), PROTOCOL_ERROR),
    on_stream("8.1", "trailers with a pseudo-header", headers(VICTIM, (*SUM, (":path", "/")), True), PROTOCOL_ERROR),
    on_stream("8.1", "a second request on the stream", headers(VICTIM, POST, True), PROTOCOL_ERROR),
    on_stream("8.1.1", "more DATA than content-length", opening(("content-length", "3"), end=False) + data(NEXT, b"four"), PROTOCOL_ERROR, IDLE),
    on_stream("8.1.1", "less DATA than content-length", opening(("content-length", "5"), end=False) + data(NEXT, b"four", True), PROTOCOL_ERROR, IDLE),
    on_stream("8.1.1", "trailers before content-length is reached", opening(("content-length", "5"), end=False) + headers(NEXT, SUM, True), PROTOCOL_ERROR, IDLE),
    on_stream("8.1.1", "content-length without a body", opening(("content-length", "5")), PROTOCOL_ERROR, IDLE),
    on_stream("8.1.1", "content-length twice and different", opening(("content-length", "0"), ("content-length", "1")), PROTOCOL_ERROR, IDLE),
    on_stream("8.2.1", "an uppercase name", opening(("Upper", "x")), PROTOCOL_ERROR, IDLE),
    on_stream("8.2.1", "a line break in a value", opening(("name", "a\r\nb: c")), PROTOCOL_ERROR, IDLE),
    on_stream("8.2.1", "NUL in a value", opening(("name", "a\0b")), PROTOCOL_ERROR, IDLE),
    on_stream("8.2.1", "an uppercase name in trailers", headers(VICTIM, (("Upper", "x"),), True), PROTOCOL_ERROR),
    on_stream("8.2.2", "connection", opening(("connection", "keep-alive")), PROTOCOL_ERROR, IDLE),
    on_stream("8.2.2", "transfer-encoding", opening(("transfer-encoding", "chunked")), PROTOCOL_ERROR, IDLE),
    on_stream("8.2.2", "te: gzip", opening(("te", "gzip"), without="te"), PROTOCOL_ERROR, IDLE),
    on_stream("8.2.2", "connection in trailers", headers(VICTIM, (("connection", "close"),), True), PROTOCOL_ERROR),
    on_stream("8.3", ":status in a request", opening((":status", "200")), PROTOCOL_ERROR, IDLE),
    on_stream("8.3", "an unknown pseudo-header", opening((":extra", "1")), PROTOCOL_ERROR, IDLE),
    on_stream("8.3", "a pseudo-header after a field", opening((":path", "/"), without=":path"), PROTOCOL_ERROR, IDLE),
    *[on_stream("8.3.1", f"no {name}", opening(without=name), PROTOCOL_ERROR, IDLE) for name in (":method", ":scheme", ":path")],
    *[on_stream("8.3.1", f"{name} twice", headers(NEXT, ((name, value), *POST), True), PROTOCOL_ERROR, IDLE) for name, value in POST[:4]],
    on_stream("8.3.1", "an empty :path", headers(NEXT, ((":path", ""), *[f for f in POST if f[0] != ":path"]), True), PROTOCOL_ERROR, IDLE),
    on_stream("8.3.1", ":path without a slash", headers(NEXT, ((":path", "x"), *[f for f in POST if f[0] != ":path"]), True), PROTOCOL_ERROR, IDLE),
    *[on_stream("8.3.1", f"{name} {value!r}", headers(NEXT, ((name, value), *[f for f in POST if f[0] != name]), True), PROTOCOL_ERROR, IDLE)
      for name, value in ((":method", "GET /x HTTP/1.1"), (":method", "a/b"), (":method", "M\xc9TODE"), (":scheme", "http://x/"), (":scheme", "h ttp"),
                          (":path", "/a b"), (":path", "/a\tb"), (":path", "/a HTTP/1.1"))],
    on_stream("8.5", "CONNECT with a path", headers(NEXT, ((":method", "CONNECT"), (":path", "/"), (":authority", "x")), True), PROTOCOL_ERROR, IDLE),
]  # fmt: skip

FLOODS = [
    on_connection("10.5", "a block that never ends", frame(HEADERS, 0, NEXT, BLOCK) + frame(CONTINUATION, 0, NEXT, bytes(16384)) * 8, ENHANCE_YOUR_CALM, IDLE),
    on_connection("10.5", "empty CONTINUATIONs", frame(HEADERS, 0, NEXT, BLOCK) + frame(CONTINUATION, 0, NEXT) * 100, ENHANCE_YOUR_CALM, IDLE),
    on_connection("10.5.1", "a header list beyond the limit", headers(NEXT, b"\x40\x01a" + string(bytes(3000)) + b"\xbe" * 50), ENHANCE_YOUR_CALM, IDLE),
]  # fmt: skip

FAULTS = FRAMING + STATES + FRAMES + MESSAGES + FLOODS


class Scene:
    """One backend connection with two streams of the client at fault and one of another client."""

    def __init__(self, state: str) -> None:
        self.world = ready(1)
        # It does not acknowledge our SETTINGS, so that it may still use a table.
        self.client = self.world.client()
        self.state = state
        self.client.sends(headers(VICTIM, POST, end=state == HALF_CLOSED), headers(SIBLING, POST, end=True))
        self.other = self.world.client()
        self.other.opens()
        self.backend = self.world.backend(1)
        assert self.backend.streams_open() == [VICTIM, SIBLING, THEIRS]
        if state == CLOSED:
            self.client.sends(data(VICTIM, b"", end=True))
            self.backend.answers(VICTIM)
        self.client.take()
        self.backend.take()

    def check_other(self) -> None:
        self.other.sends(data(1, b"request", end=True))
        assert [e for e in self.backend.take() if isinstance(e, Data)] == [Data(THEIRS, b"request", True)]
        self.backend.answers(THEIRS)
        self.other.receives(response(1, OK), Data(1, b"response"), response(1, TRAILERS, True))
        self.backend.still_works()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f"{f.section} {f.what}")
def test_a_client_breaks(fault: Fault) -> None:
    scene = Scene(fault.state)
    scene.client.sends(fault.octets)
    resets = [e for e in scene.backend.take() if isinstance(e, Reset)]
    if fault.scope == CONNECTION:
        scene.client.is_told(fault.code)
        given_up = {SIBLING} if fault.state == CLOSED else {VICTIM, SIBLING}
        assert given_up <= {e.stream for e in resets}
    else:
        at_fault = NEXT if fault.state == IDLE else VICTIM
        assert [e for e in scene.client.take() if not isinstance(e, Goaway)] == [Reset(at_fault, fault.code)]
        # A request that was malformed from the start never reached the backend.
        assert [e.stream for e in resets] in ([VICTIM], [] if fault.state == IDLE else [VICTIM], [7])
        scene.client.sends(data(at_fault, b"late"), window(at_fault, 1), rst(at_fault))
        scene.client.still_works()
        scene.backend.answers(SIBLING)
        assert scene.client.outcome(SIBLING) == ("0", "")
        scene.client.take()
        if fault.state == IDLE:
            scene.client.sends(data(VICTIM, b"", end=True))
            scene.backend.receives(Data(VICTIM, b"", True))
            scene.backend.answers(VICTIM)
    assert all(e.code == CANCEL for e in resets)
    scene.check_other()
    scene.world.nothing_is_left()


@pytest.mark.parametrize(
    ("what", "octets", "code"),
    [
        ("no preface", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", PROTOCOL_ERROR),
        ("half a preface", PREFACE[:20] + b"XXXX", PROTOCOL_ERROR),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(20), PROTOCOL_ERROR),
        ("PING first", PREFACE + ping(), PROTOCOL_ERROR),
        ("an acknowledgement first", PREFACE + settings(ack=True), PROTOCOL_ERROR),
        ("HEADERS first", PREFACE + headers(1, POST, True), PROTOCOL_ERROR),
        ("DATA first", PREFACE + data(1, b"x"), PROTOCOL_ERROR),
        ("the preface twice", PREFACE + PREFACE, FRAME_SIZE_ERROR),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_a_client_that_does_not_begin_with_preface_and_settings(what: str, octets: bytes, code: int) -> None:
    """Section 3.4."""
    world = ready(1)
    client = world.raw_client()
    client.sends(octets)
    client.is_told(code, last=0)
    world.nothing_is_left()


@pytest.mark.parametrize("said", [b"", PREFACE[:10], PREFACE, PREFACE + settings()[:5]])
def test_a_client_that_says_nothing_is_not_waited_for(said: bytes) -> None:
    world = ready(1)
    client = world.raw_client()
    client.sends(said)
    world.advance(9.9)
    assert not client.closed
    world.advance(0.2)
    client.is_told(SETTINGS_TIMEOUT)


def test_the_goaway_of_a_fault_names_the_last_stream_that_was_taken() -> None:
    """Section 6.8: what is above it was not begun and may be sent again."""
    world = ready(1)
    client = world.client()
    client.sends(headers(1, POST, True), headers(5, POST, True), data(0, b"x"), headers(7, POST, True))
    client.is_told(PROTOCOL_ERROR, last=5)


def test_after_its_goaway_a_clients_streams_go_on() -> None:
    """Section 6.8: it says that it takes no pushes any more; what it opened goes on, up and down."""
    world = ready(1)
    client = world.client()
    client.sends(headers(1, POST), goaway(0))
    backend = world.backend(1)
    client.sends(data(1, b"more"), window(1, 1000), data(1, b"", end=True))
    backend.answers(1)
    assert client.outcome(1) == ("0", "")
    assert client.closed
    world.nothing_is_left()


def test_after_its_goaway_a_clients_new_stream_is_served_while_the_connection_stands() -> None:
    """It may not (section 6.8 speaks of the receiver); it harms nobody, and is not worth a fault."""
    world = ready(1)
    client = world.client()
    client.sends(headers(1, POST), goaway(0), headers(3, POST, end=True))
    backend = world.backend(1)
    backend.answers(3)
    assert client.outcome(3) == ("0", "")


def test_streams_opened_after_our_last_goaway_are_refused_but_not_without_end() -> None:
    world = ready(1)
    client = world.client()
    client.opens()
    world.engine.drain(world.now)
    world.settle()
    world.advance(1.5)
    client.take()
    for stream in range(3, 3003, 2):
        client.sends(headers(stream, POST, end=True))
        if client.closed:
            break
    found = client.take()
    assert found[0] == Reset(3, REFUSED_STREAM)
    assert isinstance(found[-1], Goaway)
    assert found[-1].code == ENHANCE_YOUR_CALM
    assert len(found) < 1200


def test_window_updates_while_half_closed_count() -> None:
    """Section 5.1: a client that has ended its request still grants credit for the response."""
    world = ready(1)
    client = world.client({INITIAL_WINDOW_SIZE: 0})
    client.calls()
    backend = world.backend(1)
    backend.sends(headers(1, OK), data(1, b"hello"), headers(1, TRAILERS, end=True))
    client.receives(response(1, OK))
    client.sends(window(1, 5))
    client.receives(Data(1, b"hello"), response(1, TRAILERS, True))


def test_priority_may_come_at_any_time() -> None:
    """Sections 5.1 and 6.3: idle, open, half-closed and closed."""
    world = ready(1)
    client = world.client()
    priority = [frame(PRIORITY, 0, stream, struct.pack(">IB", 0, 15)) for stream in (1, 2, 99)]
    client.sends(*priority)
    client.calls()
    client.sends(*priority)
    world.backend(1).answers(1)
    client.sends(*priority)
    assert client.outcome(1) == ("0", "")
    client.still_works()


def test_request_trailers_after_the_answer() -> None:
    """A backend may answer before the request has ended; what follows is still passed on."""
    world = ready(1)
    client = world.client()
    client.sends(headers(1, POST))
    backend = world.backend(1)
    backend.take()
    backend.sends(headers(1, (*OK, *TRAILERS), end=True))
    client.sends(data(1, b"late"), headers(1, SUM, end=True))
    backend.receives(Data(1, b"late"), request(1, SUM, True))
    world.nothing_is_left()


def test_malformed_trailers_after_the_answer_reset_the_request_only() -> None:
    world = ready(1)
    client = world.client()
    client.sends(headers(1, POST))
    backend = world.backend(1)
    backend.take()
    backend.sends(headers(1, (*OK, *TRAILERS), end=True))
    client.receives(response(1, (*OK, *TRAILERS), True))
    client.sends(headers(1, (("Bad", "x"),), end=True))
    client.receives(Reset(1, PROTOCOL_ERROR))
    backend.receives(Reset(1, CANCEL))
    client.still_works()
    world.nothing_is_left()


def test_frames_that_cross_our_reset_are_no_fault() -> None:
    """Section 5.1, closed: everything that was on its way when RST_STREAM left is ignored, but not unread: header
    blocks feed the decoder and DATA counts for the connection's window."""
    world = ready(1)
    client = world.client()
    client.sends(headers(1, POST), data(1, b"x"))
    backend = world.backend(1)
    backend.sends(rst(1, NO_ERROR))
    client.receives(Reset(1, NO_ERROR))
    client.sends(data(1, bytes(1000)), headers(1, SUM, end=True), window(1, 5), rst(1))
    client.still_works()
    for _ in range(600):
        client.sends(data(1, bytes(16384)))
    client.still_works()
    assert client.connection_granted() > 8 << 20


def test_every_fault_is_counted_by_its_code() -> None:
    world = World()
    for _ in range(3):
        world.client().sends(data(0, b"x"))
    assert world.engine.totals.downstream_errors == {PROTOCOL_ERROR: 3}
