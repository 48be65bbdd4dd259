"""The Kubernetes source against an API server in memory, with each fault that real ones have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fakeapi import Connection, World
from objects import endpoint, endpoint_slice, service

from sidecar.balance.endpoints import ServicePort, Snapshot
from sidecar.discovery import apiconnection, backoff, kubernetes, watch
from sidecar.discovery.kubernetes import in_pod
from sidecar.discovery.resolve import ANSWER_SECONDS, MAX_WAITING, NOT_FOUND_SECONDS
from sidecar.discovery.source import Resolution

GREETER = ServicePort("default", "greeter", 50051)
SLICES = "endpointslices"
SERVICES = "/services"


@pytest.fixture(params=[0, 1, 7], ids=["whole", "by byte", "by 7"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    """A greeter of one endpoint, known to the server; bytes arrive whole or in pieces."""
    made = World(tmp_path / "token", piece=request.param)
    made.server.put(service())
    made.server.put(one("10.0.0.1"))
    return made


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


# --- the main line ---


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


# --- watches end and break ---


def test_a_watch_that_ends_is_taken_up_where_it_was(world: World) -> None:
    world.watch(GREETER)
    world.advance(100)
    world.server.watches.clear()  # not told: what comes now comes between the watches
    for connection in world.server.connections:
        for stream in list(connection.h2.streams):
            connection.send(stream, b"", end=True)
        connection.flush()
    world.server.put(one("10.0.0.5"))
    assert only(world.settle()) == ["10.0.0.5"]
    assert len(requests(world, SLICES)) == 3
    assert "resourceVersion=102" in requests(world, SLICES)[-1]


def test_a_bookmark_moves_the_version_on(world: World) -> None:
    world.watch(GREETER)
    world.server.version = 5000
    world.server.bookmark()
    world.advance(2)
    world.server.compact()
    world.server.end_watches()
    world.settle()
    assert "resourceVersion=5000" in requests(world, SLICES)[-1]
    assert world.counter("relists") == 0
    services = world.source.status(world.now)["services"]
    assert services[str(GREETER)]["resource_version"] == "5000"


def test_gone_as_an_event_means_a_new_list_at_once(world: World) -> None:
    world.watch(GREETER)
    world.advance(10)
    world.server.objects["EndpointSlice", "default", "greeter-a"] = one("10.0.0.8")
    world.server.version += 50
    world.server.compact()
    world.server.end_watches()
    assert only(world.settle()) == ["10.0.0.8"]
    lists = [p for p in requests(world, SLICES) if "watch" not in p]
    assert "resourceVersion" not in lists[-1]  # the newest there is, not any
    assert world.counter("relists") == 2


def test_gone_as_a_status_means_a_new_list(world: World) -> None:
    world.watch(GREETER)
    world.advance(10)
    world.server.fail(f"{SLICES}?label", 410, {"message": "Expired"})
    world.server.end_watches()
    world.settle()
    assert world.counter("relists") == 1
    assert len(world.server.watches) == 2


def test_gone_again_and_again_is_not_a_tight_loop(world: World) -> None:
    gone = json.dumps({"type": "ERROR", "object": {"code": 410}}).encode() + b"\n"

    def answer(connection: Connection, stream: int) -> None:
        connection.respond(stream, 200, gone)

    for _ in range(1000):
        world.server.misbehave(f"{SLICES}?labelSelector=kubernetes.io%2Fservice-name%3Dgreeter&watch", answer)
    world.watch(GREETER)
    world.advance(60)
    assert 3 < len(requests(world, f"{SLICES}?label")) < 40


def test_an_error_event_that_is_not_gone_means_a_list_after_a_wait(world: World) -> None:
    world.watch(GREETER)
    world.server.inject(b'{"type":"ERROR","object":{"code":500,"message":"etcd is\\nunwell"}}\n', only=SLICES)
    world.settle()
    assert "error event 500" in world.last_error()
    world.advance(1)
    assert world.counter("relists") == 1
    assert world.last_error() == ""
    assert len(world.server.watches) == 2


@pytest.mark.parametrize(
    "line",
    [
        b"{half\n",
        b"[]\n",
        b"7\n",
        b'{"type":"ADDED"}\n',
        b'{"type":"ADDED","object":null}\n',
        b'{"type":"ADDED","object":{"metadata":[]}}\n',
        b"\xff\xfe\n",
        b"[" * 100_000 + b"\n",
    ],
)
def test_a_malformed_event_means_a_list_and_nothing_is_lost(world: World, line: bytes) -> None:
    if world.piece == 1 and len(line) > 1000:
        pytest.skip("slow by single bytes, and the pieces of 7 cover it")
    world.watch(GREETER)
    world.server.inject(line, only=SLICES)
    assert world.settle() == []
    assert world.counter("malformed") == 1
    world.server.put(one("10.0.0.6"))
    assert only(world.advance(1)) == ["10.0.0.6"]
    assert len(world.server.watches) == 2


def test_a_malformed_object_in_an_event_leaves_what_was_known(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.watch(GREETER)
    for _ in range(3):
        world.server.put(one("10.0.0.6") | {"addressType": "IPX"})
        assert world.settle() == []
    assert world.counter("malformed") == 3
    assert len([r for r in caplog.records if "addressType is 'IPX'" in r.getMessage()]) == 1
    world.server.put(one("10.0.0.6"))
    assert only(world.settle()) == ["10.0.0.6"]


def test_a_malformed_object_in_a_list_leaves_what_was_known_and_takes_the_rest(world: World) -> None:
    world.watch(GREETER)
    world.advance(10)
    world.server.objects["EndpointSlice", "default", "greeter-a"]["addressType"] = "IPX"
    world.server.objects["EndpointSlice", "default", "greeter-b"] = one("10.0.0.2", name="greeter-b")
    world.server.compact()
    world.server.version += 1
    world.server.oldest = world.server.version
    world.server.end_watches()
    assert only(world.settle()) == ["10.0.0.1", "10.0.0.2"]


def test_an_event_of_an_unknown_type_is_passed_over(world: World) -> None:
    world.watch(GREETER)
    world.server.inject(
        b'{"type":"RENAMED","object":{"metadata":{"name":"x","resourceVersion":"500"}}}\n', only=SLICES
    )
    assert world.settle() == []
    assert len(world.server.watches) == 2
    assert "unknown type 'RENAMED'" in world.last_error()


def test_an_event_beyond_the_limit_ends_the_watch(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "MAX_EVENT_BYTES", 1000)
    world.watch(GREETER)
    world.server.inject(b"x" * 1001, only=SLICES)
    world.settle()
    assert "a line of more than 1000 bytes" in world.last_error()
    assert len(world.server.watches) == 1
    world.advance(1)
    assert len(world.server.watches) == 2


def test_a_list_beyond_the_limit_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "MAX_LIST_BYTES", 100)
    assert world.watch(GREETER) == []
    world.advance(5)
    assert "list of more than 100 bytes" in world.last_error()
    assert not world.source.synced()


def test_a_watch_that_ends_at_once_each_time_is_not_a_tight_loop(world: World) -> None:
    for _ in range(1000):
        world.server.misbehave(f"{SLICES}?label", lambda c, s: c.respond(s, 200, b""))
    world.server.faults.insert(
        0, (f"{SLICES}?label", lambda c, s: world.server._answer(c, s, requests(world, SLICES)[-1]))
    )
    world.watch(GREETER)
    world.advance(60)
    assert 3 < len(requests(world, SLICES)) < 40


def test_a_silent_watch_is_started_again_from_where_it_was(world: World) -> None:
    world.watch(GREETER)
    world.advance(watch.BOOKMARK_DEADLINE_SECONDS + 1)
    assert world.counter("silent_watches") == 2
    assert len(requests(world, SLICES)) == 3
    assert "watch=1&resourceVersion=102" in requests(world, SLICES)[-1]
    assert len(world.server.watches) == 2
    world.advance(watch.BOOKMARK_DEADLINE_SECONDS + 1)  # silent again: compare with a list
    assert "watch" not in requests(world, SLICES)[-2]
    assert len(world.server.watches) == 2


def test_bookmarks_keep_a_quiet_watch_alive(world: World) -> None:
    world.watch(GREETER)
    for _ in range(20):
        world.advance(60)
        world.server.bookmark()
        world.settle()
    assert world.counter("silent_watches") == 0
    assert len(world.server.requests) == 4


# --- refusals ---


def test_a_rotated_token_is_read_again_after_a_401(world: World) -> None:
    world.server.tokens = {"new"}
    world.token.write_text("new")
    assert only(world.watch(GREETER)) == ["10.0.0.1"]
    world.advance(30)
    world.server.tokens = {"newer"}
    new = world.token.with_suffix(".new")
    new.write_text("newer")
    new.replace(world.token)
    world.advance(5)
    world.server.end_watches()
    world.server.put(one("10.0.0.2"))
    assert only(world.advance(backoff.FIRST_SECONDS)) == ["10.0.0.2"]
    assert "Bearer newer" in world.server.authorizations
    assert world.state() == "live"


def test_a_rotated_token_is_read_again_in_time_without_a_401(world: World) -> None:
    world.watch(GREETER)
    world.token.write_text("good2")
    world.server.tokens = {"good", "good2"}
    world.advance(61)
    world.server.end_watches()
    world.settle()
    assert world.server.authorizations[-1] == "Bearer good2"


def test_an_expired_token_backs_off_and_recovers(world: World) -> None:
    world.server.tokens = set()
    world.watch(GREETER)
    world.advance(60)
    assert "HTTP 401: Unauthorized" in world.last_error()
    assert len(world.server.requests) < 60
    assert world.events == []
    world.server.tokens = {"good"}
    assert only(world.advance(backoff.MAX_SECONDS + 1)) == ["10.0.0.1"]


@pytest.mark.parametrize("content", ["", "two words", "evil\r\nx: y", "\x00", "x" * 70_000])
def test_a_token_file_that_holds_no_token(world: World, content: str) -> None:
    world.token.write_text(content)
    assert world.watch(GREETER) == []
    assert "that are no bearer token" in world.last_error()
    assert world.server.dials == 0
    world.token.write_text("good")
    assert only(world.advance(backoff.MAX_SECONDS)) == ["10.0.0.1"]


def test_a_missing_token_file(world: World) -> None:
    world.token.unlink()
    assert world.watch(GREETER) == []
    assert f"token {world.token}: No such file or directory" in world.last_error()
    assert world.state() == "backing-off"


def test_forbidden_names_the_missing_rule_and_is_tried_again(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.server.forbidden = ["/apis/discovery"]
    world.watch(GREETER)
    world.advance(120)
    rule = (
        'missing RBAC rule: Role with apiGroups ["discovery.k8s.io"], resources ["endpointslices"], '
        'verbs ["get", "list", "watch"] in namespace default'
    )
    assert rule in world.last_error()
    assert len([r for r in caplog.records if rule in r.getMessage()]) == 1
    assert len(requests(world, SLICES)) < 30
    world.server.forbidden = []
    assert only(world.advance(backoff.MAX_SECONDS + 1)) == ["10.0.0.1"]
    assert world.last_error() == ""


def test_retry_after_is_honoured(world: World) -> None:
    world.server.fail(SLICES, 429, {"message": "slow down"}, retry_after="7")
    world.watch(GREETER)
    assert world.advance(6.9) == []
    assert only(world.advance(0.7)) == ["10.0.0.1"]


def test_retry_after_is_believed_up_to_a_bound(world: World) -> None:
    world.server.fail(SLICES, 429, b"", retry_after="86400")
    world.watch(GREETER)
    assert only(world.advance(backoff.MAX_SECONDS + 1)) == ["10.0.0.1"]


def test_server_errors_back_off_and_the_snapshot_stays(world: World) -> None:
    world.watch(GREETER)
    world.advance(2)
    world.server.fail(SLICES, 503, b"<html>no json</html>", times=8)
    world.server.end_watches()
    assert world.settle() == []
    assert "HTTP 503: <html>no json</html>" in world.last_error()
    world.server.put(one("10.0.0.2"))
    assert only(world.advance(130)) == ["10.0.0.2"]


def test_a_watch_refused_again_and_again_is_listed_anew(world: World) -> None:
    """An etcd restored from a backup knows only versions below ours: no watch from ours will ever do."""
    world.watch(GREETER)
    world.advance(2)
    for _ in range(watch.REFUSALS_BEFORE_LIST + 1):
        world.server.fail(f"{SLICES}?labelSelector=kubernetes.io%2Fservice-name%3Dgreeter&watch", 504)
    world.server.end_watches()
    world.advance(20)
    assert world.counter("relists") == 1
    assert len(world.server.watches) == 2


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'{"items":[]}', b'{"metadata":{"resourceVersion":"7"},"items":7}', b"\xff"],
)
def test_a_malformed_list_is_asked_again(world: World, body: bytes) -> None:
    world.server.fail(SLICES, 200, body)
    assert world.watch(GREETER) == []
    assert world.counter("malformed") == 1
    assert "the list is malformed" in world.last_error()
    assert only(world.advance(1)) == ["10.0.0.1"]


def test_a_list_cut_by_a_reset_is_asked_again(world: World) -> None:
    def cut(connection: Connection, stream: int) -> None:
        connection.respond(stream, 200)
        connection.send(stream, b'{"metadata":')
        connection.h2.reset_stream(stream, 2)

    world.server.misbehave(SLICES, cut)
    assert world.watch(GREETER) == []
    assert "INTERNAL_ERROR" in world.last_error()
    assert only(world.advance(1)) == ["10.0.0.1"]


def test_a_request_without_an_answer_is_given_up(world: World) -> None:
    world.server.misbehave(SLICES, lambda c, s: None)
    world.watch(GREETER)
    assert world.advance(apiconnection.ANSWER_SECONDS - 1) == []
    assert only(world.advance(2)) == ["10.0.0.1"]
    assert world.server.dials == 1


# --- the connection ---


@pytest.mark.parametrize("end", ["drop", "goaway"])
def test_a_lost_connection_is_replaced_and_the_watches_go_on(world: World, end: str) -> None:
    world.watch(GREETER)
    world.advance(30)
    getattr(world.server.connections[0], end)()
    world.server.put(one("10.0.0.2"))
    before = len(world.server.requests)
    assert only(world.advance(backoff.FIRST_SECONDS)) == ["10.0.0.2"]
    assert world.counter("reconnects") == 1
    assert all("watch=1" in path for path in world.server.requests[before:])
    assert len(world.server.watches) == 2
    assert world.counter("relists") == 0


def test_goaway_lets_a_list_on_its_way_end_and_takes_the_watches_along(world: World) -> None:
    world.server.put(service("orders", ip="10.96.0.11"))
    world.watch(GREETER)
    world.advance(30)
    held: list[int] = []
    world.server.misbehave("orders", lambda c, s: held.append(s))
    world.watch(ServicePort("default", "orders", 50051))
    (connection,) = world.server.connections
    connection.goaway()
    world.settle()
    assert world.state() == "draining"
    assert world.server.watches == []
    listing = {"metadata": {"resourceVersion": "104"}, "items": []}
    connection.respond(held[0], 200, json.dumps(listing).encode())
    connection.flush()
    world.advance(1)
    lists = [p for p in requests(world, "orders") if "watch" not in p]
    assert len(lists) == 2  # its slices and itself, neither asked twice
    assert len(world.server.watches) == 4
    assert world.counter("relists") == 0
    assert world.server.dials == 2
    assert world.last_error() == ""


def test_goaway_with_an_answer_that_never_comes(world: World) -> None:
    world.server.misbehave(SLICES, lambda c, s: None)
    world.watch(GREETER)
    world.server.connections[0].goaway()
    assert only(world.advance(apiconnection.DRAIN_SECONDS + backoff.FIRST_SECONDS)) == ["10.0.0.1"]


@pytest.mark.parametrize(("code", "last"), [(0, 0), (11, 2**31 - 1)], ids=["nothing taken", "too much calm"])
def test_goaway_that_ends_everything(world: World, code: int, last: int) -> None:
    world.server.misbehave(SLICES, lambda c, s: None)
    world.watch(GREETER)
    world.server.connections[0].goaway(code, last)
    assert only(world.advance(backoff.FIRST_SECONDS)) == ["10.0.0.1"]


def test_a_pause_of_the_whole_process_is_survived(world: World) -> None:
    """SIGSTOP, a frozen cgroup, a laptop's lid: the clock jumps ahead and everything is due at once."""
    world.watch(GREETER)
    world.advance(5)
    for pause in (15.0, 45.0, 700.0):
        world.now += pause
        world.server.put(one("10.0.0.1", f"10.0.1.{int(pause) % 250}"))
        assert only(world.advance(1)) == ["10.0.0.1", f"10.0.1.{int(pause) % 250}"]
        assert world.state() == "live"
    assert world.counter("reconnects") == 0


