"""Watches of the Kubernetes source that end and break: taken up where they were, or listed anew, without haste."""

from __future__ import annotations

import json

import pytest
from fakeapi import Connection, World
from kubernetes_scene import GREETER, SLICES, one, only, requests

from sidecar.discovery import watch


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
