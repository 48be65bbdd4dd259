"""The text forms the API server speaks: lines of JSON, Status objects, query parameters. Pure."""

from __future__ import annotations

import json
from typing import Final

_MAX_MESSAGE: Final = 300
# RFC 3986 section 2.3; everything else in a query parameter is written as %XX.
_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class TooLargeError(ValueError):
    """A line goes on beyond the limit."""


class Lines:
    """Bytes as they come, split into lines. Holds one unfinished line of at most `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are complete now, without their ends; empty lines are left out.

        Raises TooLargeError.
        """
        first, *rest = data.split(b"\n")
        lines: list[bytes] = []
        self._keep(first)
        for piece in rest:
            line = b"".join(self._parts)
            if line.strip():
                lines.append(line)
            self._parts, self._size = [], 0
            self._keep(piece)
        return lines

    def _keep(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self._limit:
            raise TooLargeError(f"a line of more than {self._limit} bytes")
        if piece:
            self._parts.append(piece)


def quote(text: str) -> str:
    """The text as part of a URL's path or query (urllib.parse would cost memory for this one function)."""
    return "".join(chr(b) if b in _UNRESERVED else f"%{b:02X}" for b in text.encode("utf-8", "replace"))


def name_of(item: object) -> str:
    """An object's metadata.name, or "" where there is none."""
    metadata = item.get("metadata") if isinstance(item, dict) else None
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return name if isinstance(name, str) else ""


def message_of(body: bytes) -> str:
    """What a Status object says, or else the body's start; one line."""
    try:
        text = json.loads(body)["message"]
    except (ValueError, TypeError, LookupError, RecursionError):
        text = body.decode("utf-8", "replace")
    return " ".join(str(text).split())[:_MAX_MESSAGE]
