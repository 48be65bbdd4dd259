"""Reading a pod that may be shaped like anything: what is not as the API has it is taken for absent.

Refusing such a pod is the API server's to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

CONTAINER_LISTS: Final = ("initContainers", "containers", "ephemeralContainers")

Json = Mapping[str, Any]


def as_map(value: Any) -> Json:
    return value if isinstance(value, Mapping) else {}


def as_maps(value: Any) -> list[Json]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def containers(spec: Json) -> Iterator[Json]:
    """Every container of the pod, of all three kinds."""
    for key in CONTAINER_LISTS:
        yield from as_maps(spec.get(key))


def pod_budget(spec: Json) -> Json:
    """What the pod has figures of its own for, for all its containers together (KEP-2837)."""
    whole = as_map(spec.get("resources"))
    return {**as_map(whole.get("requests")), **as_map(whole.get("limits"))}
