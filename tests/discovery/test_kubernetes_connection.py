"""The Kubernetes source's connection: lost, dead, not to be had, drained, of another protocol, with too few streams."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fakeapi import Connection, World
from kubernetes_scene import GREETER, SLICES, hosts, one, only, requests
from objects import endpoint, endpoint_slice, service

from sidecar.balance.endpoints import ServicePort
from sidecar.discovery import apiconnection, backoff, kubernetes, watch


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
