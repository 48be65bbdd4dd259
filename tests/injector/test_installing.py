"""Installing twice, upgrading and taking out again, on an API server that knows nothing of us before.

It runs no controllers, so a namespace that is deleted stays until somebody ends it: here the test does. What
becomes of Deployments and pods is tests/e2e's. The commands of docs/how-to/without-a-server.md run here too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from freeports import free_port
from real_apiserver import ROOT, Api, why_not
from serving import Injector

from contract import names

sys.path.insert(0, str(ROOT / "tests" / "readme"))
from doc_commands import commands

pytestmark = [
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
    pytest.mark.xdist_group("apiserver-fresh"),
    pytest.mark.timeout(600),
]

NO_SERVER = "overlays/no-server"
PAGE = "docs/how-to/without-a-server.md"
IN_FORCE_SECONDS = 60.0
COMMAND_SECONDS = 120.0
PART_OF = "app.kubernetes.io/part-of=evenstream"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    api = Api(tmp_path_factory.mktemp("fresh"))
    try:
        yield api
    finally:
        api.stop()


@pytest.fixture
def empty(fresh: Api) -> Iterator[Api]:
    """Checked afterwards to have nothing of ours, of any kind and in any namespace."""
    assert _ours(fresh) == []
    yield fresh
    _end_namespace(fresh)
    assert _ours(fresh) == []


def _everything(api: Api, *which: str) -> list[str]:
    """`Kind namespace/name` of all objects that can be listed, cluster-scoped ones included."""
    kinds = ",".join(api.kubectl("api-resources", "--verbs=list", "-o", "name").stdout.split())
    form = 'jsonpath={range .items[*]}{.kind} {.metadata.namespace}/{.metadata.name}{"\\n"}{end}'
    return api.kubectl("get", kinds, "--all-namespaces", "-o", form, *which).stdout.splitlines()


def _ours(api: Api) -> list[str]:
    """By name and by label: each of manifests/ has both."""
    labelled = _everything(api, "-l", PART_OF)
    return sorted({*labelled, *(thing for thing in _everything(api) if "evenstream" in thing)})


def _end_namespace(api: Api) -> None:
    """What the namespace controller does for one that is being deleted. Nothing for one that is not there."""
    path = f"/api/v1/namespaces/{names.SYSTEM_NAMESPACE}"
    found = api.request("GET", path)
    if found.status == 404:
        return
    assert found.body["metadata"].get("deletionTimestamp"), "it was not deleted"
    for thing in _ours(api):
        kind, _, name = thing.partition(" ")
        if name.startswith(f"{names.SYSTEM_NAMESPACE}/"):
            name = name.partition("/")[2]
            api.kubectl("delete", kind, name, "-n", names.SYSTEM_NAMESPACE, "--wait=false", "--force")
    found.body["spec"]["finalizers"] = []
    assert api.request("PUT", f"{path}/finalize", found.body).status == 200


def _apply(api: Api, path: str) -> list[str]:
    return api.kubectl("apply", "-k", str(ROOT / "manifests" / path)).stdout.splitlines()


def _delete(api: Api, path: str) -> None:
    # Waiting for the namespace would be for ever.
    api.kubectl("delete", "-k", str(ROOT / "manifests" / path), "--wait=false")


def _changes_nothing(api: Api, path: str) -> None:
    """An apply of what is there already."""

    def versions() -> str:
        form = "jsonpath={.items[*].metadata.resourceVersion}"
        return api.kubectl("get", "-k", str(ROOT / "manifests" / path), "-o", form).stdout

    before = versions()
    changed = [line for line in _apply(api, path) if not line.endswith(" unchanged")]
    # kubectl patches the selector of any PodDisruptionBudget each time, with what is there.
    assert [line for line in changed if not line.startswith("poddisruptionbudget.policy/")] == []
    assert versions() == before


def _diff(api: Api, path: str) -> str:
    """What an apply would change, as the API server itself says by a dry run."""
    done = api.kubectl("diff", "-k", str(ROOT / "manifests" / path), check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def test_an_upgrade_leaves_what_the_injector_wrote_and_uninstalling_takes_it_along(empty: Api):
    """The certificate's Secret, and the CA in the webhooks: without it no call would succeed."""
    assert all(line.endswith(" created") for line in _apply(empty, ""))
    port = free_port()
    kubeconfig = empty.kubeconfig_of("evenstream-injector", names.SYSTEM_NAMESPACE)
    with Injector(kubeconfig, port, "--dns-name", "localhost") as injector:
        injector.wait_for("ready: listening")
    assert len(_ours(empty)) > 10
    before = _written(empty)
    assert before["secrets"]
    assert all(before["cas"])
    assert _diff(empty, "") == ""
    _changes_nothing(empty, "")
    assert _written(empty) == before
    _delete(empty, "")


