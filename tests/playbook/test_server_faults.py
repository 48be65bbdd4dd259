"""A backend that breaks each rule a server can break, RFC 9113 section by section.

The fault ends that stream or that connection with the code the RFC names. Its gRPC callers are answered
UNAVAILABLE with a message that names endpoint and cause; every other stream goes on: those of the same
connection if only a stream was at fault, those of other endpoints, and those of other clients.
"""

# ruff: noqa: E501 - the tables' rows are one line each
from __future__ import annotations

import struct
from typing import NamedTuple

import pytest
from rawhttp2 import (
    ACK,
    COMPRESSION_ERROR,
    CONTINUATION,
    DATA,
    ENABLE_PUSH,
    END_HEADERS,
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
    PRIORITY,
    PRIORITY_FLAG,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    TRAILERS,
    WINDOW_UPDATE,
    Data,
    Headers,
    Reset,
    data,
    frame,
    goaway,
    headers,
    literal,
    ping,
    response,
    rst,
    settings,
    string,
    window,
)
from transcript import MUTE, Client, World, host_name, ready

UNAVAILABLE = "14"
CONNECTION, STREAM = "connection", "stream"
# What the backend has said on the stream before it goes wrong.
SENT, BEGUN, ENDED = "sent", "begun", "ended"

VICTIM, SIBLING = 1, 3  # the backend's numbers: the stream that is broken, and one beside it


class Fault(NamedTuple):
    section: str
    what: str
    octets: bytes
    scope: str
    code: int
    before: str = SENT
    cause: str = ""  # in the caller's grpc-message


def on_connection(
    section: str, what: str, octets: bytes, code: int, cause: str = "", before: str = SENT
) -> Fault:
    return Fault(section, what, octets, CONNECTION, code, before, cause)


def on_stream(
    section: str, what: str, octets: bytes, code: int, cause: str = "", before: str = SENT
) -> Fault:
    return Fault(section, what, octets, STREAM, code, before, cause)


def answer(*fields: tuple[str, str], status: str = "200") -> bytes:
    return headers(VICTIM, ((":status", status), *fields))


def padded(kind: int, stream: int, pad: int, body: bytes) -> bytes:
    """A frame that claims `pad` octets of padding, whatever it holds."""
    flags = PADDED | (END_HEADERS if kind == HEADERS else 0)
    return frame(kind, flags, stream, bytes([pad]) + body)


BLOCK = literal(OK)
TOO_LONG = bytes(16385)

FRAMING = [
    on_connection("4.2", "DATA over MAX_FRAME_SIZE", frame(DATA, 0, VICTIM, TOO_LONG), FRAME_SIZE_ERROR, "16385"),
    on_connection("4.2", "HEADERS over MAX_FRAME_SIZE", frame(HEADERS, END_HEADERS, VICTIM, TOO_LONG), FRAME_SIZE_ERROR),
    on_connection("4.2", "SETTINGS over MAX_FRAME_SIZE", frame(SETTINGS, 0, 0, bytes(16386)), FRAME_SIZE_ERROR),
    on_connection("4.2", "an unknown frame over MAX_FRAME_SIZE", frame(0x77, 0, 0, TOO_LONG), FRAME_SIZE_ERROR),
    on_connection("4.3", "index 0", headers(VICTIM, b"\x80"), COMPRESSION_ERROR, "index 0"),
    on_connection("4.3", "an index into an empty table", headers(VICTIM, b"\x20\xbe"), COMPRESSION_ERROR, "dynamic table"),
    on_connection("4.3", "an index beyond the table", headers(VICTIM, b"\xff\xff\x7f"), COMPRESSION_ERROR),
    on_connection("4.3", "a string longer than its block", headers(VICTIM, b"\x08\x03\x32"), COMPRESSION_ERROR),
    on_connection("4.3", "a block that ends inside an integer", headers(VICTIM, b"\x00\x7f\x80"), COMPRESSION_ERROR),
    on_connection("4.3", "an integer too large", headers(VICTIM, b"\x00\x7f" + b"\xff" * 8 + b"\x01"), COMPRESSION_ERROR),
    on_connection("4.3", "Huffman padding of zeros", headers(VICTIM, b"\x08\x82\x10\x00"), COMPRESSION_ERROR, "Huffman"),
    on_connection("4.3", "a size update after a field", headers(VICTIM, b"\x88\x20"), COMPRESSION_ERROR, "size update"),
    on_connection("4.3", "a table larger than agreed", headers(VICTIM, b"\x3f\xe1\x7f\x88"), COMPRESSION_ERROR),
    on_connection("4.3", "broken trailers", headers(VICTIM, b"\x80", end=True), COMPRESSION_ERROR, "index 0", BEGUN),
]  # fmt: skip