def test_a_watch_that_ends_in_the_middle_of_an_event_loses_nothing(world: World) -> None:
    world.watch(GREETER)
    world.server.inject(b'{"type":"MODIFIED","object":{"metadata":{"name":"greeter-a","resour', only=SLICES)
    world.advance(2)
    world.server.end_watches()
    world.server.put(one("10.0.0.6"))
    assert only(world.advance(1)) == ["10.0.0.6"]


def test_what_is_known_stays_while_the_api_server_is_away(world: World) -> None:
    world.watch(GREETER)
    world.advance(30)
    world.server.stop()
    assert world.advance(600) == []
    assert world.state() == "backing-off"
    assert world.source.synced()
    status = world.source.status(world.now)
    assert status["age_seconds"] > 599
    assert status["services"][str(GREETER)]["endpoints"] == 1
    assert "connection refused; what is known stays in force" in status["last_error"]
    assert 20 < world.server.dials < 120
    world.server.up = True
    world.server.put(one("10.0.0.2"))
    assert only(world.advance(backoff.MAX_SECONDS + 1)) == ["10.0.0.2"]


def test_a_connection_cut_right_after_each_answer_is_not_a_tight_loop(world: World) -> None:
    def cut(connection: Connection, stream: int) -> None:
        connection.respond(stream, 200)
        connection.flush()
        connection.drop()

    for _ in range(1000):
        world.server.misbehave("", cut)
    world.watch(GREETER)
    world.advance(120)
    assert 5 < world.server.dials < 60


