"""Makes the example's modules and the helpers beside this file importable, and gives each test servers of
its own: separate programs on ports the kernel chooses."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
for folder in (HERE.parents[1] / "examples" / "greeter", HERE):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from programs import Server  # noqa: E402


@pytest.fixture
def start_server() -> Iterator[Callable[..., Server]]:
    """A function that starts a greeter server and returns when it listens; all are ended at the end."""
    servers: list[Server] = []

    def start(name: str = "greeter-test", *options: str, extra: dict[str, str] | None = None) -> Server:
        servers.append(Server(name, options, extra))
        return servers[-1]

    yield start
    for server in servers:
        server.end()