STATES = [
    on_connection("5.1", "idle: DATA", data(99, b"x"), PROTOCOL_ERROR, "idle"),
    on_connection("5.1", "idle: HEADERS", headers(99, OK), PROTOCOL_ERROR, "not opened"),
    on_connection("5.1", "idle: RST_STREAM", rst(99), PROTOCOL_ERROR, "idle"),
    on_connection("5.1", "idle: WINDOW_UPDATE", window(99, 1), PROTOCOL_ERROR, "idle"),
    on_stream("5.1", "half-closed (remote): DATA", data(VICTIM, b"x"), STREAM_CLOSED, before=ENDED),
    on_stream("5.1", "half-closed (remote): empty DATA", data(VICTIM, b""), STREAM_CLOSED, before=ENDED),
    on_stream("5.1", "half-closed (remote): HEADERS", headers(VICTIM, TRAILERS, True), STREAM_CLOSED, before=ENDED),
    on_connection("5.1.1", "a response on an even stream", headers(2, OK), PROTOCOL_ERROR),
    on_connection("5.1.1", "DATA on an even stream", data(2, b"x"), PROTOCOL_ERROR),
    on_connection("5.5", "an extension frame inside a block", frame(HEADERS, 0, VICTIM, BLOCK) + frame(0x77, 0, 0), PROTOCOL_ERROR, "interrupted"),
]  # fmt: skip