def test_a_dead_connection_is_found_by_ping(world: World) -> None:
    world.watch(GREETER)
    world.advance(1)
    world.server.black_hole = True
    limit = apiconnection.PING_AFTER_SECONDS + apiconnection.PING_ANSWER_SECONDS
    world.advance(limit - 2)
    assert world.state() == "live"
    world.advance(2.1)
    assert world.state() == "backing-off" or world.server.dials == 2
    assert "no answer to PING within 10 s" in world.source._faults.last
    world.server.black_hole = False
    world.server.put(one("10.0.0.2"))
    assert only(world.advance(apiconnection.CONNECT_SECONDS + 40)) == ["10.0.0.2"]


def test_a_quiet_connection_is_asked_and_kept(world: World) -> None:
    world.watch(GREETER)
    world.advance(6 * apiconnection.PING_AFTER_SECONDS + 5)
    assert world.server.pings == 6
    assert world.server.dials == 1


def test_a_dial_that_hangs_is_given_up(world: World) -> None:
    world.stalled_dial = True
    world.watch(GREETER)
    world.advance(apiconnection.CONNECT_SECONDS + 0.01)
    assert "not connected within 10 s" in world.last_error()
    world.stalled_dial = False
    assert only(world.advance(1)) == ["10.0.0.1"]
    assert [t.closed for t in world.transports] == [True, False]


