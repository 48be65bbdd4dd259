import sys
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))

from fake_cluster import FakeCluster

# A machine that is busy with a build takes longer than hypothesis' 200 ms for an example.
settings.register_profile("injector", deadline=None)
settings.load_profile("injector")


@pytest.fixture
def cluster(tmp_path):
    """A Kubernetes API as far as the injector uses it, and a kubeconfig for it."""
    with FakeCluster() as fake:
        fake.write_kubeconfig(tmp_path / "kubeconfig")
        yield fake
