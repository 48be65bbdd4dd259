"""Ten minutes without an API server, 200 sidecars: when is each back in touch, and how many come at once?

The figures are printed; docs/reliability.md quotes them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fakeapi import World
from objects import endpoint, endpoint_slice, service

from sidecar.balance.endpoints import ServicePort

GREETER = ServicePort("default", "greeter", 50051)
CLIENTS = 200
BACK = 35.0  # seconds, the promise
STEP = 0.25
# Evenly over the longest wait they would be 8 a second. Three times that is no herd.
MOST_IN_A_SECOND = 25


def refused(world: World, begins: bool) -> None:
    world.server.up = not begins
    if begins:
        world.server.stop()


def black_hole(world: World, begins: bool) -> None:
    """Packets are dropped both ways, and connections of before stay dead."""
    world.server.black_hole = begins
    for connection in world.server.connections:
        connection.dead = True


def overloaded(world: World, begins: bool) -> None:
    """Every request is answered, with 503; watches are cut."""
    world.server.end_watches()
    world.server.overloaded = (503, {}) if begins else None


def throttled(world: World, begins: bool) -> None:
    """429 with a Retry-After of five seconds."""
    world.server.end_watches()
    world.server.overloaded = (429, {"retry_after": "5"}) if begins else None


def both_watched(world: World) -> bool:
    return (
        sum(1 for watch in world.server.watches if watch.connection.open and not watch.connection.dead) == 2
    )


def back_after(world: World, outage: Callable[[World, bool], None], seconds: float) -> float:
    """Lives through one outage; returns how long after its end both watches are up."""
    outage(world, True)
    world.advance(seconds)
    outage(world, False)
    world.server.put(endpoint_slice("greeter-a", [endpoint("10.0.0.2")]))
    end = world.now
    while not both_watched(world):
        assert world.now - end < 2 * BACK, "not back"
        world.advance(STEP)
    assert [e.endpoints[0].host for e in world.events[-1:]] == ["10.0.0.2"]  # type: ignore[union-attr]
    return world.now - end


@pytest.mark.parametrize(
    ("outage", "seconds"), [(refused, 600.0), (black_hole, 600.0), (overloaded, 150.0), (throttled, 150.0)]
)
def test_200_clients_are_back_in_time_and_not_together(
    outage: Callable[[World, bool], None], seconds: float, tmp_path: Path
) -> None:
    back: list[float] = []
    requests = 0
    for seed in range(CLIENTS):
        world = World(tmp_path / "token", seed=seed)
        world.server.put(service())
        world.server.put(endpoint_slice("greeter-a", [endpoint("10.0.0.1")]))
        world.watch(GREETER)
        world.advance(30 + seed * 0.37)  # they did not begin together either
        before = world.server.dials + len(world.server.requests)
        back.append(back_after(world, outage, seconds))
        requests += world.server.dials + len(world.server.requests) - before
    assert max(back) <= BACK
    most = max(sum(1 for b in back if s <= b < s + 1) for s in (n * STEP for n in range(int(BACK / STEP))))
    print(
        f"\n{outage.__name__}: {CLIENTS} clients back within {max(back):.1f} s, median "
        f"{sorted(back)[CLIENTS // 2]:.1f} s, at most {most} in one second; "
        f"{requests / CLIENTS:.0f} dials and requests a client in {seconds:.0f} s"
    )
    assert most <= MOST_IN_A_SECOND


@pytest.mark.parametrize("seconds", [0.0, 5.0, 20.0, 60.0])
def test_an_api_server_that_vanished_and_is_back_is_found_in_time(seconds: float, tmp_path: Path) -> None:
    """The connection of before is dead without a word: only silence tells."""
    back = []
    for seed in range(40):
        world = World(tmp_path / "token", seed=seed)
        world.server.put(service())
        world.server.put(endpoint_slice("greeter-a", [endpoint("10.0.0.1")]))
        world.watch(GREETER)
        world.advance(30 + seed)
        back.append(back_after(world, black_hole, seconds))
    print(f"\ngone for {seconds:.0f} s without a word: back within {max(back):.1f} s")
    assert max(back) <= BACK
