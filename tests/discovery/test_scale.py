"""What one sidecar asks of the API server, counted. docs/scale.md quotes what is printed here."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakeapi import World
from objects import endpoint, endpoint_slice, service

from sidecar.balance.endpoints import ServicePort

OTHERS = 100  # Services of the namespace that the pod does not call
HOUR = 3600.0
BOOKMARK = 60.0  # seconds from one to the next: the API server's


def cluster(folder: Path, used: int, endpoints: int) -> World:
    """Services s0 to s(used + OTHERS), each with so many endpoints in slices of 100."""
    world = World(folder / "token")
    for number in range(used + OTHERS):
        name = f"s{number}"
        world.server.put(service(name, ip=f"10.96.{number // 250}.{number % 250 + 1}"))
        for start in range(0, endpoints if number < used else 1, 100):
            members = [
                endpoint(
                    f"10.{number}.{n // 250}.{n % 250 + 1}", pod=f"{name}-7d4b9c6f5-{n:05}", zone="zone-a"
                )
                for n in range(start, min(start + 100, endpoints))
            ]
            world.server.put(endpoint_slice(f"{name}-{start}", members, service=name))
    return world


def calm(world: World, seconds: float) -> None:
    for _ in range(int(seconds / BOOKMARK)):
        world.advance(BOOKMARK)
        world.server.end_watches(due=True)
        world.server.bookmark()
        world.settle()


@pytest.mark.parametrize(("used", "endpoints"), [(1, 10), (3, 10), (20, 10), (1, 1000)])
def test_one_connection_and_the_watches_of_what_is_used(used: int, endpoints: int, tmp_path: Path) -> None:
    world = cluster(tmp_path, used, endpoints)
    for number in range(used):
        world.watch(ServicePort("default", f"s{number}", 50051))
    server = world.server
    assert server.dials == 1
    lists = [path for path in server.requests if "watch" not in path]
    watches = [path for path in server.requests if "watch=1" in path]
    assert len(lists) == len(watches) == len(server.watches) == 2 * used
    # Each names one Service in use: nothing is asked of the others, nor of the whole namespace or cluster.
    for path in server.requests:
        assert "namespaces/default/" in path
        assert any(path.find(f"name%3Ds{n}&") > 0 for n in range(used)), path
    start_down, start_up = world.octets_down, world.octets_up
    world.octets_down = world.octets_up = server.pings = 0
    server.requests.clear()
    calm(world, HOUR)
    assert server.dials == 1
    assert all("watch=1" in path for path in server.requests)  # renewed, never listed again
    renewed = len(server.requests) / (2 * used)
    assert 5 <= renewed <= 12  # of 5 to 10 minutes each
    calm_down, calm_up = world.octets_down, world.octets_up
    world.octets_down = 0
    for number in range(OTHERS):
        server.put(endpoint_slice(f"s{used + number}-0", [endpoint("10.9.9.9")], service=f"s{used + number}"))
    world.settle()
    assert world.octets_down == 0  # what happens to the others is not even heard of
    server.put(endpoint_slice("s0-new", [endpoint("10.9.9.9")], service="s0"))
    world.settle()
    assert 0 < world.octets_down < 1000
    print(
        f"\n{used} Services in use of {used + OTHERS}, {endpoints} endpoints each: 1 connection, "
        f"{2 * used} lists and {2 * used} watches; {start_down / 1000:.1f} kB down and {start_up / 1000:.1f} kB "
        f"up to learn all; an hour of calm: {renewed * 2 * used:.0f} watches renewed, {server.pings} PINGs, "
        f"{calm_down / 1000:.0f} kB down, {calm_up / 1000:.0f} kB up"
    )


def test_addresses_are_asked_about_once_each(tmp_path: Path) -> None:
    """A pod that calls ten Services over and over."""
    world = cluster(tmp_path, 10, 10)
    for number in range(10):
        world.watch(ServicePort("default", f"s{number}", 50051))
    world.server.requests.clear()
    for _ in range(1000):
        for number in range(10):
            world.resolve(f"10.96.0.{number + 1}", 50051)
        world.advance(1)
    assert [path for path in world.server.requests if "clusterIP" in path] == []
    # Ten addresses outside of the cluster: once in NOT_FOUND_SECONDS each, however many connections there are.
    for _ in range(300):
        for number in range(10):
            world.resolve(f"192.0.2.{number + 1}", 443)
        world.advance(1)
    asked = [path for path in world.server.requests if "clusterIP" in path]
    print(f"\n10 external addresses called each second for 5 minutes: {len(asked)} look-ups")
    assert len(asked) <= 10 * (300 / 30 + 1)
