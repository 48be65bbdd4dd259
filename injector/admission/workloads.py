"""Where a manifest keeps its pod templates: any workload kind, and lists of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Self

from contract import names

# Kind -> the way to what has a pod's metadata and spec. Kinds that are not here are left as they are.
TEMPLATES: Final[Mapping[str, tuple[str, ...]]] = {
    "Pod": (),
    "PodTemplate": ("template",),
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "ReplicationController": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}
# A List may hold Lists; nobody nests them deeper, and a manifest must not exhaust the stack.
MAX_LIST_DEPTH: Final = 8

Json = dict[str, Any]


class Where(str):
    """Where a pod or template stood, for people. `namespace`: "" if the manifest does not say."""

    __slots__ = ("namespace",)
    namespace: str

    def __new__(cls, label: str, namespace: str) -> Self:
        where = super().__new__(cls, label)
        where.namespace = namespace
        return where


# (where it stood; the pod or template) -> what takes its place
Change = Callable[[Where, Json], Json]
# (where it stood; one sentence)
Warn = Callable[[Where, str], None]


class BadManifestError(ValueError):
    """Not a Kubernetes manifest; the text says where and why."""


def transform(manifest: Any, change: Change, warn: Warn, depth: int = 0) -> Any:
    """The manifest with every pod and pod template in it replaced by what `change` makes of it. `warn` hears
    of an annotation that stands on the workload, where it has no effect, and not on its pod template.

    Raises BadManifestError if it is no object with a kind.
    """
    if not isinstance(manifest, dict) or not isinstance(manifest.get("kind"), str):
        raise BadManifestError("not a Kubernetes object: it has no kind")
    kind = manifest["kind"]
    if kind.endswith("List") and isinstance(manifest.get("items"), list):
        if depth >= MAX_LIST_DEPTH:
            raise BadManifestError(f"lists are nested more than {MAX_LIST_DEPTH} deep")
        return {**manifest, "items": [transform(item, change, warn, depth + 1) for item in manifest["items"]]}
    if kind not in TEMPLATES:
        return manifest
    metadata = manifest.get("metadata")
    named = metadata if isinstance(metadata, dict) else {}
    label = f"{kind} {named.get('name') or named.get('generateName') or '(no name)'}"
    where = Where(label, str(named.get("namespace") or ""))
    path = TEMPLATES[kind]

    def changed(where: Where, pod: Json) -> Json:
        if path and _asks(manifest) and not _asks(pod):
            template = ".".join(path)
            warn(
                where,
                f"{names.INJECT_ANNOTATION} does nothing here; it belongs into {template}.metadata",
            )
        return change(where, pod)

    return _at(manifest, path, where, changed)


def _asks(thing: Json) -> bool:
    metadata = thing.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, dict) else None
    return isinstance(annotations, dict) and names.INJECT_ANNOTATION in annotations


def _at(node: Json, path: tuple[str, ...], where: Where, change: Change) -> Json:
    if not path:
        return change(where, node)
    below = node.get(path[0])
    if not isinstance(below, dict):
        raise BadManifestError(f"{where}: {path[0]} is missing or not a map")
    return {**node, path[0]: _at(below, path[1:], where, change)}
