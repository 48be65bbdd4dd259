"""Makes the helper modules of this folder importable by its tests, and a data plane without a process around it."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.net.dataplane import DataPlane
from sidecar.net.loop import Loop
from sidecar.splice.engine import Engine

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def loop_and_plane() -> Iterator[tuple[Loop, DataPlane]]:
    loop = Loop()
    plane = DataPlane(loop, Engine(1))
    yield loop, plane
    plane.abort_all()
    loop.close()
