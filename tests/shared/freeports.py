"""Ports for programs that a test starts: chosen here, bound by the program a moment later."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import socket
from collections.abc import Iterator
from typing import Final

# Below those that Linux gives to outgoing connections (32768 and up), of which other tests open thousands.
PORTS: Final = range(20_000, 32_000)


def _share() -> Iterator[int]:
    """What is this worker's of pytest-xdist's, each once before one comes again, in an order of this run's own: two
    that choose at the same time never choose the same."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    found = list(PORTS[worker % workers :: workers])
    random.shuffle(found)
    return itertools.cycle(found)


_OURS: Final = _share()


def free_port(host: str = "127.0.0.1") -> int:
    """One on which nobody listens now, and that nothing else here was given."""
    for port in itertools.islice(_OURS, len(PORTS)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((host, port))
            return port
    raise AssertionError(f"no free port in {PORTS}")
