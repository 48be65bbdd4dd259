"""Makes the helpers beside this file, the demo's and its tests' importable; starts programs and ends them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
for folder in (HERE, HERE.parent / "demo", HERE.parents[1] / "examples" / "greeter"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from programs import Server  # noqa: E402
from sidecar_program import EndpointsFile, Sidecar  # noqa: E402


@pytest.fixture
def greeter() -> Iterator[Server]:
    """A greeter server on grpcio."""
    server = Server("greeter-1")
    yield server
    server.end()


@pytest.fixture
def endpoints(tmp_path: Path, greeter: Server) -> EndpointsFile:
    """A file with the Service greeter.default:50051 and that server behind it."""
    file = EndpointsFile(tmp_path / "endpoints.json")
    file.write([greeter.target])
    return file


@pytest.fixture
def start() -> Iterator[Callable[..., Sidecar]]:
    """A function that starts the sidecar; what still runs at the end is killed."""
    started: list[Sidecar] = []

    def one(*arguments: str, **variables: str) -> Sidecar:
        started.append(Sidecar(arguments, variables))
        return started[-1]

    yield one
    for sidecar in started:
        sidecar.kill()