def _written(api: Api) -> dict[str, Any]:
    def get(*what: str) -> dict[str, Any]:
        return json.loads(api.kubectl("get", *what, "-o", "json").stdout)

    webhooks = get("mutatingwebhookconfiguration", "evenstream-injector")["webhooks"]
    secrets = get("secrets", "-n", names.SYSTEM_NAMESPACE)["items"]
    return {
        "cas": [hook["clientConfig"].get("caBundle") for hook in webhooks],
        "secrets": {secret["metadata"]["name"]: secret.get("data") for secret in secrets},
    }


# The page ---------------------------------------------------------------------------------------------------


class Reader:
    """Somebody with a shell at the repository's root."""

    def __init__(self, api: Api, folder: Path) -> None:
        self.api = api
        (folder / "kubectl").symlink_to(api.found["kubectl"])
        self._environment = {
            **os.environ,
            "KUBECONFIG": str(api.found["kubeconfig"]),
            "PATH": f"{folder}:{os.environ['PATH']}",
        }

    def start(self, text: str) -> subprocess.Popen[str]:
        command = ["bash", "-euo", "pipefail", "-c", text]
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def follow(self, text: str) -> str:
        running = self.start(text)
        try:
            told, errors = running.communicate(timeout=COMMAND_SECONDS)
        finally:
            running.kill()
        assert running.returncode == 0, f"{text}\n{told}{errors}"
        return told

    def sees(self, text: str, wanted: str) -> None:
        until = time.monotonic() + IN_FORCE_SECONDS
        while (told := self.follow(text).strip()) != wanted:
            assert time.monotonic() < until, told
            time.sleep(0.1)


def test_the_page_on_installing_without_a_server_works_from_top_to_bottom(empty: Api, tmp_path: Path):
    reader = Reader(empty, tmp_path)
    blocks = [block for block in commands(f"tests/injector/{Path(__file__).name}") if block.page == PAGE]
    install, install_by_hand, look, uninstall = (block.text for block in blocks)
    # What the ServiceAccount admission plugin puts into a pod; it is off here, for want of a controller.
    account = """--overrides='{"spec":{"serviceAccountName":"default"}}'"""
    look = look.replace("--dry-run", f"{account} --dry-run")
    images = look.replace("[*].name", "[*].image")
    reader.sees(look, "")
    reader.follow(install)
    assert _diff(empty, NO_SERVER) == ""
    _changes_nothing(empty, NO_SERVER)
    reader.sees(look, f"{names.SIDECAR_CONTAINER} {names.INIT_CONTAINER}")
    reader.follow(install_by_hand)
    reader.sees(images, " ".join(["registry.example/evenstream-sidecar:0.1.0"] * 2))
    running = reader.start(uninstall)  # waits for the namespace
    try:
        path, until = f"/api/v1/namespaces/{names.SYSTEM_NAMESPACE}", time.monotonic() + COMMAND_SECONDS
        while not empty.request("GET", path).body["metadata"].get("deletionTimestamp"):
            assert time.monotonic() < until
            time.sleep(0.1)
        _end_namespace(empty)
        told, errors = running.communicate(timeout=COMMAND_SECONDS)
    finally:
        running.kill()
    assert running.returncode == 0, told + errors
