"""What the tests of the Kubernetes source ask for and how they read its answers."""

from __future__ import annotations

from typing import Any

from fakeapi import World
from objects import endpoint, endpoint_slice

from sidecar.balance.endpoints import ServicePort, Snapshot

GREETER = ServicePort("default", "greeter", 50051)
SLICES = "endpointslices"


def one(*addresses: str, name: str = "greeter-a") -> dict[str, Any]:
    return endpoint_slice(name, [endpoint(a) for a in addresses])


def hosts(event: object) -> list[str]:
    assert isinstance(event, Snapshot), event
    return [e.host for e in event.endpoints]


def only(events: list[Any]) -> list[str]:
    (event,) = events
    return hosts(event)


def requests(world: World, what: str) -> list[str]:
    return [path for path in world.server.requests if what in path]
