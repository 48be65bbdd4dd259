"""The injector as a process, and a client that talks to it as the API server does: TLS, one POST a review."""

from __future__ import annotations

import base64
import http.client
import json
import os
import queue
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Self

from freeports import free_port

DEADLINE_SECONDS = 30.0
NAME = "evenstream-injector.evenstream-system.svc"


class Injector:
    """`python -m injector serve` on a free loopback port."""

    def __init__(self, kubeconfig: Path, port: int = 0, *arguments: str, address: str = "127.0.0.1") -> None:
        """`address`: empty for all, as the injector listens in its pod."""
        self.port = port or free_port()
        environment = {
            **os.environ,
            "KUBECONFIG": str(kubeconfig),
            "PYTHONPATH": str(_as_nobody(kubeconfig.parent)),
        }
        environment.pop("KUBERNETES_SERVICE_HOST", None)
        command = [
            sys.executable,
            "-m",
            "injector",
            "serve",
            *(("--address", address) if address else ()),
            "--port",
            str(self.port),
        ]
        self.process = subprocess.Popen(
            [*command, *arguments], env=environment, stderr=subprocess.PIPE, text=True
        )
        self.lines: list[str] = []
        self._new: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._new.put(line)
        self._new.put(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)

    def wait_for(self, pattern: str) -> str:
        """The first line from now on that matches."""
        until = time.monotonic() + DEADLINE_SECONDS
        while True:
            try:
                line = self._new.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                line = None
            if line is None:
                raise AssertionError(f"no line with {pattern!r} in:\n{''.join(self.lines)}")
            self.lines.append(line)
            if re.search(pattern, line):
                return line

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_SECONDS)


def _as_nobody(folder: Path) -> Path:
    """In a pod the program's user has no name; Python asks this module before all others."""
    path = folder / "nobody"
    path.mkdir(exist_ok=True)
    text = "import pwd\ndef _none(uid): raise KeyError(uid)\npwd.getpwuid = _none\n"
    text += "import os\nfor name in ('LOGNAME', 'USER', 'LNAME', 'USERNAME'): os.environ.pop(name, None)\n"
    (path / "sitecustomize.py").write_text(text)
    return path


class _Named(http.client.HTTPSConnection):
    """Connects to 127.0.0.1 and verifies the Service's name, as the API server does."""

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self._context.wrap_socket(self.sock, server_hostname=NAME)  # type: ignore[attr-defined]


def connect(port: int, ca: bytes) -> http.client.HTTPSConnection:
    context = ssl.create_default_context(cadata=ca.decode())
    return _Named("127.0.0.1", port, context=context, timeout=DEADLINE_SECONDS)


def post(port: int, ca: bytes, body: bytes, path: str = "/mutate") -> tuple[int, bytes]:
    connection = connect(port, ca)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def review(pod: dict[str, Any], namespace: str = "shop", operation: str = "CREATE") -> dict[str, Any]:
    """As a 1.34 API server sends it for a pod of a ReplicaSet (the fields that matter)."""
    return {
        "kind": "AdmissionReview",
        "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": "6c6a1f2a-0000-4000-8000-000000000001",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
            "requestResource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": namespace,
            "operation": operation,
            "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller", "groups": []},
            "object": pod,
            "oldObject": None,
            "dryRun": False,
            "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
        },
    }


def patch_of(response: dict[str, Any]) -> list[dict[str, Any]]:
    if "patch" not in response:
        return []
    assert response["patchType"] == "JSONPatch"
    patch = json.loads(base64.b64decode(response["patch"]))
    assert isinstance(patch, list)
    return patch
