"""Runs a loop until something is so."""

from __future__ import annotations

import time
from collections.abc import Callable

from sidecar.net.dataplane import DataPlane
from sidecar.net.loop import Loop


def run_until(loop: Loop, plane: DataPlane, condition: Callable[[], object], limit: float = 10.0) -> None:
    deadline = time.monotonic() + limit
    met: list[object] = []

    def turn(now: float) -> float:
        found = condition()
        if found or now >= deadline:
            met.append(found)
            loop.stop()
        return now + 0.01

    loop.run(plane, turn)
    assert met, loop.errors.last
    assert met[-1], "not in time"
