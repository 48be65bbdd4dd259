"""A real kube-apiserver with manifests/ in it, and the injector as its own service account in front of it.

Nothing is scheduled: tests with it are about what the API server sends, accepts and keeps. It uses the
binaries that `hack/cluster build` leaves in its cache; `why_not` says what is missing.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import ssl
import subprocess
import urllib.parse
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).parent.parent.parent
GOLDEN = ROOT / "tests" / "golden"
CACHE = Path(os.environ.get("EVENSTREAM_CACHE") or Path.home() / ".cache" / "evenstream")
# Namespaces that the webhook is not called for, so that the policies are alone there; the second enforces Pod
# Security restricted.
POLICIED = ("policied", "policied-restricted")
START_SECONDS = 120
COMMAND_SECONDS = 60


def why_not() -> str:
    if not any(CACHE.glob("bin/kubernetes-*/kube-apiserver")):
        return "needs kube-apiserver: run `hack/cluster build` first"
    return "" if shutil.which("etcd") else "needs etcd (Debian: etcd-server)"


class Answer(NamedTuple):
    status: int
    body: dict[str, Any]
    warnings: list[str]


class Api:
    """A kube-apiserver, reached as administrator: by its kubectl, or over one kept connection."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        started = subprocess.run(
            [ROOT / "hack" / "cluster", "apiserver-up", "--dir", folder, "--while-pid", str(os.getpid())],
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
        )
        assert started.returncode == 0, started.stderr
        self.found = json.loads(started.stdout)
        url = urllib.parse.urlsplit(self.found["url"])
        self._connection = http.client.HTTPSConnection(
            str(url.hostname),
            url.port,
            context=ssl.create_default_context(cafile=self.found["ca"]),
            timeout=COMMAND_SECONDS,
        )

    def stop(self) -> None:
        self._connection.close()
        subprocess.run([ROOT / "hack" / "cluster", "apiserver-down", "--dir", self.folder], timeout=60)

    def request(self, method: str, path: str, body: object = None) -> Answer:
        headers = {"Authorization": f"Bearer {self.found['token']}", "Content-Type": "application/json"}
        self._connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = self._connection.getresponse()
        warnings = response.headers.get_all("Warning") or []
        return Answer(response.status, json.loads(response.read()), warnings)

    def try_pod(self, pod: dict[str, Any], namespace: str) -> Answer:
        """What the API server would make of a pod that is created."""
        return self.request("POST", f"/api/v1/namespaces/{namespace}/pods?dryRun=All", pod)

    def kubectl(
        self, *arguments: str, text: str = "", check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [self.found["kubectl"], "--kubeconfig", self.found["kubeconfig"], *arguments],
            input=text,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    def create(self, thing: dict[str, Any], *arguments: str) -> tuple[dict[str, Any], str]:
        """(what the API server made of it, the warnings it sent)."""
        done = self.kubectl("create", "-o", "json", "-f", "-", *arguments, text=json.dumps(thing))
        return json.loads(done.stdout), done.stderr

    def kubeconfig_of(self, account: str, namespace: str) -> Path:
        """For that service account, by a token of its own."""
        token = self.kubectl("create", "token", account, "-n", namespace).stdout.strip()
        config = yaml.safe_load(Path(self.found["kubeconfig"]).read_text())
        config["users"] = [{"name": "account", "user": {"token": token}}]
        config["contexts"][0]["context"]["user"] = "account"
        config["current-context"] = config["contexts"][0]["name"]
        path = self.folder / f"{account}.kubeconfig"
        path.write_text(yaml.safe_dump(config))
        return path


def asking_pod(name: str, namespace: str = "default", **annotations: str) -> dict[str, Any]:
    annotations = {"evenstream.dev/inject": "enabled"} | {
        f"evenstream.dev/{key.replace('_', '-')}": text for key, text in annotations.items()
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "annotations": annotations},
        "spec": {
            # What the ServiceAccount admission plugin puts in; it is off here, for want of a controller.
            "serviceAccountName": "default",
            "initContainers": [{"name": "first", "image": "first:1"}],
            "containers": [{"name": "client", "image": "client:1"}],
        },
    }
