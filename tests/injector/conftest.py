import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))

from fake_cluster import FakeCluster
from freeports import free_port
from real_apiserver import POLICIED, ROOT, Api, asking_pod
from serving import Injector

HERE = Path(__file__).parent
PATCH_WEBHOOKS = ("patch", "mutatingwebhookconfiguration", "evenstream-injector", "--type=json", "-p")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Nothing of the injector is compiled, so that the interpreted run would say the same again."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.once)


# A machine that is busy with a build takes longer than hypothesis' 200 ms for an example.
settings.register_profile("injector", deadline=None)
settings.load_profile("injector")


@pytest.fixture
def cluster(tmp_path):
    """A Kubernetes API as far as the injector uses it, and a kubeconfig for it."""
    with FakeCluster() as fake:
        fake.write_kubeconfig(tmp_path / "kubeconfig")
        yield fake


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A real API server with manifests/ applied. Tests that use it belong into the xdist group "apiserver"."""
    api = Api(tmp_path_factory.mktemp("api"))
    try:
        api.kubectl("apply", "-k", str(ROOT / "manifests"))
        # No controllers run: what they would make for a namespace.
        restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
        for namespace, labels in zip(POLICIED, ({}, restricted), strict=True):
            api.create(
                {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}}
            )
        for namespace in ("default", "kube-system", *POLICIED):
            api.kubectl("create", "serviceaccount", "default", "-n", namespace)
        excluded = "/webhooks/{}/namespaceSelector/matchExpressions/0/values/-"
        patch = [
            {"op": "add", "path": excluded.format(number), "value": namespace}
            for number in (0, 1)
            for namespace in POLICIED
        ]
        api.kubectl(*PATCH_WEBHOOKS, json.dumps(patch))
        yield api
    finally:
        api.stop()


@pytest.fixture(scope="session")
def injector(api: Api) -> Iterator[Injector]:
    """On loopback, with the rights that manifests/ gives and no others; the webhook is called by URL, as no
    kube-proxy leads to a Service here."""
    port = free_port()
    paths = ("/mutate", "/mutate/restricted")
    patch = [
        {
            "op": "replace",
            "path": f"/webhooks/{number}/clientConfig",
            "value": {"url": f"https://localhost:{port}{path}"},
        }
        for number, path in enumerate(paths)
    ]
    api.kubectl(*PATCH_WEBHOOKS, json.dumps(patch))
    kubeconfig = api.kubeconfig_of("evenstream-injector", "evenstream-system")
    with Injector(kubeconfig, port, "--dns-name", "localhost") as injector:
        injector.wait_for("ready: listening")
        _until_called(api, injector)
        yield injector


def _until_called(api: Api, injector: Injector) -> None:
    """The API server's view of its webhooks follows the configuration by a moment."""
    for attempt in range(100):
        made = api.try_pod(asking_pod(f"probe-{attempt}"), "default")
        if made.body["spec"]["initContainers"][0]["name"] == "evenstream":
            return
    raise AssertionError("the API server does not call the webhook:\n" + "".join(injector.lines))
