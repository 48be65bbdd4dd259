import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from admin_fakes import FakeView, Peer, Port


@pytest.fixture
def view() -> FakeView:
    return FakeView()


@pytest.fixture
def port(view: FakeView) -> Port:
    return Port(view)


@pytest.fixture
def peer(port: Port) -> Peer:
    return port.connect()
