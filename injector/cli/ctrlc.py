"""Ctrl-C as something to wait for."""

from __future__ import annotations

import os
import select
import signal
from types import FrameType
from typing import Self


class CtrlC:
    """While entered, the first Ctrl-C is noted, and the next one is a KeyboardInterrupt again.

    As an exception it comes between any two steps of whatever runs then: in a destructor it is lost, and in the middle
    of a thread pool's bookkeeping it can leave a lock behind. For the main thread only, as signals are.
    """

    def __enter__(self) -> Self:
        self._pressed = False
        self._reader, self._writer = os.pipe()
        self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)
        os.close(self._reader)
        os.close(self._writer)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self._pressed = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.write(self._writer, b"!")  # wakes `within`

    def within(self, seconds: float) -> bool:
        """Wait so long, or until it is pressed; whether it has been."""
        if not self._pressed:
            select.select([self._reader], [], [], seconds)
        return self._pressed
