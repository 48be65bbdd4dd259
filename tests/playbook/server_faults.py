"""Each rule a server can break, RFC 9113 section by section, as the octets that break it.

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
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_FRAME_SIZE,
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
    data,
    frame,
    headers,
    literal,
    ping,
    rst,
    settings,
    string,
    window,
)

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
    on_stream("8.1.1", "content-length without a body", headers(VICTIM, (*OK, ("content-length", "4")), True), PROTOCOL_ERROR, "content-length"),
    on_stream("8.1.1", "content-length twice and different", answer(("content-length", "1"), ("content-length", "2")), PROTOCOL_ERROR, "content-length"),
    on_stream("8.1.1", "content-length that is no number", answer(("content-length", "+1")), PROTOCOL_ERROR, "content-length"),
    *[on_stream("8.2.1", f"a name with {octet!r}", answer((f"a{octet}b", "x")), PROTOCOL_ERROR, "field name")
      for octet in ("\0", "\r", "\n", " ", "A", ":", "\x7f", "\x80", "\xff")],
    on_stream("8.2.1", "an empty name", answer(("", "x")), PROTOCOL_ERROR, "field name"),
    *[on_stream("8.2.1", f"a value with {octet!r}", answer(("name", f"a{octet}b")), PROTOCOL_ERROR, "field value")
      for octet in ("\0", "\r", "\n")],
    *[on_stream("8.2.1", f"a content-length {value!r}", answer(("content-length", value)), PROTOCOL_ERROR, "white space")
      for value in (" 1", "1 ", "\t1", "1\t")],
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
