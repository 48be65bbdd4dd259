"""The Kubernetes objects the tests make, beside those of examples/greeter."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from .load import manifest

Json = dict[str, Any]

IMAGE: Final = "evenstream-greeter:dev"
# Stays until told to end, and then ends at once: the tests start the real programs by exec.
IDLE: Final = ("sh", "-c", "trap 'exit 0' TERM; sleep infinity & wait")


def annotated(**settings: str) -> dict[str, str]:
    """`evenstream.dev/` annotations; inject="enabled" unless given."""
    settings = {"inject": "enabled", **settings}
    return {f"evenstream.dev/{key.replace('_', '-')}": text for key, text in settings.items()}


def client_pod(name: str, annotations: Mapping[str, str], command: Sequence[str] = IDLE, **spec: Any) -> Json:
    """A pod as examples/greeter/client.yaml makes them, that waits to be used. `spec`: more of its spec."""
    (deployment,) = manifest("client.yaml")
    template = copy.deepcopy(deployment["spec"]["template"]["spec"])
    template["containers"][0]["command"] = list(command)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}, "annotations": dict(annotations)},
        "spec": {**template, **spec},
    }


def sidecar_image(pod: Json) -> str:
    """Of the sidecar that a pod was given; empty if it was given none."""
    given = {each["name"]: each["image"] for each in pod["spec"].get("initContainers", ())}
    return str(given.get("evenstream", ""))


def renamed_greeter(name: str, replicas: int) -> tuple[Json, Json]:
    """The Service and the Deployment of examples/greeter/backend.yaml under another name; its pods go at once."""
    made = json.loads(json.dumps(manifest("backend.yaml")).replace('"greeter"', f'"{name}"'))
    greeter, deployment = made
    deployment["spec"]["replicas"] = replicas
    spec = deployment["spec"]["template"]["spec"]
    del spec["containers"][0]["lifecycle"]
    spec["terminationGracePeriodSeconds"] = 0
    return greeter, deployment


def service(name: str, ports: Mapping[str, int], selector: str = "", **port: str) -> Json:
    """A ClusterIP Service; without a `selector` nobody writes its EndpointSlices but the test.
    `port`: more fields of each port."""
    spec: Json = {"ports": [{"name": key, "port": number, **port} for key, number in ports.items()]}
    if selector:
        spec["selector"] = {"app": selector}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def endpoint_slice(name: str, service_name: str, port: Mapping[str, Any], pods: Sequence[Json]) -> Json:
    """A slice of `service_name` with these pods, all ready."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/service-name": service_name,
                "endpointslice.kubernetes.io/managed-by": "evenstream-e2e",
            },
        },
        "addressType": "IPv4",
        "ports": [dict(port)],
        "endpoints": [
            {
                "addresses": [pod["status"]["podIP"]],
                "conditions": {"ready": True},
                "targetRef": {"kind": "Pod", "name": pod["metadata"]["name"]},
            }
            for pod in pods
        ],
    }
