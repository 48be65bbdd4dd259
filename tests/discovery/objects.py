"""Service and EndpointSlice objects as the API server prints them."""

from __future__ import annotations

import json
from typing import Any


def service(
    name: str = "greeter",
    namespace: str = "default",
    ip: str = "10.96.0.10",
    ports: list[dict[str, Any]] | None = None,
    version: str = "1",
) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace, "resourceVersion": version},
        "spec": {
            "clusterIP": ip,
            "clusterIPs": [ip],
            "ports": ports or [{"name": "grpc", "port": 50051, "protocol": "TCP", "targetPort": 50051}],
        },
    }


def endpoint(address: str, pod: str = "", zone: str = "", **conditions: bool | None) -> dict[str, Any]:
    made: dict[str, Any] = {"addresses": [address], "conditions": conditions}
    if pod:
        made["targetRef"] = {"kind": "Pod", "name": pod}
    if zone:
        made["zone"] = zone
    return made


def endpoint_slice(
    name: str,
    endpoints: list[dict[str, Any]],
    service: str = "greeter",
    namespace: str = "default",
    ports: list[dict[str, Any]] | None = None,
    family: str = "IPv4",
    version: str = "1",
) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "resourceVersion": version,
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": family,
        "endpoints": endpoints,
        "ports": [{"name": "grpc", "port": 50051, "protocol": "TCP"}] if ports is None else ports,
    }


def listing(*items: dict[str, Any]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(items)})
