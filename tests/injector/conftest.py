import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fake_cluster import FakeCluster


@pytest.fixture
def cluster(tmp_path):
    """A Kubernetes API as far as the injector uses it, and a kubeconfig for it."""
    with FakeCluster() as fake:
        fake.write_kubeconfig(tmp_path / "kubeconfig")
        yield fake