FRAMES = [
    on_connection("6.1", "DATA on stream 0", data(0, b"x"), PROTOCOL_ERROR, "stream 0"),
    on_connection("6.1", "DATA with padding as long as its payload", padded(DATA, VICTIM, 3, b"ab"), PROTOCOL_ERROR, "padding", BEGUN),
    on_connection("6.1", "DATA with padding longer than its payload", padded(DATA, VICTIM, 200, b"abc"), PROTOCOL_ERROR, "padding", BEGUN),
    on_connection("6.1", "padded DATA without a pad length", frame(DATA, PADDED, VICTIM), FRAME_SIZE_ERROR, "padding", BEGUN),
    on_connection("6.2", "HEADERS on stream 0", headers(0, OK), PROTOCOL_ERROR, "stream 0"),
    on_connection("6.2", "HEADERS with padding longer than its payload", padded(HEADERS, VICTIM, 200, BLOCK), PROTOCOL_ERROR, "padding"),
    on_connection("6.2", "padded HEADERS without a pad length", frame(HEADERS, PADDED | END_HEADERS, VICTIM), FRAME_SIZE_ERROR, "padded"),
    on_connection("6.2", "HEADERS with half a priority", frame(HEADERS, PRIORITY_FLAG | END_HEADERS, VICTIM, b"\0\0\0"), FRAME_SIZE_ERROR),
    on_connection("6.3", "PRIORITY on stream 0", frame(PRIORITY, 0, 0, bytes(5)), PROTOCOL_ERROR, "stream 0"),
    on_stream("6.3", "PRIORITY of 4 octets", frame(PRIORITY, 0, VICTIM, bytes(4)), FRAME_SIZE_ERROR, "4 octets"),
    on_stream("6.3", "PRIORITY of 6 octets", frame(PRIORITY, 0, VICTIM, bytes(6)), FRAME_SIZE_ERROR, "6 octets"),
    on_connection("6.3", "PRIORITY of 4 octets on an idle stream", frame(PRIORITY, 0, 99, bytes(4)), FRAME_SIZE_ERROR),
    on_connection("6.4", "RST_STREAM on stream 0", rst(0), PROTOCOL_ERROR, "stream 0"),
    on_connection("6.4", "RST_STREAM on an idle stream", rst(2), PROTOCOL_ERROR, "idle"),
    on_connection("6.4", "RST_STREAM of 3 octets", frame(RST_STREAM, 0, VICTIM, bytes(3)), FRAME_SIZE_ERROR, "3 octets"),
    on_connection("6.4", "RST_STREAM of 5 octets", frame(RST_STREAM, 0, VICTIM, bytes(5)), FRAME_SIZE_ERROR, "5 octets"),
    on_connection("6.5", "SETTINGS on a stream", frame(SETTINGS, 0, VICTIM), PROTOCOL_ERROR, "SETTINGS on a stream"),
    on_connection("6.5", "SETTINGS of 7 octets", frame(SETTINGS, 0, 0, bytes(7)), FRAME_SIZE_ERROR, "7 octets"),
    on_connection("6.5", "an acknowledgement with settings", frame(SETTINGS, ACK, 0, bytes(6)), FRAME_SIZE_ERROR),
    on_connection("6.5.2", "ENABLE_PUSH 1 from a server", settings({ENABLE_PUSH: 1}), PROTOCOL_ERROR, "ENABLE_PUSH"),
    on_connection("6.5.2", "ENABLE_PUSH 2", settings({ENABLE_PUSH: 2}), PROTOCOL_ERROR, "ENABLE_PUSH"),
    on_connection("6.5.2", "INITIAL_WINDOW_SIZE of 2^31", settings({INITIAL_WINDOW_SIZE: 2**31}), FLOW_CONTROL_ERROR),
    on_connection("6.5.2", "MAX_FRAME_SIZE of 16383", settings({MAX_FRAME_SIZE: 16383}), PROTOCOL_ERROR, "MAX_FRAME_SIZE"),
    on_connection("6.5.2", "MAX_FRAME_SIZE of 2^24", settings({MAX_FRAME_SIZE: 2**24}), PROTOCOL_ERROR, "MAX_FRAME_SIZE"),
    on_connection("6.6", "PUSH_PROMISE on an open stream", frame(PUSH_PROMISE, END_HEADERS, VICTIM, b"\0\0\0\2" + literal(POST)), PROTOCOL_ERROR, "PUSH_PROMISE"),
    on_connection("6.6", "PUSH_PROMISE on stream 0", frame(PUSH_PROMISE, END_HEADERS, 0, b"\0\0\0\2" + literal(POST)), PROTOCOL_ERROR),
    on_connection("6.7", "PING on a stream", frame(PING, 0, VICTIM, bytes(8)), PROTOCOL_ERROR, "PING"),
    on_connection("6.7", "PING of 7 octets", frame(PING, 0, 0, bytes(7)), FRAME_SIZE_ERROR, "PING of 7 octets"),
    on_connection("6.7", "PING of 9 octets", frame(PING, 0, 0, bytes(9)), FRAME_SIZE_ERROR, "PING of 9 octets"),
    on_connection("6.8", "GOAWAY on a stream", frame(GOAWAY, 0, VICTIM, bytes(8)), PROTOCOL_ERROR, "GOAWAY"),
    on_connection("6.8", "GOAWAY of 7 octets", frame(GOAWAY, 0, 0, bytes(7)), FRAME_SIZE_ERROR, "GOAWAY of 7 octets"),
    on_connection("6.9", "WINDOW_UPDATE of 3 octets", frame(WINDOW_UPDATE, 0, VICTIM, bytes(3)), FRAME_SIZE_ERROR),
    on_connection("6.9", "WINDOW_UPDATE of 5 octets", frame(WINDOW_UPDATE, 0, 0, bytes(5)), FRAME_SIZE_ERROR),
    on_stream("6.9", "WINDOW_UPDATE of 0 on a stream", window(VICTIM, 0), PROTOCOL_ERROR, "WINDOW_UPDATE"),
    on_connection("6.9", "WINDOW_UPDATE of 0 on the connection", window(0, 0), PROTOCOL_ERROR, "WINDOW_UPDATE"),
    on_stream("6.9.1", "a stream's window over 2^31-1", window(VICTIM, 2**31 - 1), FLOW_CONTROL_ERROR, "window"),
    on_connection("6.9.1", "the connection's window over 2^31-1", window(0, 2**31 - 1), FLOW_CONTROL_ERROR, "window"),
    on_stream("6.9.1", "DATA beyond the stream's window", data(VICTIM, bytes(65536)), FLOW_CONTROL_ERROR, "window", BEGUN),
    on_connection("6.9.2", "all windows over 2^31-1 by SETTINGS", window(VICTIM, 2**31 - 1 - 65535) + settings({INITIAL_WINDOW_SIZE: 65536}), FLOW_CONTROL_ERROR, "window"),
    on_connection("6.10", "CONTINUATION without HEADERS", frame(CONTINUATION, END_HEADERS, VICTIM, BLOCK), PROTOCOL_ERROR, "CONTINUATION"),
    on_connection("6.10", "CONTINUATION after END_HEADERS", headers(VICTIM, OK) + frame(CONTINUATION, END_HEADERS, VICTIM, BLOCK), PROTOCOL_ERROR, "CONTINUATION"),
    on_connection("6.10", "CONTINUATION on stream 0", frame(HEADERS, 0, VICTIM, BLOCK) + frame(CONTINUATION, END_HEADERS, 0), PROTOCOL_ERROR, "interrupted"),
    on_connection("6.10", "CONTINUATION on another stream", frame(HEADERS, 0, VICTIM, BLOCK) + frame(CONTINUATION, END_HEADERS, SIBLING), PROTOCOL_ERROR, "interrupted"),
    on_connection("6.10", "DATA inside a block", frame(HEADERS, 0, VICTIM, BLOCK) + data(VICTIM, b"x"), PROTOCOL_ERROR, "interrupted"),
    on_connection("6.10", "PING inside a block", frame(HEADERS, 0, VICTIM, BLOCK) + ping(), PROTOCOL_ERROR, "interrupted"),
    on_connection("6.10", "a second HEADERS inside a block", frame(HEADERS, 0, VICTIM, BLOCK) + headers(SIBLING, OK), PROTOCOL_ERROR, "interrupted"),
]  # fmt: skip

