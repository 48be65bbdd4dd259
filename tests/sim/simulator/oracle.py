"""Which endpoints a Service port has, from the EndpointSlice specification and from nothing of ours.

Sources: the API reference of discovery.k8s.io/v1 ("ready ... nil should be interpreted as true"; serving: "if nil
consumers should defer to the ready condition"; terminating nil: false), KEP-752 and KEP-1672 (endpoints that are
serving while they terminate are used when none is ready), and kube-proxy, which does the same.
"""

from __future__ import annotations

from typing import Any

Objects = dict[tuple[str, str, str], dict[str, Any]]


def endpoints(objects: Objects, service: str, port: int) -> set[tuple[str, int]]:
    """Addresses that may be given new streams. `objects` is what stands in the API server."""
    owner = objects.get(("Service", "default", service))
    if owner is None:
        return set()
    names = [each.get("name") or "" for each in owner["spec"]["ports"] if each["port"] == port]
    if not names:
        return set()
    ready: set[tuple[str, int]] = set()
    leaving: set[tuple[str, int]] = set()
    for (kind, _, _), each in objects.items():
        if kind != "EndpointSlice" or each["metadata"]["labels"].get("kubernetes.io/service-name") != service:
            continue
        targets = [p["port"] for p in each["ports"] or [] if (p.get("name") or "") == names[0]]
        for endpoint in each["endpoints"] or []:
            conditions = endpoint.get("conditions") or {}
            is_ready = conditions.get("ready") is not False
            serving = conditions.get("serving")
            is_serving = is_ready if serving is None else serving
            found = {(endpoint["addresses"][0], target) for target in targets}
            if is_ready:
                ready |= found
            elif is_serving and conditions.get("terminating"):
                leaving |= found
    return ready or leaving
