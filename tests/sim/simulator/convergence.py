"""Whether the endpoints in use are those that there are: whenever nothing keeps them apart, and at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulator import oracle
from simulator.clock import Violation
from simulator.sidecar import Sidecar, port_of

if TYPE_CHECKING:
    from simulator.world import World

# How often it is looked at while the plan goes on.
EVERY = 0.25
# From a write to the engine, with nothing in the way: some round trips to the API server, and a few more at the start.
TOLD_WITHIN = 0.1
# An endpoint stays in rotation while it is being connected to, if that takes no longer.
CONNECTED_WITHIN = 0.2


def watch(world: World, until: float) -> None:
    """Look again and again until then. Where the API server has had a fault, only the end counts."""
    api = world.api
    if world.clock.now >= until or api.faulty:
        return
    for sidecar in world.sidecars.values():
        if sidecar.up and world.clock.now > max(api.written_at, sidecar.calm_since) + TOLD_WITHIN:
            check(world, sidecar)
            _in_rotation(world, sidecar)
    world.clock.after(EVERY, lambda: watch(world, until))


def _in_rotation(world: World, sidecar: Sidecar) -> None:
    """An endpoint that nothing has happened to is there for every call."""
    for name in sidecar.services:
        for (host, _), backend in sidecar.engine.services[port_of(name)].backends.items():
            known = sidecar.since.get((name, host), world.clock.now)
            pod = world.pods[host]
            expected = pod.is_plain() and pod.started_at <= known < world.clock.now - CONNECTED_WITHIN
            if expected and not backend.in_rotation:
                raise Violation("rotation", f"{sidecar.name}: {host} is well and {backend.state()}")


def check_watches(world: World) -> None:
    """One connection for each sidecar, and on it two watches for each Service in use: its slices and itself."""
    server = world.api.server
    connections = [connection for connection in server.connections if connection.open]
    if len(connections) != len(world.sidecars):
        raise Violation("watches", f"{len(connections)} connections of {len(world.sidecars)} sidecars")
    wanted = sum(2 * len(sidecar.services) for sidecar in world.sidecars.values())
    if len(server.watches) > wanted or (len(server.watches) < wanted and world.api.has_plenty):
        raise Violation("watches", f"{len(server.watches)} watches, and {wanted} are wanted")


def check(world: World, sidecar: Sidecar) -> None:
    """Raises Violation."""
    for name in sidecar.services:
        wanted = oracle.endpoints(world.api.server.objects, name, 50051)
        used = set(sidecar.engine.services[port_of(name)].backends)
        if used != wanted:
            raise Violation(
                "endpoints", f"{sidecar.name} uses {sorted(used)} of {name}, not {sorted(wanted)}"
            )
