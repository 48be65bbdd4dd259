"""Makes the helper modules of this folder importable by its tests; the world most of them play in."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fakeapi import World
from kubernetes_scene import one
from objects import service


@pytest.fixture(params=[0, 1, 7], ids=["whole", "by byte", "by 7"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    """A greeter of one endpoint, known to the server; bytes arrive whole or in pieces."""
    made = World(tmp_path / "token", piece=request.param)
    made.server.put(service())
    made.server.put(one("10.0.0.1"))
    return made
