"""What a connection's first bytes say. Pure."""

from __future__ import annotations

from typing import Final

from sidecar.wire.frames import PREFACE

UNDECIDED: Final = "undecided"
HTTP2: Final = "http2"
TLS: Final = "tls"
HTTP1: Final = "http1"
OTHER: Final = "not_http2"

_TLS_HANDSHAKE: Final = 0x16
_SETTINGS_TYPE: Final = 0x04
_FRAME_HEADER: Final = 9
_MAX_SETTINGS: Final = 600  # octets: a server's first SETTINGS are 0 to a few dozen
_METHODS: Final = (
    b"GET ",
    b"POST ",
    b"PUT ",
    b"HEAD ",
    b"DELETE ",
    b"OPTIONS ",
    b"PATCH ",
    b"CONNECT ",
    b"TRACE ",
)


def client(data: bytes) -> str:
    """The verdict on a client's first bytes; UNDECIDED while they are only the beginning of the preface."""
    if data.startswith(PREFACE):
        return HTTP2
    if PREFACE.startswith(data):
        return UNDECIDED
    if data[0] == _TLS_HANDSHAKE:
        return TLS
    return HTTP1 if data.startswith(_METHODS) else OTHER


def may_be_settings(data: bytes) -> bool:
    """Whether a server's first bytes can be (the start of) an HTTP/2 SETTINGS frame on stream 0."""
    if len(data) < _FRAME_HEADER:
        return all(
            octet == 0
            for at, octet in enumerate(data)
            if at not in (1, 2, 3)  # the length's low octets and the type
        ) and (len(data) < 4 or data[3] == _SETTINGS_TYPE)
    length = int.from_bytes(data[:3], "big")
    return (
        data[3] == _SETTINGS_TYPE
        and data[4] == 0
        and not any(data[5:_FRAME_HEADER])
        and length <= _MAX_SETTINGS
        and length % 6 == 0
    )
