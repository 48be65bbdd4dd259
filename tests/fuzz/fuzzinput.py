"""A fuzzer's octets as a source of decisions: whatever they are, they mean something."""

from __future__ import annotations


class Input:
    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._octets) - self._at

    def octet(self) -> int:
        """0 once there is nothing left."""
        if self._at >= len(self._octets):
            return 0
        self._at += 1
        return self._octets[self._at - 1]

    def choose(self, ways: int) -> int:
        """One of so many; 0, the plainest, once there is nothing left."""
        if ways <= 256:
            return self.octet() % ways
        return (self.octet() << 8 | self.octet()) % ways

    def take(self, most: int) -> bytes:
        """Up to so many octets as they are, their number told by one ahead of them."""
        size = min(self.octet() % (most + 1), self.left)
        self._at += size
        return self._octets[self._at - size : self._at]

    def rest(self) -> bytes:
        found = self._octets[self._at :]
        self._at = len(self._octets)
        return found
