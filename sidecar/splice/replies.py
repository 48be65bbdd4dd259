"""The octets of answers made here (`localreply`): a gRPC status with a message that names the cause.

gRPC over HTTP/2: "Trailers-Only" if nothing has been answered yet, trailers if it has.
"""

from __future__ import annotations

from typing import Final

from mypy_extensions import i64

from sidecar.wire.headers import encode

CANCELLED: Final[i64] = 1
UNKNOWN: Final[i64] = 2
DEADLINE_EXCEEDED: Final[i64] = 4
RESOURCE_EXHAUSTED: Final[i64] = 8
UNAVAILABLE: Final[i64] = 14

# Long enough for any cause we name; a header block stays one small frame.
_MAX_MESSAGE: Final = 512
_HTTP_STATUS: Final[dict[int, bytes]] = {
    int(DEADLINE_EXCEEDED): b"504",
    int(UNAVAILABLE): b"503",
    int(RESOURCE_EXHAUSTED): b"431",  # only said of header lists
}


def percent_encode(message: str) -> bytes:
    """As grpc-message wants it: printable ASCII but % as it is, the rest as %XX of UTF-8."""
    return b"".join(
        bytes([octet]) if 0x20 <= octet <= 0x7E and octet != 0x25 else b"%%%02X" % octet
        for octet in message.encode()[:_MAX_MESSAGE]
    ).strip()


def trailers(status: i64, message: str) -> bytes:
    return encode([(b"grpc-status", b"%d" % int(status)), (b"grpc-message", percent_encode(message))])


def trailers_only(status: i64, message: str) -> bytes:
    return encode(
        [
            (b":status", b"200"),
            (b"content-type", b"application/grpc"),
            (b"grpc-status", b"%d" % int(status)),
            (b"grpc-message", percent_encode(message)),
        ]
    )


def http_response(status: i64, message: str) -> tuple[bytes, bytes]:
    """For a request that is not gRPC: a header block and a body that says the same in plain words."""
    body = message.encode()[:_MAX_MESSAGE] + b"\n" if message else b""
    block = encode(
        [
            (b":status", _HTTP_STATUS.get(int(status), b"502")),
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(body)),
        ]
    )
    return block, body
