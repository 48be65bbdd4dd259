"""Why a pod has the sidecar or not, why an endpoint is left out, why a connection was passed through. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from contract import names
from injector.admission.decision import BadPodError, Options, decide
from injector.cli import installation, policies
from injector.cli.installation import Caller
from injector.cli.pods import status_of

Json = Mapping[str, Any]

RESTART: Final = "make the pod anew: kubectl rollout restart, or delete it"
ASK: Final = f'put {names.INJECT_ANNOTATION}: "enabled" into the pod template\'s annotations'

PASSED_THROUGH: Final = {
    "tls": (
        "TLS",
        "the application encrypts, so its streams cannot be told apart: let it speak plaintext to the Service",
    ),
    "http1": ("HTTP/1", "no gRPC: nothing to spread by stream"),
    "not_http2": ("not HTTP/2", "no gRPC: nothing to spread by stream"),
    "server_first": ("the server spoke first", "no gRPC: nothing to spread by stream"),
    "not_a_service": (
        "no Service's address",
        "a pod's own address (a headless Service), or outside of the cluster: dial the Service's clusterIP",
    ),
    "not_resolved": (
        "not found out in time",
        "the API server did not say whose address it is; later connections are tried again",
    ),
    "excluded": ("excluded", "an annotation of the pod says so"),
}


class Why(NamedTuple):
    """`wanted`: the pod asks for the sidecar, whether or not it has it."""

    injected: bool
    wanted: bool
    text: str
    do: str = ""


class Surroundings(NamedTuple):
    """What else there is to know of a pod: all may be missing."""

    callers: Sequence[Caller] = ()  # what has pods injected; none: not installed
    namespace_labels: Mapping[str, str] = {}
    owner: Json | None = None  # the Deployment, StatefulSet, Job, ... that it was made for
    callers_known: bool = True  # False: we may not look


def injection(pod: Json, around: Surroundings) -> Why:
    """Whether the pod is injected, and why (not), as far as can be told from what is there now."""
    status = status_of(pod)
    metadata = pod.get("metadata") or {}
    annotations = metadata.get("annotations") or {}
    wants = annotations.get(names.INJECT_ANNOTATION)
    if status is not None:
        image, version, mode = (status.get(key, "unknown") for key in ("image", "version", "capture"))
        return Why(True, True, f"injected: {image}, version {version}, capture: {mode}")
    if wants is None:
        return _did_not_ask(around.owner)
    if wants == "disabled":
        return Why(False, False, f'its annotation {names.INJECT_ANNOTATION} is "disabled"')
    try:
        restricted = policies.is_restricted(around.namespace_labels)
        decision = decide(pod, Options(), str(metadata.get("namespace") or ""), restricted=restricted)
    except BadPodError as error:
        return Why(False, True, str(error))
    if not decision.patch:
        return Why(False, True, decision.reason, "change that, then " + RESTART)
    return _not_called(metadata, around)


def _did_not_ask(owner: Json | None) -> Why:
    if owner is None:
        return Why(False, False, f"it has no annotation {names.INJECT_ANNOTATION}", ASK)
    named = f"{owner.get('kind')} {(owner.get('metadata') or {}).get('name')}"
    if _asks(_template(owner)):
        return Why(False, True, f"{named} asks for the sidecar by now, but this pod was made before", RESTART)
    if _asks(owner):
        text = f"the annotation stands on {named} itself, where it does nothing"
        return Why(False, True, text, ASK)
    return Why(False, False, f"it has no annotation {names.INJECT_ANNOTATION}, nor has {named}", ASK)


def _template(owner: Json) -> Json:
    spec = owner.get("spec") or {}
    inner = (spec.get("jobTemplate") or {}).get("spec") or spec
    return inner.get("template") or {}


def _asks(thing: Json) -> bool:
    annotations = (thing.get("metadata") or {}).get("annotations") or {}
    return bool(annotations.get(names.INJECT_ANNOTATION, "disabled") != "disabled")


def _not_called(metadata: Json, around: Surroundings) -> Why:
    """Nothing is wrong with the pod, so nobody looked at it when it was made."""
    namespace = str(metadata.get("namespace"))
    if not around.callers:
        if not around.callers_known:
            text = "the pod could have the sidecar, so nobody was asked when it was made"
            return Why(False, True, text, "see why: evenstream check")
        return Why(False, True, "Evenstream is not installed in this cluster", "kubectl apply -k manifests/")
    left_out = installation.excluded(around.callers, namespace, around.namespace_labels)
    if left_out:
        return Why(False, True, f"pods of namespace {namespace} are left alone: {left_out}")
    installed = min(caller.since for caller in around.callers)
    made = str(metadata.get("creationTimestamp") or "")
    if made and installed and made < installed:
        return Why(False, True, f"the pod ({made}) is older than the installation ({installed})", RESTART)
    text = "the webhook was not reached when the pod was made, or the annotation was added to the running pod"
    return Why(
        False, True, text, f"see whether it works now: evenstream check -n {namespace}; then {RESTART}"
    )


class LeftOut(NamedTuple):
    """An endpoint that the Service has and the sidecar does not use."""

    pod: str
    address: str
    why: str


def left_out(service: Json | None, slices: Iterable[Json], port: int, used: Iterable[str]) -> list[LeftOut]:
    """Of the EndpointSlices of a Service, those endpoints whose address (10.0.0.7:50051) is not in `used`."""
    spec = (service or {}).get("spec") or {}
    wanted = next((each for each in spec.get("ports") or [] if each.get("port") == port), None)
    families = spec.get("ipFamilies") or []
    known, found = set(used), []
    for one in slices:
        family = one.get("addressType")
        number = _slice_port(one, wanted)
        for endpoint in one.get("endpoints") or []:
            host = str((endpoint.get("addresses") or ["?"])[0])
            address = f"[{host}]:{number}" if ":" in host else f"{host}:{number}"
            if number is not None and address in known:
                continue
            pod = str((endpoint.get("targetRef") or {}).get("name") or "")
            shown = address if number is not None else host
            found.append(LeftOut(pod, shown, _why_left_out(endpoint, family, families, wanted, number)))
    return sorted(set(found))


def _slice_port(one: Json, wanted: Json | None) -> int | None:
    """The number that stands in this slice for the Service's port."""
    if wanted is None:
        return None
    for each in one.get("ports") or []:
        if (each.get("name") or "") == (wanted.get("name") or "") and each.get("port"):
            return int(each["port"])
    return None


def _why_left_out(
    endpoint: Json, family: Any, families: list[Any], wanted: Json | None, number: int | None
) -> str:
    """By the rules of KEP-752 and KEP-1672, as the sidecar applies them."""
    conditions = endpoint.get("conditions") or {}
    ready = conditions.get("ready")
    if family == "FQDN":
        return "a name, not an address"
    if families and family != families[0]:
        return f"{family}, while the Service's first family is {families[0]}"
    if wanted is None:
        return "the Service has no such port"
    if number is None:
        return f"its slice has no port named {wanted.get('name') or '(none)'!s}"
    if conditions.get("terminating"):
        serving = conditions.get("serving")
        return "terminating, and others are ready" if serving else "terminating"
    if ready is False:
        return "not ready: its readiness probe fails, or it is still starting"
    return "ready, but the sidecar has not been told of it yet"
