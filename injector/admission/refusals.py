"""Why a pod that asked for the sidecar is left as it is: one of `messages`, for the person who sees it as a
warning of `kubectl apply`. The admission policy has the same conditions in CEL (injector/policy/reasons.py)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from contract import names
from contract.settings import BY_NAME
from contract.values import quantity_value
from injector.admission import hosts, messages
from injector.admission.shape import as_map, as_maps, containers, pod_budget

OUR_CONTAINERS: Final = (names.SIDECAR_CONTAINER, names.INIT_CONTAINER)
OUR_VOLUMES: Final = (names.TOKEN_VOLUME, names.STATE_VOLUME)
MIRROR_ANNOTATION: Final = "kubernetes.io/config.mirror"
OS_LABELS: Final = ("kubernetes.io/os", "beta.kubernetes.io/os")
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
    if MIRROR_ANNOTATION in annotations:
        return messages.MIRROR
    if spec.get("hostNetwork"):
        return messages.HOST_NETWORK
    if _is_windows(spec):
        return messages.WINDOWS
    if not native and spec.get("restartPolicy", "Always") != "Always":
        return messages.NEVER_COMPLETES
    if restricted and capture == "iptables":
        return messages.RESTRICTED
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
    return messages.ANNOTATION_BYTES.format(annotations=", ".join(more), size=size, most=MAX_ANNOTATION_BYTES)


def _limit_below_request(values: Json) -> str:
    """The API server refuses a whole pod for one container whose limit is below its request."""
    for kind in ("cpu", "memory"):
        request, limit = values[f"sidecar-{kind}-request"], values[f"sidecar-{kind}-limit"]
        if limit and quantity_value(limit) < quantity_value(request):
            return messages.LIMIT_BELOW_REQUEST.format(
                annotation=BY_NAME[f"sidecar-{kind}-limit"].annotation,
                value=repr(limit),
                kind=kind,
                request=request,
                other=BY_NAME[f"sidecar-{kind}-request"].annotation,
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
                return messages.BESIDE_A_BUDGET.format(
                    annotation=annotation, value=repr(annotations[annotation]), kind=kind
                )
    return ""


def _is_windows(spec: Json) -> bool:
    selector = as_map(spec.get("nodeSelector"))
    if as_map(spec.get("os")).get("name") == "windows":
        return True
    return any(selector.get(label) == "windows" for label in OS_LABELS) or _wants_windows(spec)


def _wants_windows(spec: Json) -> bool:
    """Whether every node that its required affinity allows is one with Windows."""
    affinity = as_map(as_map(spec.get("affinity")).get("nodeAffinity"))
    required = as_map(affinity.get("requiredDuringSchedulingIgnoredDuringExecution"))
    terms = as_maps(required.get("nodeSelectorTerms"))

    def is_windows(rule: Json) -> bool:
        return (
            rule.get("key") in OS_LABELS
            and rule.get("operator") == "In"
            and rule.get("values") == ["windows"]
        )

    return bool(terms) and all(any(map(is_windows, as_maps(term.get("matchExpressions")))) for term in terms)


def _name_taken(spec: Json) -> str:
    taken = [container.get("name") for container in containers(spec)]
    for name in OUR_CONTAINERS:
        if name in taken:
            return messages.CONTAINER_NAME.format(container=repr(name))
    volumes = [volume.get("name") for volume in as_maps(spec.get("volumes"))]
    for name in OUR_VOLUMES:
        if name in volumes:
            return messages.VOLUME_NAME.format(volume=repr(name))
    return ""


def _user_taken(spec: Json) -> str:
    """The rules let everything of the sidecar's user through, so nothing else may run as it."""
    pod_user = as_map(spec.get("securityContext")).get("runAsUser")
    for container in containers(spec):
        user = as_map(container.get("securityContext")).get("runAsUser", pod_user)
        if user == names.SIDECAR_UID:
            return messages.USER.format(container=repr(container.get("name")))
    return ""


def _port_taken(spec: Json, capture: str) -> str:
    ours = (names.ADMIN_PORT, names.CAPTURE_PORT) if capture == "iptables" else (names.ADMIN_PORT,)
    for container in containers(spec):
        for port in as_maps(container.get("ports")):
            number, protocol = port.get("containerPort"), port.get("protocol", "TCP")
            if number in ours and protocol == "TCP":
                return messages.PORT.format(container=repr(container.get("name")), port=number)
    return ""