MESSAGES = [
    on_stream("8.1", "DATA before the response's headers", data(VICTIM, b"x"), PROTOCOL_ERROR, "DATA before"),
    on_stream("8.1", "DATA after informational headers only", answer(status="103") + data(VICTIM, b"x"), PROTOCOL_ERROR, "DATA before"),
    on_stream("8.1", "an informational response that ends the stream", headers(VICTIM, ((":status", "103"),), end=True), PROTOCOL_ERROR, "103"),
    on_stream("8.1", "a second header block without END_STREAM", headers(VICTIM, TRAILERS), PROTOCOL_ERROR, "END_STREAM", BEGUN),
    on_stream("8.1", "a second response", headers(VICTIM, OK, end=True), PROTOCOL_ERROR, "pseudo-header", BEGUN),
    on_stream("8.1.1", "more DATA than content-length", answer(("content-length", "3")) + data(VICTIM, b"four"), PROTOCOL_ERROR, "content-length"),
    on_stream("8.1.1", "less DATA than content-length", answer(("content-length", "5")) + data(VICTIM, b"four", True), PROTOCOL_ERROR, "content-length"),
    on_stream("8.1.1", "trailers before content-length is reached", answer(("content-length", "5")) + headers(VICTIM, TRAILERS, True), PROTOCOL_ERROR, "content-length"),
    on_stream("8.1.1", "content-length twice and different", answer(("content-length", "1"), ("content-length", "2")), PROTOCOL_ERROR, "content-length"),
    on_stream("8.1.1", "content-length that is no number", answer(("content-length", "+1")), PROTOCOL_ERROR, "content-length"),
    *[on_stream("8.2.1", f"a name with {octet!r}", answer((f"a{octet}b", "x")), PROTOCOL_ERROR, "field name")
      for octet in ("\0", "\r", "\n", " ", "A", ":", "\x7f", "\x80", "\xff")],
    on_stream("8.2.1", "an empty name", answer(("", "x")), PROTOCOL_ERROR, "field name"),
    *[on_stream("8.2.1", f"a value with {octet!r}", answer(("name", f"a{octet}b")), PROTOCOL_ERROR, "field value")
      for octet in ("\0", "\r", "\n")],
    *[on_stream("8.2.1", f"a value {value!r}", answer(("name", value)), PROTOCOL_ERROR, "white space")
      for value in (" a", "a ", "\ta", "a\t")],
    on_stream("8.2.1", "an illegal octet in trailers", headers(VICTIM, (*TRAILERS, ("bad", "a\nb")), True), PROTOCOL_ERROR, "field value", BEGUN),
    *[on_stream("8.2.2", name, answer((name, value)), PROTOCOL_ERROR, name) for name, value in
      (("connection", "close"), ("proxy-connection", "close"), ("keep-alive", "1"), ("transfer-encoding", "chunked"), ("upgrade", "h2c"))],
    on_stream("8.3", "a request's pseudo-header", answer((":path", "/")), PROTOCOL_ERROR, "pseudo-header"),
    on_stream("8.3", "an unknown pseudo-header", answer((":extra", "1")), PROTOCOL_ERROR, "pseudo-header"),
    on_stream("8.3", "a pseudo-header after a field", headers(VICTIM, (("name", "x"), (":status", "200"))), PROTOCOL_ERROR, "pseudo-header"),
    on_stream("8.3", "a pseudo-header in trailers", headers(VICTIM, (*TRAILERS, (":status", "200")), True), PROTOCOL_ERROR, "pseudo-header", BEGUN),
    on_stream("8.3.2", "no :status", headers(VICTIM, (("name", "x"),)), PROTOCOL_ERROR, ":status"),
    on_stream("8.3.2", "an empty block", headers(VICTIM, b""), PROTOCOL_ERROR, ":status"),
    on_stream("8.3.2", ":status twice", answer((":status", "200")), PROTOCOL_ERROR, ":status"),
    *[on_stream("8.3.2", f":status {status!r}", answer(status=status), PROTOCOL_ERROR, ":status")
      for status in ("", "20", "2000", "abc", "+20", "099", "000")],
    on_connection("8.4", "a promised request", frame(PUSH_PROMISE, 0, VICTIM, b"\0\0\0\2"), PROTOCOL_ERROR, "PUSH_PROMISE"),
    on_stream("8.6", "101 Switching Protocols", answer(status="101"), PROTOCOL_ERROR, "101"),
]  # fmt: skip

