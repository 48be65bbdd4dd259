"""Each rule a client can break, RFC 9113 section by section, as the octets that break it.

A fault ends a stream or the connection, with the code the RFC names.
"""

# ruff: noqa: E501 - the tables' rows are one line each
from __future__ import annotations

from typing import NamedTuple

from rawhttp2 import (
    ACK,
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
    WINDOW_UPDATE,
    data,
    frame,
    headers,
    literal,
    rst,
    settings,
    string,
    window,
)

CONNECTION, STREAM = "connection", "stream"
# Where the stream at fault stands: its request open, ended, or the whole stream over; or not opened yet.
OPEN, HALF_CLOSED, CLOSED, IDLE = "open", "half-closed", "closed", "idle"

VICTIM, SIBLING, NEXT = 1, 3, 5  # the client's numbers; the backend's are the same


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
