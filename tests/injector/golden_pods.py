"""The pods of tests/golden, out of whatever manifests they stand in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml
from real_apiserver import GOLDEN

from contract import names
from injector.admission.workloads import Where, transform

# Kubernetes before 1.29, which no admission policy is for; and what did not ask reaches neither webhook nor policy.
_OTHERS = ("plain", "left-alone")


def golden_pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """(file, pod) for each pod and template that asks and that an API server takes at all."""
    for path in sorted((GOLDEN / "in").glob("*.yaml")):
        found: list[dict[str, Any]] = []

        def take(where: Where, pod: dict[str, Any]) -> dict[str, Any]:
            if _can_be_created(pod):
                metadata = {"name": "golden", "annotations": pod["metadata"]["annotations"]}
                spec = {key: value for key, value in pod["spec"].items() if key != "nodeName"}
                found.append({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})  # noqa: B023
            return pod

        for document in yaml.safe_load_all(path.read_text()) if path.stem not in _OTHERS else ():
            transform(document, take, lambda *_: None)
        yield from ((path.stem, pod) for pod in found)


def _can_be_created(pod: dict[str, Any]) -> bool:
    annotations = pod["metadata"].get("annotations") or {}
    # Debuggers come by a subresource, and only a kubelet may make a mirror pod.
    never = "ephemeralContainers" in pod["spec"] or "kubernetes.io/config.mirror" in annotations
    is_text = all(isinstance(text, str) for text in annotations.values())
    return names.INJECT_ANNOTATION in annotations and is_text and not never