FLOODS = [
    on_connection("10.5", "a block that never ends", frame(HEADERS, 0, VICTIM, BLOCK) + frame(CONTINUATION, 0, VICTIM, bytes(16384)) * 8, ENHANCE_YOUR_CALM, "header block"),
    on_connection("10.5", "empty CONTINUATIONs", frame(HEADERS, 0, VICTIM, BLOCK) + frame(CONTINUATION, 0, VICTIM) * 100, ENHANCE_YOUR_CALM, "header block"),
    on_connection("10.5.1", "a header list beyond the limit", headers(VICTIM, b"\x40\x01a" + string(bytes(3000)) + b"\xbe" * 50), ENHANCE_YOUR_CALM, "header list"),
    on_stream("10.5", "informational responses without end", answer(status="103") * 9, ENHANCE_YOUR_CALM, "informational"),
]  # fmt: skip

FAULTS = FRAMING + STATES + FRAMES + MESSAGES + FLOODS


class Scene:
    """Three backends and two clients. One connection of the first backend has VICTIM, SIBLING and a stream of
    another client; the second backend has a stream of the victim's client."""

    def __init__(self, request_ends: bool = True) -> None:
        self.world = ready(1)
        self.client = self.world.client()
        self.victim = self.client.opens(end=request_ends)
        self.sibling = self.client.opens(end=True)
        self.other_client = self.world.client()
        self.other_clients = self.other_client.opens(end=True)
        self.broken = self.world.backend(1)
        assert self.broken.streams_open() == [VICTIM, SIBLING, 5]
        self.world.endpoints(1, 2)
        self.elsewhere = self.client.opens(end=True)
        self.healthy = self.world.backend(2)
        assert self.healthy.streams_open() == [1]
        self.broken.take()
        self.healthy.take()

    def begin(self, before: str) -> None:
        if before == BEGUN:
            self.broken.sends(headers(VICTIM, OK))
            self.client.receives(response(self.victim, OK))
        elif before == ENDED:
            self.broken.sends(headers(VICTIM, (*OK, *TRAILERS), end=True))
            self.client.receives(response(self.victim, (*OK, *TRAILERS), True))

    def check_elsewhere(self) -> None:
        """Another endpoint's stream goes to its end, a new call finds an endpoint, and no client was harmed."""
        self.healthy.answers(1)
        finishes(self.client, self.elsewhere)
        assert not self.client.closed
        assert not self.other_client.closed
        self.world.advance(10.0)
        late = self.client.opens(end=True)
        for each in self.world.connections():
            if not each.closed:
                for stream in each.streams_open():
                    each.answers(stream)
        finishes(self.client, late)


