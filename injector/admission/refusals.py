"""Why a pod that asked for the sidecar is left as it is. Each reason is one sentence for the person who
sees it as a warning of `kubectl apply`: what is in the way, and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from contract import names

_CONTAINER_LISTS: Final = ("initContainers", "containers", "ephemeralContainers")
_OUR_CONTAINERS: Final = (names.SIDECAR_CONTAINER, names.INIT_CONTAINER)
_OUR_VOLUMES: Final = (names.TOKEN_VOLUME, names.STATE_VOLUME)
_OUR_PORTS: Final = (names.CAPTURE_PORT, names.ADMIN_PORT)
_MIRROR_ANNOTATION: Final = "kubernetes.io/config.mirror"
_WINDOWS_LABEL: Final = "kubernetes.io/os"

Json = Mapping[str, Any]


def refusal(annotations: Json, spec: Json, capture: str) -> str:
    """The first reason not to inject into a pod with this spec, or "" if there is none."""
    if _MIRROR_ANNOTATION in annotations:
        return "it mirrors a static pod, which the kubelet runs as its file says and which can have no token"
    if capture == "hosts":
        return (
            f"annotation {names.ANNOTATION_PREFIX}capture: 'hosts' does not exist yet; "
            "allowed: iptables, none"
        )
    if spec.get("hostNetwork"):
        return (
            "hostNetwork: true shares the node's network, where redirect rules and the sidecar's ports "
            "would hit every process of the node; remove hostNetwork or the annotation"
        )
    if _is_windows(spec):
        return "Windows pods have neither iptables nor this sidecar's image; remove the annotation"
    return _name_taken(spec) or _user_taken(spec) or _port_taken(spec)


def containers(spec: Json) -> Iterator[Json]:
    """Every container of the pod, of all three kinds."""
    for key in _CONTAINER_LISTS:
        yield from _maps(spec.get(key))


def _map(value: Any) -> Json:
    """What is not shaped as the API has it is taken for absent: refusing it is the API server's to do."""
    return value if isinstance(value, Mapping) else {}


def _maps(value: Any) -> list[Json]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _is_windows(spec: Json) -> bool:
    label = _map(spec.get("nodeSelector")).get(_WINDOWS_LABEL)
    return _map(spec.get("os")).get("name") == "windows" or label == "windows"


def _name_taken(spec: Json) -> str:
    taken = [container.get("name") for container in containers(spec)]
    for name in _OUR_CONTAINERS:
        if name in taken:
            return f"the pod has a container {name!r} that is not Evenstream's; rename it"
    volumes = [volume.get("name") for volume in _maps(spec.get("volumes"))]
    for name in _OUR_VOLUMES:
        if name in volumes:
            return f"the pod has a volume {name!r} that is not Evenstream's; rename it"
    return ""


def _user_taken(spec: Json) -> str:
    """The rules let everything of the sidecar's user through, so nothing else may run as it."""
    pod_user = _map(spec.get("securityContext")).get("runAsUser")
    for container in containers(spec):
        user = _map(container.get("securityContext")).get("runAsUser", pod_user)
        if user == names.SIDECAR_UID:
            return (
                f"container {container.get('name')!r} runs as user {names.SIDECAR_UID}, which is the "
                "sidecar's own; give it another runAsUser"
            )
    return ""


def _port_taken(spec: Json) -> str:
    for container in containers(spec):
        for port in _maps(container.get("ports")):
            number, protocol = port.get("containerPort"), port.get("protocol", "TCP")
            if number in _OUR_PORTS and protocol == "TCP":
                return (
                    f"container {container.get('name')!r} has port {number}, which the sidecar needs "
                    "(another mesh, perhaps); one of the two must go"
                )
    return ""
