"""What no API gives, and hack/cluster's own node does: a container's process, a pod's network, the control
plane's programs. None of it goes through the API server, so it works while that is away."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from localcluster import images

from .kube import CLUSTER, COMMAND_SECONDS, Json, KubeError, hack, without_proxy

APISERVER: Final = "kube-apiserver"
# examples/greeter's, as their manifests and Dockerfile have them.
CLIENT_USER: Final = "10001"
CLIENT_DIRECTORY: Final = "/greeter"
CLIENT_PYTHON: Final = "/opt/venv/bin/python"
STATUS: Final = "http://127.0.0.1:15020/status"


class Container:
    """A running container's first process; keep it, for finding it asks the API server."""

    def __init__(self, pod: Json, name: str) -> None:
        self.name: Final = name
        self.pid: Final = _pid(pod, name)

    def signal(self, name: str) -> None:
        """As `kill -NAME`; what a container cannot do to its own first process."""
        run("kill", f"-{name}", self.pid)

    def in_network(self, *words: str) -> str:
        """Standard output of one of the machine's own programs, run in the pod's network."""
        return run("nsenter", f"--target={self.pid}", "--net", *words)

    def status(self) -> Json:
        """/status of the sidecar in the container's pod."""
        script = f"import urllib.request as r; print(r.urlopen('{STATUS}', timeout=5).read().decode())"
        return dict(json.loads(self.in_network("python3", "-c", script)))

    @contextmanager
    def cut_off(self, address: str) -> Iterator[None]:
        """Drop all packets between the container's pod and `address`, both ways."""
        rules = (("INPUT", "--source"), ("OUTPUT", "--destination"))
        for chain, side in rules:
            self.in_network("iptables", "--insert", chain, side, address, "--jump", "DROP")
        try:
            yield
        finally:
            for chain, side in rules:
                self.in_network("iptables", "--delete", chain, side, address, "--jump", "DROP")

    def start_client(self, words: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        """The greeter client in the container, as `kubectl exec` would start it."""
        return subprocess.Popen(
            [
                *(sys.executable, CLUSTER, "exec", "nsenter", f"--target={self.pid}"),
                *("--mount", "--net", "--pid", f"--setgid={CLIENT_USER}", f"--setuid={CLIENT_USER}", "--"),
                *(
                    "sh",
                    "-c",
                    f'cd {CLIENT_DIRECTORY} && exec "$@"',
                    "sh",
                    CLIENT_PYTHON,
                    "client.py",
                    *words,
                ),
            ],
            text=True,
            env=without_proxy(),
            start_new_session=True,
            **options,
        )


def run(*words: str) -> str:
    """Standard output of a command where the cluster's processes live. Raises KubeError if it fails."""
    return hack("exec", *words, seconds=COMMAND_SECONDS)


@contextmanager
def without(program: str) -> Iterator[None]:
    """One of the control plane's programs killed, and kept down."""
    hack("stop", program, seconds=COMMAND_SECONDS)
    try:
        yield
    finally:
        hack("start", program, seconds=COMMAND_SECONDS)


def _pid(pod: Json, name: str) -> str:
    status = pod["status"]
    statuses = [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
    for each in statuses:
        if each["name"] == name and "running" in each["state"]:
            wanted = each["containerID"].removeprefix("containerd://")
            break
    else:
        raise KubeError(f"pod {pod['metadata']['name']} has no running container {name}")
    for line in run(*images.ctr("tasks", "list")).splitlines():
        task, pid, *_ = line.split()
        if task == wanted:
            return pid
    raise KubeError(f"containerd knows no process of container {name} of pod {pod['metadata']['name']}")
