"""HTTP/2 frames: numbers of RFC 9113 and RFC 9218, and writers onto a `BytesWriter`.

Reading is done in place by `connection`; nothing here keeps state.
"""

from __future__ import annotations

from typing import Final

from librt.strings import BytesWriter, write_i16_be, write_i32_be, write_i64_be
from mypy_extensions import i16, i32, i64, u8

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PREFACE_LENGTH: Final[i64] = 24
HEADER_LENGTH: Final[i64] = 9  # of every frame, section 4.1

# Frame types, section 6.
DATA: Final[i64] = 0x0
HEADERS: Final[i64] = 0x1
PRIORITY: Final[i64] = 0x2
RST_STREAM: Final[i64] = 0x3
SETTINGS: Final[i64] = 0x4
PUSH_PROMISE: Final[i64] = 0x5
PING: Final[i64] = 0x6
GOAWAY: Final[i64] = 0x7
WINDOW_UPDATE: Final[i64] = 0x8
CONTINUATION: Final[i64] = 0x9

# Flags.
END_STREAM: Final[i64] = 0x1
ACK: Final[i64] = 0x1
END_HEADERS: Final[i64] = 0x4
PADDED: Final[i64] = 0x8
PRIORITY_FLAG: Final[i64] = 0x20

# Settings, section 6.5.2.
HEADER_TABLE_SIZE: Final[i64] = 0x1
ENABLE_PUSH: Final[i64] = 0x2
MAX_CONCURRENT_STREAMS: Final[i64] = 0x3
INITIAL_WINDOW_SIZE: Final[i64] = 0x4
MAX_FRAME_SIZE: Final[i64] = 0x5
MAX_HEADER_LIST_SIZE: Final[i64] = 0x6

UNLIMITED: Final[i64] = 0xFFFFFFFF  # no setting is larger

# Error codes, section 7.
NO_ERROR: Final[i64] = 0x0
PROTOCOL_ERROR: Final[i64] = 0x1
INTERNAL_ERROR: Final[i64] = 0x2
FLOW_CONTROL_ERROR: Final[i64] = 0x3
SETTINGS_TIMEOUT: Final[i64] = 0x4
STREAM_CLOSED: Final[i64] = 0x5
FRAME_SIZE_ERROR: Final[i64] = 0x6
REFUSED_STREAM: Final[i64] = 0x7
CANCEL: Final[i64] = 0x8
COMPRESSION_ERROR: Final[i64] = 0x9
CONNECT_ERROR: Final[i64] = 0xA
ENHANCE_YOUR_CALM: Final[i64] = 0xB
INADEQUATE_SECURITY: Final[i64] = 0xC
HTTP_1_1_REQUIRED: Final[i64] = 0xD

ERROR_NAMES: Final = (
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
)

DEFAULT_WINDOW: Final[i64] = 65_535  # section 6.9.2
MAX_WINDOW: Final[i64] = 2_147_483_647  # 2^31-1, section 6.9.1
# The least a peer must take and the most we announce, so that any frame fits anywhere unchanged.
MAX_FRAME: Final[i64] = 16_384
MAX_STREAM_ID: Final[i64] = 2_147_483_647


def error_name(code: i64) -> str:
    """`PROTOCOL_ERROR` for 1; `0x1f` for a code the RFC does not know."""
    return ERROR_NAMES[code] if 0 <= code < len(ERROR_NAMES) else hex(code)


def write_header(out: BytesWriter, length: i64, kind: i64, flags: i64, stream_id: i64) -> None:
    """The nine octets before a payload of `length` octets (at most 2^14)."""
    write_i64_be(out, (length << 40) | (kind << 32) | (flags << 24) | (stream_id >> 8))
    out.append(u8(stream_id & 0xFF))


def write_block(out: BytesWriter, stream_id: i64, block: bytes, end_stream: bool) -> None:
    """A header block as HEADERS and, where it is longer than a frame, CONTINUATIONs, with nothing between."""
    flags: i64 = END_STREAM if end_stream else 0
    size: i64 = len(block)
    if size <= MAX_FRAME:
        write_header(out, size, HEADERS, flags | END_HEADERS, stream_id)
        out.write(block)
        return
    write_header(out, MAX_FRAME, HEADERS, flags, stream_id)
    out.write(block[:MAX_FRAME])
    at: i64 = MAX_FRAME
    while at < size:
        end: i64 = at + MAX_FRAME
        if end >= size:
            end = size
        write_header(out, end - at, CONTINUATION, END_HEADERS if end == size else 0, stream_id)
        out.write(block[at:end])
        at = end


def write_settings(out: BytesWriter, settings: list[tuple[int, int]]) -> None:
    write_header(out, len(settings) * 6, SETTINGS, 0, 0)
    for identifier, value in settings:
        write_i16_be(out, i16(identifier))
        _write_u32(out, value)


def write_settings_ack(out: BytesWriter) -> None:
    write_header(out, 0, SETTINGS, ACK, 0)


def write_window_update(out: BytesWriter, stream_id: i64, increment: i64) -> None:
    write_header(out, 4, WINDOW_UPDATE, 0, stream_id)
    write_i32_be(out, i32(increment))


def write_rst_stream(out: BytesWriter, stream_id: i64, code: i64) -> None:
    write_header(out, 4, RST_STREAM, 0, stream_id)
    _write_u32(out, code)


def write_ping(out: BytesWriter, payload: bytes, ack: bool) -> None:
    """`payload` is eight octets."""
    write_header(out, 8, PING, ACK if ack else 0, 0)
    out.write(payload)


def write_goaway(out: BytesWriter, last_stream_id: i64, code: i64, debug: bytes) -> None:
    write_header(out, 8 + len(debug), GOAWAY, 0, 0)
    write_i32_be(out, i32(last_stream_id))
    _write_u32(out, code)
    out.write(debug)


def _write_u32(out: BytesWriter, value: i64) -> None:
    # Codes come from peers and use all 32 bits; an i32 would be negative above 2^31.
    out.append(u8((value >> 24) & 0xFF))
    out.append(u8((value >> 16) & 0xFF))
    out.append(u8((value >> 8) & 0xFF))
    out.append(u8(value & 0xFF))
