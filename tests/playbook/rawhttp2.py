"""HTTP/2 by hand, for tests: frames built from numbers and octets, and what a party saw read back from them.

By code of its own, so that what our engine writes is not judged by our engine. Header blocks are written plainly and
decoded by `hpack`.
"""

from __future__ import annotations

import functools
import itertools
import struct
from collections.abc import Sequence
from typing import NamedTuple

import hpack

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


# --- bytes out -----------------------------------------------------------------------------------------


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


# An entry of 3 KB in the other end's table (RFC 7541 section 6.2.1), and the octet that stands for the newest entry:
# what HPACK bombs are made of.
INSERT_LARGE = b"\x40\x01a" + string(b"x" * 3000)
NEWEST = b"\xbe"


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


# --- what a party saw ----------------------------------------------------------------------------------


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
