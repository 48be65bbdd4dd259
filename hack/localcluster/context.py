"""The same commands for a cluster that exists already: CONTEXT=name. Nothing is started or stopped there."""

import os
import subprocess
from collections.abc import Sequence

from . import shell

LOAD_DEADLINE = 600.0  # kind and minikube copy each image to each node


def chosen() -> str:
    return os.environ.get("CONTEXT", "")


def kubeconfig() -> str:
    return os.environ.get("KUBECONFIG") or os.path.expanduser("~/.kube/config")  # noqa: PTH111 (may be a list)


def verify(name: str) -> None:
    done = shell.run(
        ["kubectl", f"--context={name}", "get", "--raw=/readyz", "--request-timeout=10s"], check=False
    )
    if done.returncode != 0:
        raise shell.ClusterError(f"context {name!r} does not answer: {done.stderr.strip()[-300:]}")


def status(name: str) -> None:
    verify(name)
    for words in (["version"], ["get", "nodes"], ["get", "pods", "--all-namespaces"]):
        subprocess.run([shell.need("kubectl"), f"--context={name}", *words], check=False)


def load(name: str, images: Sequence[str]) -> None:
    if name.startswith("kind-"):
        command = ["kind", "load", "docker-image", f"--name={name.removeprefix('kind-')}", *images]
    elif name.startswith("minikube"):
        command = ["minikube", f"--profile={name}", "image", "load", *images]
    else:
        raise shell.ClusterError(
            f"images cannot be copied into context {name!r}: push {' '.join(images)} to a registry it reads"
        )
    shell.run(command, deadline=LOAD_DEADLINE)
    shell.say(f"loaded {' '.join(images)} into {name}")
