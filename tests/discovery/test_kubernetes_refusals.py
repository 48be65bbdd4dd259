"""Requests of the Kubernetes source that are refused or not answered: tokens, RBAC, 429, 5xx, senseless lists."""

from __future__ import annotations

import pytest
from fakeapi import Connection, World
from kubernetes_scene import GREETER, SLICES, one, only, requests

from sidecar.discovery import apiconnection, backoff, watch


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
