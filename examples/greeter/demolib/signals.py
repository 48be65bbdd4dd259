"""How a program ends on a signal: what it does is cancelled, cleans up, and the exit status names the signal."""

from __future__ import annotations

import asyncio
import signal
from typing import Final

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop:
    """Cancels the task that makes it on the first signal; a second one must not interrupt the cleaning up,
    which is bounded in time."""

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task: Final = task
        self._number = 0
        for number in ENDING:
            asyncio.get_running_loop().add_signal_handler(number, self._take, number)

    def _take(self, number: int) -> None:
        if not self._number:
            self._number = number
            self._task.cancel()

    @property
    def name(self) -> str:
        """Of the signal that came, as `SIGTERM`; "" if none did."""
        return signal.Signals(self._number).name if self._number else ""

    @property
    def status(self) -> int:
        """128 and the signal's number, as a shell has it; 0 if none came."""
        return 128 + self._number if self._number else 0