def test_bytes_that_break_http2_end_the_connection(world: World) -> None:
    world.watch(GREETER)
    world.deliver(world.server.connections[0], bytes(9 * 10))  # DATA on stream 0
    world.settle()
    assert "protocol error" in world.last_error()
    world.server.put(one("10.0.0.2"))
    assert only(world.advance(1)) == ["10.0.0.2"]
    assert world.server.dials == 2


def test_a_server_of_another_protocol_is_told(world: World) -> None:
    world.stalled_dial = True
    world.watch(GREETER)
    handler = world.transports[0].handler
    handler.connected(world.now)
    for byte in b"HTTP/1.1 400 Bad Request":
        handler.received(bytes([byte]), world.now)
    assert "no HTTP/2, it began with b'HTTP/1.1 '" in world.last_error()
    assert world.transports[0].closed


def test_a_ca_bundle_that_cannot_be_read_is_told_and_tried_again(world: World, tmp_path: Path) -> None:
    where = world.source._server._replace(tls=lambda: kubernetes.tls_context(str(tmp_path / "ca.crt")))
    world.source._server = where
    assert world.watch(GREETER) == []
    assert f"CA bundle {tmp_path / 'ca.crt'}: No such file or directory" in world.last_error()
    world.source._server = where._replace(tls=None)
    assert only(world.advance(1)) == ["10.0.0.1"]


