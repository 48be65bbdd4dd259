"""From an address to the Service behind it, asked of the API server in memory."""

from __future__ import annotations

import pytest
from fakeapi import World
from kubernetes_scene import GREETER
from objects import service

from sidecar.balance.endpoints import ServicePort
from sidecar.discovery import backoff
from sidecar.discovery.resolve import ANSWER_SECONDS, MAX_WAITING, NOT_FOUND_SECONDS
from sidecar.discovery.source import Resolution


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