def finishes(client: Client, stream: int) -> None:
    assert [e for e in client.take() if e.stream == stream] == [  # type: ignore[union-attr]
        response(stream, OK),
        Data(stream, b"response"),
        response(stream, TRAILERS, True),
    ]


def is_unavailable(event: object, cause: str, begun: bool) -> None:
    assert isinstance(event, Headers)
    assert event.end
    fields = dict(event.fields)
    assert (":status" not in fields) is begun, "trailers where headers have gone out, Trailers-Only where not"
    assert fields["grpc-status"] == UNAVAILABLE
    message = fields["grpc-message"]
    assert "10.0.0.1:50051" in message
    assert "greeter.default:50051" in message
    assert cause in message, message


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f"{f.section} {f.what}")
def test_a_server_breaks(fault: Fault) -> None:
    scene = Scene(request_ends=fault.before != ENDED)
    scene.begin(fault.before)
    scene.broken.sends(fault.octets)
    if fault.scope == CONNECTION:
        the_connection_ends(scene, fault)
    else:
        the_stream_ends(scene, fault)
    scene.check_elsewhere()
    if fault.before == ENDED:
        scene.client.sends(data(scene.victim, b"", end=True))
    scene.world.nothing_is_left()


def the_connection_ends(scene: Scene, fault: Fault) -> None:
    scene.broken.is_told(fault.code)
    begun = fault.before == BEGUN or fault.octets.startswith(headers(VICTIM, OK))
    mine = {e.stream: e for e in scene.client.take()}  # type: ignore[union-attr]
    assert mine.keys() == {scene.victim, scene.sibling}
    is_unavailable(mine[scene.victim], fault.cause, begun)
    is_unavailable(mine[scene.sibling], fault.cause, False)
    (theirs,) = scene.other_client.take()
    is_unavailable(theirs, fault.cause, False)


def the_stream_ends(scene: Scene, fault: Fault) -> None:
    assert [e for e in scene.broken.take() if not isinstance(e, Data)] == [Reset(VICTIM, fault.code)]
    found = scene.client.take()
    if fault.before == ENDED:
        assert found == [Reset(scene.victim, NO_ERROR)], (
            "it has its answer; the rest of its request is not wanted"
        )
    else:
        assert {e.stream for e in found} == {scene.victim}  # type: ignore[union-attr]
        begun = fault.before == BEGUN or any(
            isinstance(e, Headers) and dict(e.fields).get(":status") == "200" for e in found[:-1]
        )
        is_unavailable(found[-1], fault.cause, begun)
    scene.broken.still_works()
    # What was on its way when the reset crossed it is no fault.
    if fault.before != ENDED:
        scene.broken.sends(
            data(VICTIM, b"late"), headers(VICTIM, TRAILERS, end=True), window(VICTIM, 1), rst(VICTIM)
        )
        scene.broken.still_works()
    scene.broken.answers(SIBLING)
    finishes(scene.client, scene.sibling)
    scene.broken.answers(5)
    finishes(scene.other_client, scene.other_clients)