def test_the_ca_bundle_is_read_at_each_connection(world: World) -> None:
    read: list[float] = []

    def tls() -> Any:
        read.append(world.now)

    world.source._server = world.source._server._replace(tls=tls)
    world.watch(GREETER)
    world.advance(20)
    world.server.connections[0].drop()
    world.advance(1)
    assert len(read) == 2


def test_more_services_than_streams_are_polled(world: World) -> None:
    if world.piece:
        pytest.skip("nothing here depends on how bytes are split")
    world.server.max_streams = 6
    ports = []
    for n in range(5):
        world.server.put(service(f"s{n}", ip=f"10.96.1.{n}"))
        ports.append(ServicePort("default", f"s{n}", 50051))
    for port in ports:
        world.source.watch(port, world.now)
    world.advance(1)
    assert world.source.synced()
    assert len(world.server.watches) == 4
    world.server.put(endpoint_slice("s4-a", [endpoint("10.0.0.9")], service="s4"))
    assert only(world.advance(watch.CROWDED_RELIST_SECONDS + 1)) == ["10.0.0.9"]
    before = len(world.server.requests)
    world.advance(100)
    assert len(world.server.requests) - before < 100
    assert [hosts(e)[:1] for e in world.watch(GREETER)] == [["10.0.0.1"]]


