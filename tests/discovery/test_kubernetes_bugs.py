"""Bugs of ours in the Kubernetes source: what is known stays in force, and it goes on by itself.

The loop takes an exception in a transport's callback for the end of that transport (`Channel.failed`), and the app
leaves a part that raised in its turn alone for a second (`Sidecar.turn`); `Guarded` does the same.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakeapi import Connection, World
from kubernetes_scene import GREETER, hosts, one, only
from objects import service

from sidecar.balance.endpoints import ServicePort, Snapshot
from sidecar.discovery import apiconnection, backoff, kubernetes
from sidecar.discovery.catalog import Emitter
from sidecar.discovery.resolve import Lookup
from sidecar.discovery.source import Resolution
from sidecar.discovery.watch import Reflector

ORDERS = ServicePort("default", "orders", 50051)
REST = 1.0


class PlantedError(Exception):
    pass


class Guarded(World):
    """Counts the exceptions that come out of the source."""

    def __init__(self, token: Path) -> None:
        self.raised = 0
        super().__init__(token)

    def guard(self, do: Callable[[], None]) -> bool:
        try:
            do()
        except PlantedError:
            self.raised += 1
            return False
        return True

    def _received(self, connection: Connection, data: bytes) -> None:
        if self.guard(lambda: super(Guarded, self)._received(connection, data)):
            return
        for transport in self.transports:
            if transport.connection is connection and not transport.closed:
                transport.closed = True
                self.guard(lambda: connection.handler.lost("internal error", self.now))

    def advance(self, seconds: float) -> list[Snapshot | Resolution]:
        until = self.now + seconds
        found: list[Snapshot | Resolution] = self.settle()
        while self.source.deadline() <= until:
            self.now = max(self.now, self.source.deadline())
            if not self.guard(lambda: self.source.tick(self.now)):
                self.now += REST
            found += self.settle()
        self.now = max(self.now, until)
        return found


@pytest.fixture
def world(tmp_path: Path) -> Guarded:
    made = Guarded(tmp_path / "token")
    made.server.put(service())
    made.server.put(one("10.0.0.1"))
    return made


def once(method: Any, monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> list[None]:
    """`method` of `owner` raises when it is called next; the list tells whether it was."""
    told: list[None] = []

    def planted(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not told:
            told.append(None)
            raise PlantedError
        return method(self, *args, **kwargs)

    monkeypatch.setattr(owner, name, planted)
    return told


def test_an_object_that_cannot_be_read_leaves_the_others_alone(
    world: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    parse = kubernetes.parse_slice

    def planted(item: Any) -> Any:
        found = parse(item)
        if found.name == "greeter-b" and len(found.endpoints) > 1:
            raise PlantedError
        return found

    monkeypatch.setattr(kubernetes, "parse_slice", planted)
    world.server.put(one("10.0.0.2", name="greeter-b"))
    assert only(world.watch(GREETER)) == ["10.0.0.1", "10.0.0.2"]
    world.server.put(one("10.0.0.3", "10.0.0.4", name="greeter-b"))
    world.server.put(one("10.0.0.5"))
    assert only(world.settle()) == ["10.0.0.2", "10.0.0.5"]
    world.server.connections[-1].drop()
    assert world.advance(40.0) == []
    assert (world.raised, world.state()) == (0, "live")
    assert "PlantedError" in world.last_error() or world.counter("malformed") >= 1


def test_a_snapshot_that_was_not_told_is_told_once_it_can_be(
    world: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.watch(GREETER)
    planted = once(Emitter.snapshot, monkeypatch, Emitter, "snapshot")
    world.server.put(one("10.0.0.1", "10.0.0.2"))
    found = world.settle() + world.advance(backoff.FIRST_SECONDS)
    assert planted
    assert world.raised == 1
    assert only(found) == ["10.0.0.1", "10.0.0.2"]
    world.server.put(one("10.0.0.3"))
    assert only(world.settle()) == ["10.0.0.3"]


def test_a_service_that_cannot_be_told_does_not_keep_another_from_it(
    world: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = Emitter.snapshot

    def planted(self: Emitter, wanted: ServicePort, *rest: Any) -> None:
        if wanted == GREETER:
            raise PlantedError
        snapshot(self, wanted, *rest)

    monkeypatch.setattr(Emitter, "snapshot", planted)
    world.server.put(service("orders", ip="10.96.0.11"))
    world.guard(lambda: world.source.watch(GREETER, world.now))
    world.guard(lambda: world.source.watch(ORDERS, world.now))
    (found,) = world.advance(60.0)
    assert hosts(found) == []
    assert world.raised < 10
    assert world.state() == "live"


@pytest.mark.parametrize("what", [Reflector, Lookup], ids=["watch", "look-up"])
def test_an_exchange_that_cannot_be_told_of_the_end_does_not_keep_it_from_the_others(
    world: Guarded, monkeypatch: pytest.MonkeyPatch, what: type
) -> None:
    world.watch(GREETER)
    if what is Lookup:
        world.server.misbehave("10.96", lambda connection, stream: None)
        world.source.resolve("10.96.0.99", 1, world.now)
        world.settle()
    planted = once(what.broken, monkeypatch, what, "broken")  # type: ignore[attr-defined]
    world.guard(world.server.connections[-1].drop)
    world.guard(world.settle)  # type: ignore[arg-type]
    world.advance(backoff.FIRST_SECONDS + REST)
    assert planted
    assert world.state() == "live"
    world.server.put(one("10.0.0.2"))
    found = world.advance(400.0)
    assert [hosts(each) for each in found if isinstance(each, Snapshot)] == [["10.0.0.2"]]


def test_a_connection_whose_turn_raises_is_replaced(world: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    world.watch(GREETER)
    (broken,) = world.server.connections
    ping = broken.handler._h2.ping  # type: ignore[attr-defined]
    assert ping

    def planted(data: bytes) -> None:
        raise PlantedError

    monkeypatch.setattr(broken.handler._h2, "ping", planted)  # type: ignore[attr-defined]
    world.advance(apiconnection.PING_AFTER_SECONDS + backoff.FIRST_SECONDS + REST)
    assert world.raised == 1
    assert world.state() == "live"
    assert world.counter("reconnects") == 1
    world.server.put(one("10.0.0.2"))
    assert only(world.settle()) == ["10.0.0.2"]
