"""Evenstream in a cluster: put in, taken out, and what is told when something fails."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from .kube import ROOT, Cluster, KubeError, Namespace, hack, wait_for
from .things import annotated, client_pod

SYSTEM: Final = "evenstream-system"
MANIFESTS: Final = ROOT / "manifests"
GREETER: Final = ROOT / "examples" / "greeter"
WEBHOOK: Final = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/evenstream-injector"
# Everything of ours that is not in a namespace. `kubectl delete -k manifests/` must leave none of it.
PART_OF: Final = "app.kubernetes.io/part-of=evenstream"
CLUSTER_KINDS: Final = (
    "namespaces",
    "clusterroles",
    "clusterrolebindings",
    "mutatingwebhookconfigurations",
    "validatingwebhookconfigurations",
    "customresourcedefinitions",
    "priorityclasses",
)

ROLLOUT_SECONDS: Final = 120.0  # pods one after the other on a small, busy node
# A namespace goes when its pods have; the injector's preStop alone takes 5 s.
UNINSTALL_SECONDS: Final = 120.0
NAMESPACE_SECONDS: Final = 120.0
# Within the API server's own delay for a changed webhook configuration.
IN_FORCE_SECONDS: Final = 30.0
LOG_LINES: Final = 60
DESCRIBE_CHARACTERS: Final = 12_000


class NotOursError(KubeError):
    """The cluster has an Evenstream that these programs did not install."""


def is_foreign(cluster: Cluster) -> bool:
    """Whether somebody's own cluster has an Evenstream already, which is not ours to replace or take out."""
    return bool(cluster.context) and cluster.api.find(f"/api/v1/namespaces/{SYSTEM}") is not None


def refuse_if_installed(cluster: Cluster) -> None:
    """Raises NotOursError."""
    if is_foreign(cluster):
        raise NotOursError(
            f"context {cluster.context} has a namespace {SYSTEM} already, and this program installs and "
            "uninstalls Evenstream; take it out first, or choose another context"
        )


def install(cluster: Cluster) -> None:
    """`kubectl apply -k manifests/`, and return when pods are injected."""
    _apply(cluster.namespace(SYSTEM), MANIFESTS)
    wait_for("the API server calls the webhook", lambda: injects(cluster), IN_FORCE_SECONDS, every=0.2)


def _apply(namespace: Namespace, folder: Path) -> None:
    """`kubectl apply -k`, and return when its Deployments have rolled out. Those that were there already are
    started again: their images' tag may mean other images by now."""
    for line in namespace.kubectl("apply", "-k", str(folder)).splitlines():
        thing, _, done = line.partition(" ")
        if thing.startswith("deployment.apps/") and done != "created":
            namespace.kubectl("rollout", "restart", thing)
    for thing in namespace.kubectl("get", "deployments", "--output=name").split():
        namespace.kubectl(
            *("rollout", "status", thing, f"--timeout={ROLLOUT_SECONDS:.0f}s"), seconds=ROLLOUT_SECONDS + 10
        )


def injects(cluster: Cluster) -> bool:
    """Whether a pod that asks gets the sidecar now; tried without making one."""
    pod = client_pod("evenstream-probe", annotated())
    made = cluster.api.create("/api/v1/namespaces/default/pods?dryRun=All", pod)
    return any(each["name"] == "evenstream" for each in made["spec"].get("initContainers", ()))


def uninstall(cluster: Cluster) -> None:
    """`kubectl delete -k manifests/`, and return when all is gone."""
    cluster.kubectl(
        *("delete", "-k", str(MANIFESTS), "--ignore-not-found", f"--timeout={UNINSTALL_SECONDS:.0f}s"),
        seconds=UNINSTALL_SECONDS + 10,
    )


def left_behind(cluster: Cluster) -> list[str]:
    """What an uninstalled Evenstream still has in the cluster: by its label, and by its name."""
    kinds = ",".join(CLUSTER_KINDS)
    labelled = cluster.kubectl("get", kinds, "--selector", PART_OF, "--output=name").split()
    listed = cluster.kubectl("get", kinds, "--output=name").split()
    return sorted({*labelled, *(name for name in listed if "/evenstream" in name)} - own_namespaces(listed))