# --- before SETTINGS -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "octets", "code", "cause"),
    [
        ("PING", ping(), PROTOCOL_ERROR, "first frame is not SETTINGS"),
        ("an acknowledgement", settings(ack=True), PROTOCOL_ERROR, "first frame is not SETTINGS"),
        ("WINDOW_UPDATE", window(0, 1), PROTOCOL_ERROR, "first frame is not SETTINGS"),
        ("GOAWAY", goaway(0), PROTOCOL_ERROR, "first frame is not SETTINGS"),
        ("HEADERS", headers(1, OK), PROTOCOL_ERROR, "first frame is not SETTINGS"),
        ("DATA", data(1, b"x"), PROTOCOL_ERROR, "first frame is not SETTINGS"),
        ("an unknown frame", frame(0x77, 0, 0), PROTOCOL_ERROR, "first frame is not SETTINGS"),
        ("SETTINGS of 5 octets", frame(SETTINGS, 0, 0, bytes(5)), FRAME_SIZE_ERROR, "SETTINGS of 5 octets"),
        ("HTTP/1.1", b"HTTP/1.1 400 Bad Request\r\n\r\n", PROTOCOL_ERROR, "speaks HTTP/1, not HTTP/2"),
        ("TLS", b"\x15\x03\x01\x00\x02\x02\x46" + bytes(9), FRAME_SIZE_ERROR, "octets"),
        ("a greeting", b"220 mail.example.com ESMTP ready\r\n", FRAME_SIZE_ERROR, "octets"),
    ],
    ids=lambda v: v if isinstance(v, str) and len(v) < 40 else "",
)
def test_a_server_that_does_not_begin_with_settings(what: str, octets: bytes, code: int, cause: str) -> None:
    """Section 3.4. What waited for it was never sent: it goes elsewhere, or is answered with the cause."""
    world = World()
    world.manners[host_name(1)] = MUTE
    world.endpoints(1)
    client = world.client()
    stream = client.calls()
    broken = world.backend(1)
    broken.sends(octets)
    broken.is_told(code)
    client.receives_nothing()
    world.manners[host_name(1)] = "refuse"
    late = client.calls()
    world.endpoints(1, 2)
    world.backend(2).answers(1)
    world.backend(2).answers(3)
    assert client.outcome(stream) == client.outcome(late) == ("0", "")
    client.take()
    world.endpoints(1)
    world.manners[host_name(1)] = MUTE
    world.advance(0.3)
    world.backend(1).sends(octets)
    alone = client.calls()
    world.advance(3.0)
    status, message = client.outcome(alone)
    assert status == UNAVAILABLE
    assert "10.0.0.1:50051" in message
    world.nothing_is_left()


# --- what a server may do --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "octets"),
    [
        ("4.1 an unknown frame", frame(0x77, 0xFF, VICTIM, b"anything")),
        ("4.1 undefined flags", frame(PING, 0xFE, 0, b"pingping")),
        ("4.1 the reserved bit", frame(WINDOW_UPDATE, 0, 1 << 31 | VICTIM, struct.pack(">I", 1))),
        ("5.1 PRIORITY on an idle stream", frame(PRIORITY, 0, 99, bytes(5))),
        ("5.1 PRIORITY on a stream of its own", frame(PRIORITY, 0, 2, bytes(5))),
        ("6.4 an unknown error code", rst(SIBLING, 0xFFFFFFFF)),
        ("6.5 empty SETTINGS", settings()),
        ("6.5 an acknowledgement too many", settings(ack=True) * 3),
        ("6.5.2 an unknown setting", settings({0x77: 1, 0xFFFF: 0xFFFFFFFF})),
        ("6.5.2 ENABLE_PUSH 0", settings({ENABLE_PUSH: 0})),
        ("6.5.2 MAX_FRAME_SIZE at both ends", settings({MAX_FRAME_SIZE: 2**24 - 1}) + settings({MAX_FRAME_SIZE: 16384})),
        ("6.5.3 SETTINGS twice with one frame's worth of changes", settings({INITIAL_WINDOW_SIZE: 0}) + settings({INITIAL_WINDOW_SIZE: 65535})),
        ("6.7 an answer to no PING", ping(ack=True)),
        ("6.9 a window at its most", window(VICTIM, 2**31 - 1 - 65535) + window(0, 2**31 - 1 - 65535)),
        ("6.1 empty DATA with padding", headers(VICTIM, OK) + data(VICTIM, pad=0) + data(VICTIM, pad=255)),
        ("6.2 HEADERS with priority and padding", frame(HEADERS, END_HEADERS | PADDED | PRIORITY_FLAG, VICTIM, b"\2" + bytes(5) + BLOCK + bytes(2))),
        ("6.10 a block cut in every place", b"".join([frame(HEADERS, 0, VICTIM, BLOCK[:1])] + [frame(CONTINUATION, 0, VICTIM, BLOCK[i : i + 1]) for i in range(1, len(BLOCK) - 1)] + [frame(CONTINUATION, END_HEADERS, VICTIM, BLOCK[-1:])])),
        ("8.1 informational responses", answer(status="100") + answer(status="103")),
        ("8.2.1 obs-text and tabs inside a value", answer(("name", "a\t\x80\xff b"))),
        ("8.3.2 a status nobody knows", answer(status="599")),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)  # fmt: skip
