"""`check` and `explain` with a real kube-apiserver: its paths, access reviews, dry runs and warnings.

No kubelet runs there, so no pod has ports; tests/e2e/test_y_cli.py has them. Skipped without the binaries that
`hack/cluster build` leaves in its cache.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_run import inside

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("EVENSTREAM_CACHE") or Path.home() / ".cache" / "evenstream")

pytestmark = [
    pytest.mark.once,
    pytest.mark.xdist_group("cli-apiserver"),
    pytest.mark.skipif(
        not any(CACHE.glob("bin/kubernetes-*/kube-apiserver")) or shutil.which("etcd") is None,
        reason="needs kube-apiserver and etcd: run `hack/cluster build` first",
    ),
]


class Api:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        words = [ROOT / "hack" / "cluster", "apiserver-up", "--dir", folder, "--while-pid", str(os.getpid())]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        self.found: dict[str, Any] = json.loads(done.stdout)

    def kubectl(self, *words: str, text: str = "") -> str:
        command = [self.found["kubectl"], "--kubeconfig", self.found["kubeconfig"], *words]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(self, *arguments: str) -> tuple[int, Any]:
        done = inside(*arguments, "-o", "json", KUBECONFIG=self.found["kubeconfig"])
        assert done.out, done.err
        return done.code, done.json

    def checked(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        code, told = self.run("check", *arguments)
        return code, {line["name"]: line for line in told["checks"]}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    api = Api(tmp_path_factory.mktemp("api"))
    try:
        yield api
    finally:
        subprocess.run([ROOT / "hack" / "cluster", "apiserver-down", "--dir", api.folder], timeout=60)


@pytest.fixture(scope="module")
def empty(api: Api) -> tuple[int, dict[str, Any]]:
    """What is told before anything is installed."""
    return api.checked("--pre")


@pytest.fixture(scope="module")
def installed(api: Api, empty: Any) -> Api:
    api.kubectl("apply", "-k", str(ROOT / "manifests"))
    api.kubectl("create", "namespace", "locked")
    api.kubectl("label", "namespace", "locked", "pod-security.kubernetes.io/enforce=restricted")
    return api


def test_before_an_install(empty: tuple[int, dict[str, Any]]):
    code, lines = empty
    assert code == 0
    assert lines["API server"]["level"] == "ok"
    assert lines["rights to install"]["level"] == "ok"
    assert lines["discovery"]["level"] == "note", "no ClusterRole yet"


def test_installed_without_an_injector_that_runs(installed: Api):
    code, lines = installed.checked()
    assert code == 1
    assert lines["injector"]["text"].startswith("0 of ")
    assert "no caBundle" in lines["webhook"]["text"]
    assert lines["matchConditions"]["level"] == "ok"
    assert lines["failurePolicy"]["level"] == "ok"
    assert lines["discovery"]["level"] == "ok", "manifests/ give sidecars what they read"
    assert lines["injection"]["level"] == "failed"


def test_a_namespace_that_enforces_restricted(installed: Api):
    _, lines = installed.checked("-n", "locked", "--capture", "iptables")
    assert lines["Pod Security"]["level"] == "failed"
    assert lines["injection"]["level"] == "failed", "let in, though: the tried pod fits restricted"
    _, lines = installed.checked("-n", "locked", "--capture", "hosts")
    assert lines["Pod Security"]["level"] == "ok"


def test_the_webhook_leaves_its_own_namespace_out(installed: Api):
    _, lines = installed.checked("-n", "evenstream-system")
    assert lines["injection"]["level"] == "note"
    assert "NotIn kube-system, evenstream-system" in lines["injection"]["text"]


def test_somebody_with_few_rights(installed: Api):
    """Skipped lines, no failure of the command itself."""
    installed.kubectl("create", "serviceaccount", "few", "-n", "locked")
    token = installed.kubectl("create", "token", "few", "-n", "locked").strip()
    config = json.loads(installed.kubectl("config", "view", "--raw", "-o", "json"))
    config["users"][0]["user"] = {"token": token}
    path = installed.folder / "few.kubeconfig"
    path.write_text(json.dumps(config))
    done = inside("check", "-n", "locked", "-o", "json", KUBECONFIG=str(path))
    lines = {line["name"]: line for line in done.json["checks"]}
    assert lines["nodes"]["level"] == "skipped"
    assert "nodes is forbidden" in lines["nodes"]["text"]
    assert lines["what is installed"]["level"] == "skipped"


def test_a_pod_that_asked_while_nobody_answered(installed: Api):
    """failurePolicy Ignore lets it start; explain says what happened."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "asked", "annotations": {"evenstream.dev/inject": "enabled"}},
        "spec": {"containers": [{"name": "web", "image": "web:1"}]},
    }
    installed.kubectl("create", "-f", "-", text=json.dumps(pod))
    code, told = installed.run("explain", "asked", "-n", "default")
    assert code == 1
    assert told["text"].startswith("the webhook was not reached when the pod was made")
    _, lines = installed.checked()
    assert "asked and have none: default/asked" in lines["without it"]["text"]


def test_port_forward_to_a_pod_that_no_kubelet_runs_is_one_clear_line(installed: Api):
    status = json.dumps({"version": "0.1.0", "capture": "none", "image": "x", "containers": ["evenstream"]})
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "waits", "annotations": {"evenstream.dev/status": status}},
        "spec": {"containers": [{"name": "web", "image": "web:1"}]},
    }
    installed.kubectl("create", "-f", "-", text=json.dumps(pod))
    code, told = installed.run("explain", "waits", "-n", "default")
    assert code == 1
    (note,) = told["notes"]
    assert note.startswith("no port-forward to pod default/waits: ")
    assert "\n" not in note
