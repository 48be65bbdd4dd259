"""The Kubernetes source against an API server in memory: what it asks for, what it tells, what it says of itself.

Its faults are in test_kubernetes_watches.py, _refusals.py and _connection.py.
"""

from __future__ import annotations

import json

import pytest
from fakeapi import World
from kubernetes_scene import GREETER, hosts, one, only, requests
from objects import endpoint, endpoint_slice, service

from sidecar.balance.endpoints import ServicePort, Snapshot
from sidecar.discovery import apiconnection, watch
from sidecar.discovery.kubernetes import in_pod

# --- the main line -------------------------------------------------------------------------------------


def test_list_then_watch_then_changes_in_order(world: World) -> None:
    (first,) = world.watch(GREETER)
    assert isinstance(first, Snapshot)
    assert world.source.synced()
    assert first == Snapshot(GREETER, first.endpoints, "kubernetes", world.now)
    assert hosts(first) == ["10.0.0.1"]
    world.server.put(one("10.0.0.1", "10.0.0.2"))
    assert only(world.settle()) == ["10.0.0.1", "10.0.0.2"]
    world.server.put(one("10.0.0.3", name="greeter-b"))
    assert only(world.settle()) == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    world.server.delete(one("10.0.0.1", name="greeter-a"))
    assert only(world.settle()) == ["10.0.0.3"]
    assert world.server.dials == 1
    assert len(requests(world, "watch=1")) == 2


def test_exactly_the_requests_that_are_needed(world: World) -> None:
    world.watch(GREETER)
    label = "labelSelector=kubernetes.io%2Fservice-name%3Dgreeter"
    name = "fieldSelector=metadata.name%3Dgreeter"
    slices = f"/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?{label}"
    services = f"/api/v1/namespaces/default/services?{name}"
    assert world.server.requests[:2] == [f"{slices}&resourceVersion=0", f"{services}&resourceVersion=0"]
    first, second = world.server.requests[2:]
    assert first.startswith(f"{slices}&watch=1&resourceVersion=102&allowWatchBookmarks=true&timeoutSeconds=")
    assert second.startswith(f"{services}&watch=1&resourceVersion=102&allowWatchBookmarks=true")
    low, high = watch.WATCH_SECONDS
    assert low <= int(first.rpartition("=")[2]) <= high
    assert set(world.server.authorizations) == {"Bearer good"}


def test_nothing_is_asked_before_something_is_wanted(world: World) -> None:
    assert world.advance(1000) == []
    assert world.server.dials == 0
    assert world.state() == "idle"
    assert world.source.synced()


def test_what_does_not_change_the_endpoints_is_not_told(world: World) -> None:
    world.watch(GREETER)
    world.server.put(one("10.0.0.1"))
    world.server.put(endpoint_slice("greeter-c", []))
    world.server.bookmark()
    assert world.settle() == []
    assert world.counter("events") == 2


def test_another_services_objects_are_not_even_heard_of(world: World) -> None:
    world.watch(GREETER)
    world.server.put(endpoint_slice("orders-a", [endpoint("10.0.0.9")], service="orders"))
    world.server.put(endpoint_slice("greeter-x", [endpoint("10.0.0.9")], namespace="other"))
    assert world.settle() == []
    assert world.counter("events") == 0


def test_two_ports_of_a_service_share_their_watches(world: World) -> None:
    ports = [{"name": "grpc", "port": 50051}, {"name": "admin", "port": 9000}]
    world.server.put(service(ports=ports))
    world.watch(GREETER)
    assert [hosts(e) for e in world.watch(ServicePort("default", "greeter", 9000))] == [[]]
    assert len(requests(world, "watch=1")) == 2
    world.source.unwatch(GREETER, world.now)
    world.server.put(one("10.0.0.7"))
    assert world.settle() == []
    assert len(world.server.watches) == 2


def test_unwatch_ends_the_watches_and_only_those(world: World) -> None:
    world.server.put(service("orders", ip="10.96.0.11"))
    world.watch(GREETER)
    world.watch(ServicePort("default", "orders", 50051))
    assert len(world.server.watches) == 4
    world.source.unwatch(GREETER, world.now)
    world.settle()
    assert len(world.server.watches) == 2
    world.server.put(endpoint_slice("orders-a", [endpoint("10.0.0.9")], service="orders"))
    assert only(world.settle()) == ["10.0.0.9"]
    assert only(world.watch(GREETER)) == ["10.0.0.1"]
    world.source.unwatch(ServicePort("no", "such", 1), world.now)


def test_a_service_that_does_not_exist_and_then_does(world: World) -> None:
    orders = ServicePort("shop", "orders", 50051)
    assert world.watch(orders) == [Snapshot(orders, (), "kubernetes", world.now, exists=False)]
    assert world.source.synced()
    world.server.put(endpoint_slice("orders-a", [endpoint("10.0.0.9")], service="orders", namespace="shop"))
    assert world.settle() == []
    world.server.put(service("orders", namespace="shop"))
    assert only(world.settle()) == ["10.0.0.9"]
    world.server.delete(service("orders", namespace="shop"))
    assert world.settle() == [Snapshot(orders, (), "kubernetes", world.now, exists=False)]


def test_a_service_that_is_renumbered_is_followed(world: World) -> None:
    world.watch(GREETER)
    world.server.put(service(ports=[{"name": "grpc", "port": 6000}]))
    assert world.settle() == [Snapshot(GREETER, (), "kubernetes", world.now, exists=False)]
    world.server.put(service())
    assert only(world.settle()) == ["10.0.0.1"]


def test_a_large_list_gets_through_the_windows(world: World) -> None:
    count = 60 if world.piece else 6000
    many = [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(1, count + 1)]
    for start in range(0, count, 1000):
        world.server.put(one(*many[start : start + 1000], name=f"greeter-{start}"))
    assert len(only(world.watch(GREETER))) == count


# --- the rest ------------------------------------------------------------------------------------------


def test_nothing_follows_close(world: World) -> None:
    world.watch(GREETER)
    world.source.close(world.now)
    world.settle()
    assert world.server.connections == []
    assert world.source.deadline() == float("inf")
    world.server.put(one("10.0.0.2"))
    assert world.advance(1000) == []
    assert world.server.dials == 1


def test_status_is_json_and_says_what_is_so(world: World) -> None:
    world.watch(GREETER)
    world.advance(5)
    status = json.loads(json.dumps(world.source.status(world.now)))
    assert status["kind"] == "kubernetes"
    assert status["state"] == "live"
    assert status["server"] == "10.96.0.1:443"
    assert status["age_seconds"] == 5.0
    assert status["last_error"] == ""
    assert status["services"]["greeter.default:50051"] == {
        "endpoints": 1,
        "answered": True,
        "resource_version": "102",
        "service_resource_version": "102",
        "slices": "watching",
        "service": "watching",
        "age_seconds": 5.0,
        "last_error": "",
    }


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"KUBERNETES_SERVICE_HOST": "10.96.0.1"},
        {"KUBERNETES_SERVICE_PORT": "443"},
        {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "https"},
        {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "0"},
    ],
)
def test_outside_of_a_pod_it_says_so(environ: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"KUBERNETES_SERVICE_HOST=.*KUBERNETES_SERVICE_PORT="):
        in_pod(environ)


def test_in_a_pod_the_environment_and_the_mounted_files_are_used() -> None:
    found = in_pod({"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}, "/somewhere")
    assert (found.host, found.port, found.token_path) == ("fd00::1", 443, "/somewhere/token")
    assert apiconnection.Target(found.host, found.port, "").authority == "[fd00::1]:443"