def test_what_a_server_may_do_harms_nobody(section: str, octets: bytes) -> None:
    scene = Scene()
    scene.broken.sends(octets)
    scene.broken.still_works()
    assert VICTIM in scene.broken.streams_open()
    begun = [e for e in scene.client.take() if isinstance(e, Headers) and e.stream == scene.victim]
    if not any(dict(e.fields)[":status"] >= "200" for e in begun):
        scene.broken.sends(headers(VICTIM, OK))
        scene.client.receives(response(scene.victim, OK))
    scene.broken.sends(data(VICTIM, b"body"), headers(VICTIM, TRAILERS, end=True))
    scene.client.receives(Data(scene.victim, b"body"), response(scene.victim, TRAILERS, True))
    if SIBLING in scene.broken.streams_open():
        scene.broken.answers(SIBLING)
        finishes(scene.client, scene.sibling)
    scene.broken.answers(5)
    finishes(scene.other_client, scene.other_clients)
    scene.check_elsewhere()
    scene.world.nothing_is_left()


def test_nothing_a_server_says_after_its_fault_counts() -> None:
    """Section 5.4.1: one GOAWAY, and the rest of what it wrote is not read."""
    scene = Scene()
    scene.broken.sends(data(0, b"x"), headers(VICTIM, OK), data(0, b"x"), ping())
    told = [e for e in scene.broken.take() if not isinstance(e, Data)]
    assert len(told) == 1
    assert {e.stream for e in scene.client.take()} == {scene.victim, scene.sibling}  # type: ignore[union-attr]


def test_a_reset_is_not_answered_with_a_reset() -> None:
    """Section 5.4.2, so that two ends do not go round for ever."""
    scene = Scene()
    scene.broken.sends(rst(VICTIM), rst(VICTIM), window(VICTIM, 1))
    scene.broken.receives_nothing()
    scene.broken.still_works()


def test_a_goaway_that_takes_more_than_the_one_before() -> None:
    """Section 6.8. What the first one refused has gone elsewhere by then and is not asked for again."""
    scene = Scene()
    scene.broken.sends(goaway(1))
    assert scene.broken.streams_open() == [VICTIM]
    scene.broken.sends(goaway(3))
    scene.broken.is_told(PROTOCOL_ERROR)
    (event,) = scene.client.take()
    is_unavailable(event, "GOAWAY", False)
    for stream in scene.healthy.streams_open():
        scene.healthy.answers(stream)
    assert scene.client.outcome(scene.sibling) == scene.other_client.outcome(scene.other_clients) == ("0", "")
    scene.world.nothing_is_left()


def test_data_beyond_the_connections_window() -> None:
    """Section 6.9.1. 16 MiB of it: 257 streams with all their first windows in one write."""
    world = ready(1)
    client = world.client({INITIAL_WINDOW_SIZE: 0})
    streams = [client.opens(end=True) for _ in range(258)]
    backend = world.backend(1)
    backend.sends(*[headers(s, OK) for s in backend.streams_open()])
    client.take()
    backend.sends(*[data(s, bytes(65535)) for s in backend.streams_open()])
    backend.is_told(FLOW_CONTROL_ERROR)
    client.sends(*[window(s, 65535) for s in streams], window(0, 1 << 25))
    assert {client.outcome(s)[0] for s in streams} == {UNAVAILABLE}
    world.nothing_is_left()


def test_every_fault_is_counted_by_its_code() -> None:
    scene = Scene()
    scene.broken.sends(data(0, b"x"))
    assert scene.world.engine.totals.upstream_errors == {PROTOCOL_ERROR: 1}
    assert scene.world.engine.totals.downstream_errors == {}


def test_a_stream_error_too_many_ends_the_connection() -> None:
    """A server that breaks a rule on every stream is given up whole (RFC 9113 section 10.5)."""
    world = ready(1)
    client = world.client()
    backend = world.backend(1)
    for _ in range(150):
        client.opens(end=True)
        if backend.closed:
            break
        backend.sends(data(max(backend.streams_open()), b"before headers"))
    backend.is_told(ENHANCE_YOUR_CALM)
    assert not client.closed
