"""The way back: a pod without what injection added to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from contract import names
from injector.admission import hosts
from injector.admission.decision import is_injected

Json = dict[str, Any]

_OUR_VOLUMES: Final = (names.TOKEN_VOLUME, names.STATE_VOLUME)


def uninject(pod: Mapping[str, Any], *, disable: bool) -> Json:
    """The pod or template as it was before injection; `pod` itself is not changed.

    With `disable`, a pod that asks for the sidecar is also made to say that it does not want it: else the
    webhook would inject it again. Lists that are left empty are left out.
    """
    metadata, spec = dict(_map(pod.get("metadata"))), dict(_map(pod.get("spec")))
    annotations = dict(_map(metadata.get("annotations")))
    if is_injected(annotations, spec):
        status = annotations.pop(names.STATUS_ANNOTATION)
        for key in _listed(status, "annotations", ()):
            annotations.pop(key, None)
        ours = _listed(status, "containers", (names.SIDECAR_CONTAINER, names.INIT_CONTAINER))
        for key in ("initContainers", "containers"):
            _keep(spec, key, lambda container: container.get("name") not in ours)
        _keep(spec, "volumes", lambda volume: volume.get("name") not in _OUR_VOLUMES)
        _keep(spec, "hostAliases", lambda alias: not str(alias.get("ip")).startswith(f"{hosts.NETWORK}."))
    if disable and annotations.get(names.INJECT_ANNOTATION, "disabled") != "disabled":
        annotations[names.INJECT_ANNOTATION] = "disabled"
    if annotations == _map(metadata.get("annotations")):
        return dict(pod)
    return {**pod, "metadata": {**metadata, "annotations": annotations}, "spec": spec}


def _listed(status: str, key: str, otherwise: tuple[str, ...]) -> tuple[str, ...]:
    """The names that the record gives; what every version uses if it cannot be read or has none."""
    try:
        told = json.loads(status).get(key, otherwise)
        return tuple(name for name in told if isinstance(name, str))
    except (ValueError, AttributeError, TypeError):
        return otherwise


def _keep(spec: Json, key: str, wanted: Any) -> None:
    items = spec.get(key)
    if not isinstance(items, list):
        return
    kept = [item for item in items if wanted(item)]
    if kept or key == "containers":
        spec[key] = kept
    else:
        del spec[key]


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
