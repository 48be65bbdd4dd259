"""Where HTTP/2 frames begin and end, and GOAWAY taken out of their midst.

h2 takes GOAWAY for the end of everything and refuses the frames after it. The API server sends
it with answers still to come: with each 401, when it shuts down, and by --goaway-chance. h2 also waits for
the whole of a frame before it finds it too long. So frames pass through here first.
"""

from __future__ import annotations

from typing import Final, NamedTuple

_HEADER: Final = 9  # bytes, RFC 9113 section 4.1
_SETTINGS: Final = 0x04
_GOAWAY: Final = 0x07
# RFC 9113 section 4.2: what every peer must allow, and what h2 announces unless told otherwise.
MAX_FRAME_BYTES: Final = 16384


class NotHttp2Error(ValueError):
    """The bytes are no HTTP/2, or break its limits."""


class Goaway(NamedTuple):
    """A GOAWAY frame (RFC 9113 section 6.8)."""

    last_stream_id: int  # requests above it were not and will not be looked at
    error_code: int


class Frames:
    """Bytes as they come in, whole frames out. Holds at most one unfinished frame."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._begun = False

    def feed(self, data: bytes) -> list[bytes | Goaway]:
        """What is complete now, in order: runs of frames for h2, and GOAWAYs. Raises NotHttp2Error."""
        self._data += data
        found: list[bytes | Goaway] = []
        start = at = 0
        while (end := self._end_of_frame(at)) is not None:
            if self._data[at + 3] == _GOAWAY:
                if at > start:
                    found.append(bytes(self._data[start:at]))
                found.append(_goaway(self._data[at + _HEADER : end]))
                start = end
            at = end
        if at > start:
            found.append(bytes(self._data[start:at]))
        del self._data[:at]
        return found

    def _end_of_frame(self, at: int) -> int | None:
        """Where the frame that begins at `at` ends; None if it is not complete."""
        header = self._data[at : at + _HEADER]
        if len(header) < _HEADER:
            return None
        length = int.from_bytes(header[:3], "big")
        if not self._begun and header[3] != _SETTINGS:
            # RFC 9113 section 3.4: a server begins with SETTINGS.
            raise NotHttp2Error(f"no HTTP/2, it began with {bytes(header)!r}")
        if length > MAX_FRAME_BYTES:
            raise NotHttp2Error(f"a frame of {length} bytes; allowed: {MAX_FRAME_BYTES}")
        self._begun = True
        end = at + _HEADER + length
        return end if len(self._data) >= end else None


def _goaway(payload: bytearray) -> Goaway:
    if len(payload) < 8:
        raise NotHttp2Error(f"a GOAWAY of {len(payload)} bytes; it must have 8 or more")
    return Goaway(int.from_bytes(payload[:4], "big") & 0x7FFFFFFF, int.from_bytes(payload[4:8], "big"))
