"""The greeter servers: how many there are, and who is ready."""

from __future__ import annotations

from typing import Any, Final

from .kube import Namespace, endpoints_of, wait_for

DEPLOYMENT: Final = "greeter"
SERVICE: Final = "greeter"
# A server is ready about 3 s after it is wanted, more where several start at once; one that leaves has
# 5 s of preStop and up to 10 s of grace.
SETTLE_SECONDS: Final = 120.0


class Backends:
    def __init__(self, namespace: Namespace) -> None:
        self.namespace: Final = namespace

    def pods(self) -> list[dict[str, Any]]:
        return self.namespace.pods(DEPLOYMENT)

    def names(self) -> list[str]:
        return sorted(pod["metadata"]["name"] for pod in self.pods())

    def endpoints(self) -> dict[str, str]:
        return self.namespace.endpoints(SERVICE)

    def scale(self, replicas: int) -> None:
        """Ask for so many; returns at once."""
        self.namespace.scale(DEPLOYMENT, replicas)

    def settled(self, replicas: int) -> list[str]:
        """Exactly so many, all ready and none on its way out; their names."""
        self.scale(replicas)
        return self.until_settled(replicas)

    def until_settled(self, replicas: int) -> list[str]:
        def look() -> bool:
            states = self.endpoints()
            return len(states) == replicas and set(states.values()) == {"ready"}

        wait_for(f"{replicas} greeter servers and no others", look, SETTLE_SECONDS, every=0.1)
        return sorted(self.endpoints())


class EndpointsWatch:
    """What a Service's EndpointSlices say, as they change."""

    def __init__(self, namespace: Namespace, service: str = SERVICE) -> None:
        query = f"labelSelector=kubernetes.io/service-name%3D{service}"
        self._watch: Final = namespace.api.watch(
            namespace.path("discovery.k8s.io/v1/endpointslices", query=query)
        )

    def __enter__(self) -> EndpointsWatch:
        return self

    def __exit__(self, *error: object) -> None:
        self._watch.close()

    def states(self) -> dict[str, str]:
        """Pod by pod, as `endpoints_of` says it, in the order in which they came."""
        slices = {piece["metadata"]["name"]: piece for piece in self._watch.listed}
        for event in list(self._watch.events):
            if event.kind in ("ADDED", "MODIFIED"):
                slices[event.object["metadata"]["name"]] = event.object
            elif event.kind == "DELETED":
                slices.pop(event.object["metadata"]["name"], None)
        return {pod: state for piece in slices.values() for pod, state in endpoints_of(piece).items()}

    def first_ready(self, pod: str) -> float:
        """When a slice first said that `pod` is ready, by time.monotonic(). Raises ValueError if none did."""
        return min(event.at for event in self._watch.events if endpoints_of(event.object).get(pod) == "ready")

    def unready(self, pod: str) -> list[tuple[float, float]]:
        """When it was not ready, from when to when, by time.monotonic()."""
        found: list[tuple[float, float]] = []
        since: float | None = None
        for event in self._watch.events:
            state = endpoints_of(event.object).get(pod)
            if state == "not ready" and since is None:
                since = event.at
            elif state == "ready" and since is not None:
                found.append((since, event.at))
                since = None
        return found
