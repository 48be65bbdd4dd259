"""The Kubernetes objects the demo's sidecar reads: one Service and its EndpointSlice, in a file as
`kubectl get svc,endpointslices -o json` prints them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

SERVICE: Final = "greeter"
NAMESPACE: Final = "default"
SERVICE_PORT: Final = 50051
PORT_NAME: Final = "greetings"


class Pod(NamedTuple):
    """One greeter server as the EndpointSlice shows it."""

    name: str
    host: str
    port: int
    # Being deleted, as the control plane writes it from then on until the pod is gone: not ready any more,
    # but still serving (KEP-1672).
    terminating: bool = False


def service_list(cluster_ip: str, pods: Sequence[Pod], revision: int, name: str = SERVICE) -> dict[str, Any]:
    """The List object. Pods share one target port (one EndpointSlice has one). Raises ValueError if not."""
    ports = {pod.port for pod in pods}
    if len(ports) > 1:
        raise ValueError(f"target ports: {sorted(ports)} are not allowed; allowed: one port for all pods")
    items = [_service(cluster_ip, revision, name), _slice(pods, revision, name)]
    return {"apiVersion": "v1", "items": items, "kind": "List", "metadata": {"resourceVersion": ""}}


def _service(cluster_ip: str, revision: int, name: str) -> dict[str, Any]:
    port = {"name": PORT_NAME, "port": SERVICE_PORT, "protocol": "TCP", "targetPort": PORT_NAME}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": NAMESPACE, "resourceVersion": str(revision)},
        "spec": {
            "clusterIP": cluster_ip,
            "clusterIPs": [cluster_ip],
            "ports": [port],
            "selector": {"app": name},
            "type": "ClusterIP",
        },
    }


def _slice(pods: Sequence[Pod], revision: int, name: str) -> dict[str, Any]:
    return {
        "addressType": "IPv4",
        "apiVersion": "discovery.k8s.io/v1",
        "endpoints": [_endpoint(pod) for pod in pods],
        "kind": "EndpointSlice",
        "metadata": {
            "labels": {"kubernetes.io/service-name": name},
            "name": f"{name}-demo1",
            "namespace": NAMESPACE,
            "resourceVersion": str(revision),
        },
        "ports": [{"name": PORT_NAME, "port": pod.port, "protocol": "TCP"} for pod in pods[:1]],
    }


def _endpoint(pod: Pod) -> dict[str, Any]:
    return {
        "addresses": [pod.host],
        "conditions": {"ready": not pod.terminating, "serving": True, "terminating": pod.terminating},
        "targetRef": {"kind": "Pod", "name": pod.name, "namespace": NAMESPACE},
    }


class ObjectsFile:
    """The file, replaced as a whole at each change, so that no reader ever sees half of it."""

    def __init__(self, path: Path, cluster_ip: str) -> None:
        self.path = path
        self._cluster_ip = cluster_ip
        self._revision = 0

    def write(self, pods: Sequence[Pod]) -> float:
        """Replace the content; the moment (monotonic clock) just before it could be seen."""
        self._revision += 1
        text = json.dumps(service_list(self._cluster_ip, pods, self._revision), indent=4)
        # In the same directory: a rename is atomic only within one file system.
        beside = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        beside.write_text(text + "\n")
        moment = time.monotonic()
        beside.replace(self.path)
        return moment
