"""Whether a pod gets the sidecar, and the patch that adds it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

import jsonpatch

from contract import names, settings
from injector.admission import containers, refusals

# An API server cuts warnings when all of a request's are over 4096 characters; a value stays readable in 100.
MAX_SHOWN_VALUE: Final = 100

Json = dict[str, Any]


class Options(NamedTuple):
    """What the installation decides, not the pod."""

    sidecar_image: str = names.DEFAULT_SIDECAR_IMAGE
    version: str = ""


class Decision(NamedTuple):
    """`patch`: RFC 6902 operations, `add` only, empty if the pod stays as it is. `warnings`: for whoever
    made the pod. `reason`: one phrase for the log."""

    patch: Sequence[Json]
    warnings: Sequence[str]
    reason: str


class BadPodError(ValueError):
    """Not a pod: the text says which field is of the wrong kind."""


def decide(pod: Mapping[str, Any], options: Options) -> Decision:
    """What to do with a pod, or with a pod template (which has the same metadata and spec).

    A pod that did not ask, or that has the sidecar already, gets neither patch nor warning: a second pass
    changes nothing. Never raises for anything a user can write into an annotation; BadPodError if `pod`
    is not shaped like one.
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
    reason = refusals.refusal(annotations, spec, values["capture-mode"])
    if reason:
        return _unchanged(reason)
    return Decision(
        _patch(annotations, spec, values, options), (), f"injected, capture {values['capture-mode']}"
    )


def inject(pod: Mapping[str, Any], decision: Decision) -> Json:
    """The pod after the patch; `pod` itself is not changed."""
    return cast(Json, jsonpatch.apply_patch(dict(pod), list(decision.patch), in_place=False))


def is_injected(annotations: Mapping[str, str], spec: Mapping[str, Any]) -> bool:
    """Our container and our record of it: either alone is something else that has the name."""
    return names.STATUS_ANNOTATION in annotations and any(
        container.get("name") == names.SIDECAR_CONTAINER for container in refusals.containers(spec)
    )


def _patch(
    annotations: Mapping[str, str], spec: Mapping[str, Any], values: Mapping[str, Any], options: Options
) -> list[Json]:
    """The sidecar first, then the rules, then the pod's own init containers.

    So the rules are set only once the sidecar takes connections, there is no moment at which the pod's
    connections have nowhere to go, and the pod's own init containers and native sidecars, which may need
    the network, find it working. Stopping goes the other way round: the sidecar is the last to go.
    """
    image = values["sidecar-image"] if _asked(annotations, "sidecar-image") else options.sidecar_image
    added = [containers.sidecar(annotations, values, image)]
    if values["capture-mode"] == "iptables":
        added.append(containers.capture_init(values, image))
    status = {
        "version": options.version,
        "containers": [container["name"] for container in added],
        "capture": values["capture-mode"],
        "image": image,
    }
    patch: list[Json] = []
    if spec.get("initContainers"):
        # Each goes in front of those before it, so the last comes first.
        patch += [_add("/spec/initContainers/0", container) for container in reversed(added)]
    else:
        patch.append(_add("/spec/initContainers", added))
    volumes = [containers.token_volume(), containers.state_volume()]
    if spec.get("volumes"):
        patch += [_add("/spec/volumes/-", volume) for volume in volumes]
    else:
        patch.append(_add("/spec/volumes", volumes))
    key = names.STATUS_ANNOTATION.replace("~", "~0").replace("/", "~1")
    patch.append(_add(f"/metadata/annotations/{key}", json.dumps(status, separators=(",", ":"))))
    return patch


def _asked(annotations: Mapping[str, str], name: str) -> bool:
    return settings.BY_NAME[name].annotation in annotations


def _add(path: str, value: Any) -> Json:
    return {"op": "add", "path": path, "value": value}


def _unchanged(reason: str) -> Decision:
    return Decision((), (f"evenstream: pod left without the sidecar: {reason}",), reason)


def _describe(error: settings.BadSettingError) -> str:
    shown = error.text if len(error.text) <= MAX_SHOWN_VALUE else error.text[:MAX_SHOWN_VALUE] + "..."
    return f"{error.where}: {shown!r} is not allowed; {error.allowed}"


def _mapping(pod: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = pod.get(key) or {}
    if not isinstance(found, Mapping):
        raise BadPodError(f"{key} is not a map")
    return found


def _check_lists(spec: Mapping[str, Any]) -> None:
    for key in ("initContainers", "containers", "ephemeralContainers", "volumes"):
        items = spec.get(key) or []
        if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
            raise BadPodError(f"spec.{key} is not a list of maps")
