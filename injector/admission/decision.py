"""Whether a pod gets the sidecar, and the patch that adds it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

import jsonpatch

from contract import names, settings
from injector.admission import containers, hosts, messages, refusals, shape

# An API server cuts warnings when all of a request's are over 4096 characters; a value stays readable in 100.
MAX_SHOWN_VALUE: Final = 100
# kubectl logs, exec and attach take the container that this names; without it, the pod's first.
DEFAULT_CONTAINER_ANNOTATION: Final = "kubectl.kubernetes.io/default-container"

Json = dict[str, Any]


class Options(NamedTuple):
    """What the installation decides, not the pod."""

    sidecar_image: str = names.DEFAULT_SIDECAR_IMAGE
    version: str = ""
    cluster_domain: str = names.DEFAULT_CLUSTER_DOMAIN
    # Whether the cluster has native sidecars: Kubernetes 1.29 and later.
    native_sidecars: bool = True


class Decision(NamedTuple):
    """`patch`: RFC 6902 operations, `add` only, empty if the pod stays as it is. `warnings`: for whoever
    made the pod. `reason`: one phrase for the log."""

    patch: Sequence[Json]
    warnings: Sequence[str]
    reason: str


class BadPodError(ValueError):
    """Not a pod: the text says which field is of the wrong kind."""


def decide(
    pod: Mapping[str, Any], options: Options, namespace: str = "", *, restricted: bool = False
) -> Decision:
    """What to do with a pod, or with a pod template (which has the same metadata and spec).

    `namespace`: where the pod will be, "" if that is not known. `restricted`: that namespace enforces Pod
    Security baseline or restricted, which would refuse a pod with NET_ADMIN. A pod that did not ask, or that has the
    sidecar already, gets neither patch nor warning: a second pass changes nothing. Never raises for anything
    a user can write into an annotation; BadPodError if `pod` is not shaped like one.
    """
    metadata, spec = _mapping(pod, "metadata"), _mapping(pod, "spec")
    annotations = metadata.get("annotations") or {}
    if not isinstance(annotations, Mapping):
        raise BadPodError("metadata.annotations is not a map")
    if names.INJECT_ANNOTATION not in annotations:
        return Decision((), (), "did not ask")
    wrong = next((key for key, text in annotations.items() if not isinstance(text, str)), None)
    if wrong is not None:
        return _unchanged(f"annotation {wrong}: {annotations[wrong]!r} is not a string; quote it")
    try:
        values = settings.from_annotations(annotations)
    except settings.BadSettingError as error:
        return _unchanged(_describe(error))
    if values["inject"] != "enabled":
        return Decision((), (), "disabled")
    _check_lists(spec)
    if is_injected(annotations, spec):
        return Decision((), (), "injected already")
    reason = refusals.refusal(
        annotations,
        spec,
        values,
        namespace=namespace,
        cluster_domain=options.cluster_domain,
        native=options.native_sidecars,
        restricted=restricted,
    )
    if reason:
        return _unchanged(reason)
    additions = _additions(annotations, spec, values, options, namespace)
    reason = refusals.too_many_annotations(annotations, additions.annotations)
    if reason:
        return _unchanged(reason)
    return Decision(additions.patch(annotations, spec), (), f"injected, capture {values['capture-mode']}")


def inject(pod: Mapping[str, Any], decision: Decision) -> Json:
    """The pod after the patch; `pod` itself is not changed."""
    return cast(Json, jsonpatch.apply_patch(dict(pod), list(decision.patch), in_place=False))


def is_injected(annotations: Mapping[str, str], spec: Mapping[str, Any]) -> bool:
    """Our container and our record of it: either alone is something else that has the name."""
    return names.STATUS_ANNOTATION in annotations and any(
        container.get("name") == names.SIDECAR_CONTAINER for container in shape.containers(spec)
    )


class _Additions(NamedTuple):
    """All that an injected pod has more than before. Each list goes to one end of the pod's own."""

    first_init_containers: list[Json]
    last_init_containers: list[Json]
    first_containers: list[Json]
    volumes: list[Json]
    host_aliases: list[Json]
    annotations: dict[str, str]

    def patch(self, annotations: Mapping[str, str], spec: Mapping[str, Any]) -> list[Json]:
        return [
            *_in_front(spec, "initContainers", self.first_init_containers),
            *_at_the_end(spec, "initContainers", self.last_init_containers),
            *_in_front(spec, "containers", self.first_containers),
            *_at_the_end(spec, "volumes", self.volumes),
            *_at_the_end(spec, "hostAliases", self.host_aliases),
            *(
                _add("/metadata/annotations/" + key.replace("~", "~0").replace("/", "~1"), text)
                for key, text in self.annotations.items()
            ),
        ]