def test_no_streams_at_all_is_waited_for(world: World) -> None:
    world.server.max_streams = 0
    world.watch(GREETER)
    world.advance(100)  # the requests made before SETTINGS came were refused
    for connection in world.server.connections:
        connection.h2.update_settings({3: 100})
        connection.flush()
    world.settle()
    world.advance(40)
    assert world.source.synced()


# --- resolving ---


def test_an_address_is_resolved_once_and_remembered(world: World) -> None:
    answer = Resolution("10.96.0.10", 50051, GREETER, True)
    assert world.resolve("10.96.0.10", 50051) == [answer]
    assert world.resolve("10.96.0.10", 50051) == [answer]
    assert world.resolve("10.96.0.10", 443) == [Resolution("10.96.0.10", 443, None)]
    assert world.server.requests == [
        "/api/v1/services?fieldSelector=spec.clusterIP%3D10.96.0.10&resourceVersion=0"
    ]
    world.advance(61)
    assert world.resolve("10.96.0.10", 50051) == [answer]
    assert len(world.server.requests) == 2


def test_an_ipv6_address_is_asked_in_canonical_form(world: World) -> None:
    world.server.put(service("six", ip="fd00::a"))
    (answer,) = world.resolve("FD00:0::a", 50051)
    assert isinstance(answer, Resolution)
    assert answer.service == ServicePort("default", "six", 50051)
    assert "spec.clusterIP%3Dfd00%3A%3Aa&" in world.server.requests[-1]


def test_each_question_gets_one_answer_and_one_request_serves_all(world: World) -> None:
    for port in (50051, 50051, 1):
        world.source.resolve("10.96.0.10", port, world.now)
    assert [e.service for e in world.settle()] == [GREETER, GREETER, None]
    assert len(world.server.requests) == 1


def test_no_service_is_remembered_for_a_while_only(world: World) -> None:
    assert world.resolve("93.184.216.34", 443) == [Resolution("93.184.216.34", 443, None)]
    world.server.put(service("late", ip="93.184.216.34"))
    assert world.resolve("93.184.216.34", 50051) == [Resolution("93.184.216.34", 50051, None)]
    world.advance(NOT_FOUND_SECONDS + 1)
    (answer,) = world.resolve("93.184.216.34", 50051)
    assert answer.service == ServicePort("default", "late", 50051)


