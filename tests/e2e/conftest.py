"""One cluster, one installation and one set of greeter servers for all end-to-end tests.

CONTEXT=name uses that context of your kubeconfig; otherwise hack/cluster's local cluster is used and left
running. E2E_IMAGES=present skips building and loading the images. E2E_KEEP=1 installs over what
is there and leaves everything in place. E2E_OUTAGE=seconds is how long the API server is away.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
for folder in (HERE, HERE.parents[1] / "hack"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from clusterkit import kube, mesh  # noqa: E402
from clusterkit.backends import Backends  # noqa: E402
from clusterkit.kube import Cluster, Namespace  # noqa: E402
from clusterkit.things import annotated, client_pod  # noqa: E402
from figures import FIGURES, Figures  # noqa: E402

NAMESPACE = "evenstream-e2e"
KEEP = bool(os.environ.get("E2E_KEEP"))
READY_SECONDS = 90.0  # a pod with the sidecar, from nothing, on a busy node
# Tests wait for conditions, each with a deadline of its own; this is for what nobody thought of. Setting up
# may compile Kubernetes, so it is not part of it.
TEST_SECONDS = 420 + float(os.environ.get("E2E_OUTAGE") or 0)

_current: list[Cluster] = []  # for the hook below, which has no fixtures


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(TEST_SECONDS, func_only=True))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """A failed test tells what the cluster looked like."""
    report = yield
    if report.failed and _current and HERE in item.path.parents:
        report.sections.append(("the cluster", mesh.diagnose(_current[0], NAMESPACE)))
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if FIGURES.all:
        terminalreporter.section("figures")
        for line in FIGURES.table():
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster with the three images in it."""
    found = kube.find(os.environ.get("CONTEXT", ""), show=True)
    mesh.refuse_if_installed(found)
    if os.environ.get("E2E_IMAGES") != "present":
        mesh.build_images()
    _current.append(found)
    yield found
    _current.clear()
    found.close()


@pytest.fixture(scope="session")
def installed(cluster: Cluster) -> Iterator[Cluster]:
    """With Evenstream in it, newly put in."""
    if not KEEP:
        mesh.uninstall(cluster)  # what an interrupted run left; in a context there is none, see above
    mesh.install(cluster)
    yield cluster
    if not KEEP:
        mesh.uninstall(cluster)


@pytest.fixture(scope="session")
def namespace(installed: Cluster) -> Iterator[Namespace]:
    """With examples/greeter as it stands: three servers, a client with the annotation and one without. The
    two clients run through all tests."""
    made = mesh.make_namespace(installed, NAMESPACE)
    mesh.deploy_greeter(made, HERE / "greeter")
    yield made
    if not KEEP:
        mesh.delete_namespace(installed, NAMESPACE)


@pytest.fixture(scope="session")
def backends(namespace: Namespace) -> Backends:
    return Backends(namespace)


@pytest.fixture(scope="session")
def figures() -> Figures:
    return FIGURES


@pytest.fixture(scope="session")
def client(namespace: Namespace) -> str:
    """A pod with the sidecar, to run clients in."""
    return _started(namespace, client_pod("client", annotated()))


@pytest.fixture(scope="session")
def other_client(namespace: Namespace) -> str:
    """Another one, so with a sidecar of its own."""
    return _started(namespace, client_pod("other-client", annotated()))


@pytest.fixture(scope="session")
def plain_client(namespace: Namespace) -> str:
    """The same pod without the annotation."""
    return _started(namespace, client_pod("plain-client", {}))


def _started(namespace: Namespace, pod: dict[str, Any]) -> str:
    name: str = pod["metadata"]["name"]
    namespace.apply(pod)
    namespace.wait_ready(name, READY_SECONDS)
    return name
