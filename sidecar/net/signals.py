"""SIGTERM and SIGINT as an event of the loop."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from typing import final

from mypy_extensions import i64

from sidecar.net.loop import READ, Loop, Watcher


@final
class Signals(Watcher):
    """Calls `signalled` with the number of signals so far. One at a time in a process; main thread only."""

    def __init__(self, loop: Loop, signalled: Callable[[int], None]) -> None:
        self._loop = loop
        self._signalled = signalled
        self._seen: int = 0
        reader, writer = socket.socketpair()
        self._reader = reader
        self._writer = writer
        reader.setblocking(False)
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _woken)
        loop.watch(reader, self, int(READ))

    def ready(self, events: i64, now: float) -> None:
        self._seen += len(self._reader.recv(64))
        self._signalled(self._seen)

    def close(self) -> None:
        signal.set_wakeup_fd(-1)
        self._loop.forget(self._reader)
        self._reader.close()
        self._writer.close()


def _woken(number: int, frame: object) -> None:
    """The wake-up socket carries the news; a handler must merely be there."""