def _additions(
    annotations: Mapping[str, str],
    spec: Mapping[str, Any],
    values: Mapping[str, Any],
    options: Options,
    namespace: str,
) -> _Additions:
    """A native sidecar comes first, then the rules, then the pod's own init containers.

    So the rules are set only once the sidecar takes connections, there is no moment at which the pod's
    connections have nowhere to go, and the pod's own init containers and native sidecars, which may need
    the network, find it working. Stopping goes the other way round: the sidecar is the last to go.

    A plain sidecar starts after all init containers. So the rules come last of them, and init containers
    that need the network have it without us.
    """
    capture, native = values["capture-mode"], options.native_sidecars
    asked = settings.BY_NAME["sidecar-image"].annotation in annotations
    image = values["sidecar-image"] if asked else options.sidecar_image
    places = hosts.places(values["services"], namespace) if capture == "hosts" else []
    ours = [containers.sidecar(annotations, values, spec, image, listen=hosts.listens(places), native=native)]
    rules = [containers.capture_init(values, spec, image)] if capture == "iptables" else []
    more: dict[str, str] = {}
    applications = shape.as_maps(spec.get("containers"))
    if not native and applications and DEFAULT_CONTAINER_ANNOTATION not in annotations:
        more[DEFAULT_CONTAINER_ANNOTATION] = str(applications[0].get("name", ""))
    more[names.STATUS_ANNOTATION] = record(options.version, capture, image, list(more))
    return _Additions(
        first_init_containers=[*ours, *rules] if native else [],
        last_init_containers=[] if native else rules,
        first_containers=[] if native else ours,
        volumes=[containers.token_volume(), containers.state_volume()],
        host_aliases=hosts.aliases(places, namespace, options.cluster_domain),
        annotations=more,
    )


def record(version: str, capture: str, image: str, annotations: Sequence[str] = ()) -> str:
    """The status annotation: which version added what. `annotations`: those added beside this one."""
    ours = [names.SIDECAR_CONTAINER, *([names.INIT_CONTAINER] if capture == "iptables" else [])]
    status: Json = {"version": version, "containers": ours, "capture": capture, "image": image}
    if annotations:
        status["annotations"] = annotations
    return json.dumps(status, separators=(",", ":"))


def _in_front(spec: Mapping[str, Any], key: str, added: Sequence[Json]) -> list[Json]:
    if not spec.get(key):
        return [_add(f"/spec/{key}", list(added))] if added else []
    # Each goes in front of those before it, so the last comes first.
    return [_add(f"/spec/{key}/0", one) for one in reversed(added)]


def _at_the_end(spec: Mapping[str, Any], key: str, added: Sequence[Json]) -> list[Json]:
    if not spec.get(key):
        return [_add(f"/spec/{key}", list(added))] if added else []
    return [_add(f"/spec/{key}/-", one) for one in added]


def _add(path: str, value: Any) -> Json:
    return {"op": "add", "path": path, "value": value}


def _unchanged(reason: str) -> Decision:
    return Decision((), (messages.LEFT_OUT.format(reason=reason),), reason)


def _describe(error: settings.BadSettingError) -> str:
    shown = error.text if len(error.text) <= MAX_SHOWN_VALUE else error.text[:MAX_SHOWN_VALUE] + "..."
    return f"{error.where}: {shown!r} is not allowed; {error.allowed}"


def _mapping(pod: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = pod.get(key) or {}
    if not isinstance(found, Mapping):
        raise BadPodError(f"{key} is not a map")
    return found


def _check_lists(spec: Mapping[str, Any]) -> None:
    """What the patch adds to must be what it looks like."""
    for key in (*shape.CONTAINER_LISTS, "volumes", "hostAliases"):
        items = spec.get(key) or []
        if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
            raise BadPodError(f"spec.{key} is not a list of maps")
