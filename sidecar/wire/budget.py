"""A budget that refills with time: how much of a nuisance a peer may be before it is cut off."""

from __future__ import annotations

from typing import final

from mypy_extensions import i64


@final
class Budget:
    """Starts at `full`; time refills it to that by `per_second`; what is earned may fill it up to `most`, if that
    is more."""

    def __init__(self, full: i64, per_second: float, most: i64 = 0) -> None:
        self._full: float = float(full)
        self._most: float = float(most if most > full else full)
        self._per_second = per_second
        self._level: float = float(full)
        self._at: float = -1.0

    def spend(self, now: float) -> bool:
        """Take one. False: there is none left."""
        if self._at >= 0.0 and now > self._at and self._level < self._full:
            self._level += (now - self._at) * self._per_second
            if self._level > self._full:
                self._level = self._full
        self._at = now
        if self._level < 1.0:
            return False
        self._level -= 1.0
        return True

    def earn(self, amount: float) -> None:
        """Give some back, for something useful done."""
        self._level += amount
        if self._level > self._most:
            self._level = self._most
