"""Why a pod that asked for the sidecar is left as it is. Each reason is one sentence for the person who
sees it as a warning of `kubectl apply`: what is in the way, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from contract import names
from contract.settings import BY_NAME
from contract.values import quantity_value
from injector.admission import hosts
from injector.admission.shape import as_map, as_maps, containers, pod_budget

_OUR_CONTAINERS: Final = (names.SIDECAR_CONTAINER, names.INIT_CONTAINER)
_OUR_VOLUMES: Final = (names.TOKEN_VOLUME, names.STATE_VOLUME)
_MIRROR_ANNOTATION: Final = "kubernetes.io/config.mirror"
_OS_LABELS: Final = ("kubernetes.io/os", "beta.kubernetes.io/os")
# apimachinery's TotalAnnotationSizeLimitB: keys and values of one object together.
MAX_ANNOTATION_BYTES: Final = 256 * 1024

Json = Mapping[str, Any]


def refusal(
    annotations: Json,
    spec: Json,
    values: Json,
    *,
    namespace: str,
    cluster_domain: str,
    native: bool,
    restricted: bool,
) -> str:
    """The first reason not to inject into a pod with this spec, or "" if there is none.

    `values`: the parsed annotations. `namespace`: the pod's, "" if it is not known. `native`: the sidecar
    will be a native one. `restricted`: the namespace enforces Pod Security baseline or restricted.
    """
    capture = values["capture-mode"]
    if _MIRROR_ANNOTATION in annotations:
        return "it mirrors a static pod, which the kubelet runs as its file says and which can have no token"
    if spec.get("hostNetwork"):
        return (
            "hostNetwork: true shares the node's network, where redirect rules and the sidecar's ports "
            "would hit every process of the node; remove hostNetwork or the annotation"
        )
    if _is_windows(spec):
        return "Windows pods have neither iptables nor this sidecar's image; remove the annotation"
    if not native and spec.get("restartPolicy", "Always") != "Always":
        return (
            "this cluster has no native sidecars (Kubernetes before 1.29), and a plain one would keep the pod "
            "from ever completing; remove the annotation or set restartPolicy: Always"
        )
    if restricted and capture == "iptables":
        return (
            f"annotation {names.ANNOTATION_PREFIX}capture: 'iptables' is not allowed in a namespace that enforces "
            "Pod Security baseline or restricted, for its init container needs NET_ADMIN; allowed: hosts, none"
        )
    return (
        _limit_below_request(values)
        or _beside_a_budget(annotations, spec)
        or _name_taken(spec)
        or _user_taken(spec)
        or _port_taken(spec, capture)
        or (hosts.refusal(spec, values["services"], namespace, cluster_domain) if capture == "hosts" else "")
    )


def too_many_annotations(annotations: Mapping[str, str], more: Mapping[str, str]) -> str:
    """The API server would refuse the pod for what our record of it adds."""
    after = {**annotations, **more}
    size = sum(len(text.encode("utf-8", "replace")) for pair in after.items() for text in pair)
    if size <= MAX_ANNOTATION_BYTES:
        return ""
    return (
        f"with {', '.join(more)} its annotations would have {size} bytes; "
        f"allowed: {MAX_ANNOTATION_BYTES} together"
    )


def _limit_below_request(values: Json) -> str:
    """The API server refuses a whole pod for one container whose limit is below its request."""
    for kind in ("cpu", "memory"):
        request, limit = values[f"sidecar-{kind}-request"], values[f"sidecar-{kind}-limit"]
        if limit and quantity_value(limit) < quantity_value(request):
            annotation = BY_NAME[f"sidecar-{kind}-limit"].annotation
            return (
                f"annotation {annotation}: {limit!r} is not allowed; allowed: at least the {kind} request, "
                f"{request} ({BY_NAME[f'sidecar-{kind}-request'].annotation})"
            )
    return ""


def _beside_a_budget(annotations: Json, spec: Json) -> str:
    """Figures of ours on top of the containers' could be more than the pod's own figures for all of them
    together, and the API server would refuse the pod."""
    budget = pod_budget(spec)
    for kind in ("cpu", "memory"):
        for bound in ("request", "limit"):
            annotation = BY_NAME[f"sidecar-{kind}-{bound}"].annotation
            if kind in budget and annotation in annotations:
                return (
                    f"annotation {annotation}: {annotations[annotation]!r} is not allowed where spec.resources "
                    f"has {kind} for the whole pod; allowed: none, the sidecar draws from the pod's"
                )
    return ""


def _is_windows(spec: Json) -> bool:
    selector = as_map(spec.get("nodeSelector"))
    if as_map(spec.get("os")).get("name") == "windows":
        return True
    return any(selector.get(label) == "windows" for label in _OS_LABELS) or _wants_windows(spec)


def _wants_windows(spec: Json) -> bool:
    """Whether every node that its required affinity allows is one with Windows."""
    affinity = as_map(as_map(spec.get("affinity")).get("nodeAffinity"))
    required = as_map(affinity.get("requiredDuringSchedulingIgnoredDuringExecution"))
    terms = as_maps(required.get("nodeSelectorTerms"))

    def is_windows(rule: Json) -> bool:
        return (
            rule.get("key") in _OS_LABELS
            and rule.get("operator") == "In"
            and rule.get("values") == ["windows"]
        )

    return bool(terms) and all(any(map(is_windows, as_maps(term.get("matchExpressions")))) for term in terms)


def _name_taken(spec: Json) -> str:
    taken = [container.get("name") for container in containers(spec)]
    for name in _OUR_CONTAINERS:
        if name in taken:
            return f"the pod has a container {name!r} that is not Evenstream's; rename it"
    volumes = [volume.get("name") for volume in as_maps(spec.get("volumes"))]
    for name in _OUR_VOLUMES:
        if name in volumes:
            return f"the pod has a volume {name!r} that is not Evenstream's; rename it"
    return ""


def _user_taken(spec: Json) -> str:
    """The rules let everything of the sidecar's user through, so nothing else may run as it."""
    pod_user = as_map(spec.get("securityContext")).get("runAsUser")
    for container in containers(spec):
        user = as_map(container.get("securityContext")).get("runAsUser", pod_user)
        if user == names.SIDECAR_UID:
            return (
                f"container {container.get('name')!r} runs as user {names.SIDECAR_UID}, which is the "
                "sidecar's own; give it another runAsUser"
            )
    return ""


def _port_taken(spec: Json, capture: str) -> str:
    ours = (names.ADMIN_PORT, names.CAPTURE_PORT) if capture == "iptables" else (names.ADMIN_PORT,)
    for container in containers(spec):
        for port in as_maps(container.get("ports")):
            number, protocol = port.get("containerPort"), port.get("protocol", "TCP")
            if number in ours and protocol == "TCP":
                return (
                    f"container {container.get('name')!r} has port {number}, which the sidecar needs "
                    "(another mesh, perhaps); one of the two must go"
                )
    return ""
