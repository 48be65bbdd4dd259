"""Makes the helpers here, and the playbook's frames, importable by the tests beside it."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "playbook"))
sys.path.insert(0, str(Path(__file__).parent))

from hostile_mesh import Attack, Backend, Caller, Mesh


@pytest.fixture(scope="module")
def backend() -> Iterator[Backend]:
    found = Backend()
    yield found
    found.stop()


@pytest.fixture(scope="module")
def overrun() -> Iterator[Backend]:
    """For thousands of streams at once, which a Python server is busy with for long: not the caller's."""
    found = Backend()
    yield found
    found.stop()


@pytest.fixture
def mesh(tmp_path: Path, backend: Backend) -> Iterator[Mesh]:
    """A sidecar of its own for each test: Service `good` has the real backend, `bad` gets what the test gives it."""
    found = Mesh(tmp_path, {"good": [backend.address], "bad": []})
    yield found
    found.stop()


@pytest.fixture
def caller(mesh: Mesh) -> Iterator[Caller]:
    """20 calls a second on a connection of its own, from before the attack to after it."""
    found = Caller(mesh.target("good"))
    yield found
    found.stop()


@pytest.fixture
def attack(mesh: Mesh, caller: Caller, record_property: Callable[[str, object], None]) -> Attack:
    return Attack(mesh, caller, record_property)


@pytest.fixture
def attack_elsewhere(attack: Attack, overrun: Backend) -> Attack:
    """The attack meets another backend than the caller's: what the caller feels of it is the sidecar's doing."""
    attack.mesh.set_endpoints("bad", overrun.address)
    attack.port = attack.mesh.ports["bad"]
    return attack