def own_namespaces(listed: Sequence[str]) -> set[str]:
    """The namespaces of tests and demo, which also begin with our name."""
    return {
        name for name in listed if name.startswith(("namespace/evenstream-e2e", "namespace/evenstream-demo"))
    }


def build_images() -> None:
    """All three, into the cluster that CONTEXT or hack/cluster means."""
    hack("images", seconds=2400.0, show=True)


def deploy_greeter(namespace: Namespace, folder: Path = GREETER) -> None:
    """examples/greeter, as it stands or as `folder` changes it; return when all of it is ready."""
    _apply(namespace, folder)


def make_namespace(cluster: Cluster, name: str) -> Namespace:
    """A new, empty one; one of that name that an earlier run left goes first."""
    delete_namespace(cluster, name)
    path = f"/api/v1/namespaces/{name}"
    wait_for(f"namespace {name} is gone", lambda: cluster.api.find(path) is None, NAMESPACE_SECONDS, 0.2)
    return ensure_namespace(cluster, name)


def ensure_namespace(cluster: Cluster, name: str) -> Namespace:
    """The one there is, or a new one."""
    if cluster.api.find(f"/api/v1/namespaces/{name}") is None:
        cluster.api.create("/api/v1/namespaces", {"metadata": {"name": name}})
    namespace = cluster.namespace(name)
    # A pod created before it exists would be refused.
    wait_for(
        "the default service account exists",
        lambda: cluster.api.find(namespace.path("serviceaccounts", "default")),
        NAMESPACE_SECONDS,
    )
    return namespace


def delete_namespace(cluster: Cluster, name: str) -> None:
    """Returns at once: it goes when its pods have ended, each in its grace."""
    cluster.api.delete(f"/api/v1/namespaces/{name}")


def injector_logs(cluster: Cluster) -> str:
    """Of all replicas that run."""
    return cluster.kubectl(
        *("--namespace", SYSTEM, "logs", "--selector=app.kubernetes.io/name=evenstream-injector"),
        "--tail=-1",
    )


def diagnose(cluster: Cluster, namespace: str) -> str:
    """What a person would look at first: pods, events, and the logs of all our containers."""
    parts: list[str] = []

    def add(title: str, *words: str, most: int = DESCRIBE_CHARACTERS) -> None:
        try:
            done = cluster.kubectl.try_(*words, seconds=20.0)
        except KubeError as error:
            parts.append(f"--- {title}\n{error}")
            return
        text = (done.stdout + done.stderr).strip()
        parts.append(f"--- {title}\n{text[-most:]}")

    for name in (namespace, SYSTEM):
        inside = ("--namespace", name)
        add(f"pods of {name}", *inside, "get", "pods,endpointslices", "--output=wide")
        add(f"events of {name}", *inside, "get", "events", "--sort-by=.lastTimestamp", most=4000)
    add("pods, described", "--namespace", namespace, "describe", "pods")
    logs = ("logs", f"--tail={LOG_LINES}", "--timestamps")
    add("injector", "--namespace", SYSTEM, *logs, "--selector=app.kubernetes.io/name=evenstream-injector")
    for pod, container in _containers(cluster, namespace):
        add(f"{pod}/{container}", "--namespace", namespace, *logs, pod, f"--container={container}")
    return "\n".join(parts)


def _containers(cluster: Cluster, namespace: str) -> list[tuple[str, str]]:
    """The containers whose words matter: the sidecar, its init container, the clients."""
    try:
        pods: list[dict[str, Any]] = json.loads(
            cluster.kubectl("--namespace", namespace, "get", "pods", "--output=json")
        )["items"]
    except KubeError:
        return []
    wanted = {"evenstream", "evenstream-init", "client"}
    return [
        (pod["metadata"]["name"], each["name"])
        for pod in pods
        for each in [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]
        if each["name"] in wanted
    ]