def test_a_watched_service_needs_no_question(world: World) -> None:
    dual = service()
    dual["spec"]["clusterIPs"] = ["10.96.0.10", "fd00::10"]
    world.server.put(dual)
    world.watch(GREETER)
    before = len(world.server.requests)
    for ip in ("10.96.0.10", "fd00::10"):
        assert world.resolve(ip, 50051) == [Resolution(ip, 50051, GREETER, True)]
    assert len(world.server.requests) == before


def test_where_the_cluster_may_not_be_asked_the_own_namespace_is(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.server.forbidden = ["/api/v1/services"]
    assert [e.service for e in world.resolve("10.96.0.10", 50051)] == [GREETER]
    assert [e.service for e in world.resolve("10.96.0.77", 50051)] == [None]
    assert len([p for p in world.server.requests if p.startswith("/api/v1/services")]) == 1
    assert "/api/v1/namespaces/default/services?fieldSelector" in world.server.requests[-1]
    assert 'ClusterRole with apiGroups [""], resources ["services"]' in caplog.text
    world.server.forbidden = []
    world.advance(301)
    world.resolve("10.96.0.78", 50051)
    assert world.server.requests[-1].startswith("/api/v1/services")


def test_where_nothing_may_be_asked_it_fails(world: World) -> None:
    world.server.forbidden = ["/api/v1"]
    assert world.resolve("10.96.0.10", 50051) == [Resolution("10.96.0.10", 50051, None, failed=True)]


@pytest.mark.parametrize("fault", ["503", "junk", "reset", "silence", "refused", "401 twice"])
def test_a_question_that_cannot_be_answered_fails_in_time(world: World, fault: str) -> None:
    if fault == "503":
        world.server.fail("spec.clusterIP", 503)
    elif fault == "junk":
        world.server.fail("spec.clusterIP", 200, b"junk")
    elif fault == "reset":
        world.server.misbehave("spec.clusterIP", lambda c, s: c.h2.reset_stream(s, 2))
    elif fault == "silence":
        world.server.misbehave("spec.clusterIP", lambda c, s: None)
    elif fault == "refused":
        world.server.up = False
    else:
        world.server.tokens = set()
    world.source.resolve("10.96.0.10", 50051, world.now)
    failed = [Resolution("10.96.0.10", 50051, None, failed=True)]
    assert world.advance(ANSWER_SECONDS) == failed
    assert world.advance(100) == []


def test_a_question_retries_with_a_new_token(world: World) -> None:
    world.watch(GREETER)
    world.server.tokens = {"new"}
    world.token.write_text("new")
    world.server.put(service("late", ip="10.96.0.50"))
    world.settle()
    world.source.resolve("10.96.0.50", 50051, world.now)
    (answer,) = world.advance(backoff.FIRST_SECONDS)
    assert answer.service == ServicePort("default", "late", 50051)


def test_an_answer_outlives_the_api_server(world: World) -> None:
    world.resolve("10.96.0.10", 50051)
    world.advance(30)
    world.server.stop()
    world.advance(3600)
    world.source.resolve("10.96.0.10", 50051, world.now)
    assert [e.service for e in world.advance(ANSWER_SECONDS)] == [GREETER]
    world.source.resolve("10.96.0.99", 50051, world.now)
    assert [e.failed for e in world.advance(ANSWER_SECONDS)] == [True]


def test_questions_are_bounded(world: World) -> None:
    world.stalled_dial = True
    for n in range(MAX_WAITING + 10):
        world.source.resolve(f"10.1.{n // 250}.{n % 250}", 80, world.now)
    assert len(world.settle()) == 10
    assert len(world.advance(ANSWER_SECONDS)) == MAX_WAITING


@pytest.mark.parametrize("host", ["", "localhost", "10.0.0", "None", "1.2.3.4 ", "::1%lo", "\0"])
def test_what_is_no_address_has_no_service_and_is_not_asked(world: World, host: str) -> None:
    assert world.resolve(host, 80) == [Resolution(host, 80, None)]
    assert world.server.requests == []


# --- the rest ---


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
