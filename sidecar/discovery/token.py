"""The pod's own projected token, which the kubelet replaces as it ages."""

from __future__ import annotations

import math
from typing import Final

from sidecar.discovery.reading import read_up_to

# The kubelet rotates a token at 80 % of its life, of 10 minutes at least, and the old one is good for the
# rest: reading once a minute is early enough. client-go does the same.
REREAD_SECONDS: Final = 60.0
# Bound tokens are about 1 KB; headers this large the API server would refuse.
MAX_TOKEN_BYTES: Final = 64 * 1024


class TokenError(ValueError):
    """There is no usable token; one line that names the file and the reason."""


class TokenFile:
    """A bearer token in a file."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._token = ""
        self._reread_at = -math.inf

    def read(self, now: float) -> str:
        """The token, at most REREAD_SECONDS old. While the file is bad, the last good token is given.

        Raises TokenError if none was good yet.
        """
        if now >= self._reread_at:
            self._reread_at = now + REREAD_SECONDS
            try:
                self._token = self._load()
            except TokenError:
                self._reread_at = -math.inf
                if not self._token:
                    raise
        return self._token

    def reject(self) -> None:
        """The API server refused it (401): the next `read` reads the file."""
        self._reread_at = -math.inf

    def _load(self) -> str:
        try:
            data = read_up_to(self._path, MAX_TOKEN_BYTES)
        except OSError as error:
            raise TokenError(f"token {self._path}: {error.strerror or error}") from None
        token = data.strip()
        # RFC 6750 section 2.1: token68 characters only, so nothing can break out of the header.
        if not token or len(data) > MAX_TOKEN_BYTES or not all(33 <= byte < 127 for byte in token):
            raise TokenError(
                f"token {self._path}: holds {len(data)} bytes that are no bearer token; "
                f"allowed: up to {MAX_TOKEN_BYTES} printable characters without spaces"
            )
        return token.decode("ascii")
