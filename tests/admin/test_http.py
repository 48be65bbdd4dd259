"""Transcripts of the admin port: bytes in, bytes out."""

from __future__ import annotations

import json
import math
import re

import pytest
from admin_fakes import FakeView, Peer, Port, call, parsed, service

from sidecar.admin import connection as limits
from sidecar.admin.connection import AdminConnection
from sidecar.admin.model import Readiness
from sidecar.admin.server import MAX_ADMIN_CONNECTIONS, RENDER_INTERVAL_SECONDS

COMMON = (
    "Cache-Control: no-store\n"
    "X-Content-Type-Options: nosniff\n"
    "Referrer-Policy: no-referrer\n"
    "Cross-Origin-Resource-Policy: same-origin\n"
)


def text(body: str, status: str, extra: str = "") -> bytes:
    """The whole answer, to the byte, in plain text."""
    head = (
        f"HTTP/1.1 {status}\nContent-Type: text/plain; charset=utf-8\n"
        f"Content-Length: {len(body)}\n{COMMON}{extra}\n"
    )
    return head.replace("\n", "\r\n").encode() + body.encode()


def test_livez_to_the_byte(peer: Peer) -> None:
    assert peer.asks("GET /livez HTTP/1.1\nHost: x\n\n") == text("ok\n", "200 OK")
    assert not peer.closed


def test_readyz_says_why_not_in_one_line(peer: Peer, view: FakeView) -> None:
    assert peer.asks("GET /readyz HTTP/1.1\nHost: x\n\n") == text("ready\n", "200 OK")
    view.ready = Readiness(False, "starting: waiting for endpoints of\n greeter.default:50051")
    assert peer.asks("GET /readyz HTTP/1.1\nHost: x\n\n") == text(
        "starting: waiting for endpoints of greeter.default:50051\n", "503 Service Unavailable"
    )


def test_a_request_may_come_byte_by_byte(peer: Peer) -> None:
    request = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    for index in range(len(request) - 1):
        peer.send(request[index : index + 1])
        assert peer.taken() == b""
    peer.send(request[-1:])
    assert peer.taken() == text("ok\n", "200 OK")


def test_keep_alive_and_pipelining_answer_in_order(peer: Peer, view: FakeView) -> None:
    view.ready = Readiness(False, "starting")
    answers = peer.asks(
        "GET /livez HTTP/1.1\nHost: x\n\nGET /readyz HTTP/1.1\nHost: x\n\nGET /nowhere HTTP/1.1\nHost: x\n\n"
    )
    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"200", b"503", b"404"]
    assert not peer.closed
    assert peer.asks("GET /livez HTTP/1.1\nHost: x\nConnection: close\n\n").endswith(b"close\r\n\r\nok\n")
    assert peer.closed


def test_many_pipelined_requests_leave_turns_to_others(peer: Peer, port: Port) -> None:
    answers = peer.asks("GET /livez HTTP/1.1\nHost: x\n\n" * 20)
    assert answers.count(b"200 OK") == limits.MAX_REQUESTS_PER_TURN
    assert port.server.deadline() <= port.now
    port.server.tick(port.now)
    port.server.tick(port.now)
    assert peer.taken().count(b"200 OK") == 20 - limits.MAX_REQUESTS_PER_TURN
    assert port.server.deadline() > port.now


def test_http_1_0_closes_after_the_answer(peer: Peer) -> None:
    answer = peer.asks("GET /livez HTTP/1.0\n\n")
    assert parsed(answer) == (200, parsed(answer)[1], b"ok\n")
    assert parsed(answer)[1]["connection"] == "close"
    assert peer.closed


def test_head_has_the_length_and_no_body(peer: Peer) -> None:
    answer = peer.asks("HEAD /livez HTTP/1.1\nHost: x\n\n")
    assert answer == text("ok\n", "200 OK").removesuffix(b"ok\n")
    assert peer.asks("GET /livez HTTP/1.1\nHost: x\n\n") == text("ok\n", "200 OK")


def test_unknown_path_names_the_paths(peer: Peer) -> None:
    body = "no /healthz here; there are: /livez, /readyz, /metrics, /status, /, /drain\n"
    assert peer.asks("GET /healthz HTTP/1.1\nHost: x\n\n") == text(body, "404 Not Found")


@pytest.mark.parametrize(
    ("method", "path", "allow"), [("POST", "/metrics", "GET, HEAD"), ("GET", "/drain", "POST")]
)
def test_wrong_method_names_the_right_ones(peer: Peer, method: str, path: str, allow: str) -> None:
    status, fields, body = parsed(peer.asks(f"{method} {path} HTTP/1.1\nHost: localhost\n\n"))
    assert (status, fields["allow"], body) == (405, allow, f"{path} allows {allow}\n".encode())


def test_the_query_is_ignored(peer: Peer) -> None:
    assert peer.gets("/livez?verbose=1")[0] == 200


def test_drain_calls_back(peer: Peer, port: Port) -> None:
    assert parsed(peer.asks("POST /drain HTTP/1.1\nHost: localhost:15020\n\n"))[0] == 202
    assert port.drained == 1
    assert parsed(peer.asks("POST /drain HTTP/1.1\nHost: [::1]\nContent-Length: 2\n\n{}"))[0] == 202
    assert port.drained == 2


def test_drain_without_one_is_said(view: FakeView) -> None:
    assert parsed(Port(view, drain=False).connect().asks("POST /drain HTTP/1.1\nHost: ::1\n\n"))[0] == 421
    assert parsed(Port(view, drain=False).connect().asks("POST /drain HTTP/1.1\nHost: [::1]\n\n"))[0] == 501


@pytest.mark.parametrize("host", ["10.244.1.9", "fd00::9", "::ffff:10.0.0.1", "0.0.0.0", "", "localhost"])
def test_off_the_loopback_only_health_and_metrics_answer(port: Port, host: str) -> None:
    peer = port.connect(host)
    for path in ("/livez", "/readyz", "/metrics"):
        assert peer.gets(path)[0] == 200
    for path in ("/status", "/", "/drain", "/anything"):
        status, _, body = peer.gets(path)
        where = "from inside the pod only, e.g. through kubectl port-forward or kubectl exec"
        assert (status, body.decode()) == (403, f"{path} is answered {where}\n")
    assert parsed(peer.asks("POST /drain HTTP/1.1\nHost: 127.0.0.1\n\n"))[0] == 403
    assert port.drained == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "127.255.0.3", "::1", "::ffff:127.0.0.1"])
def test_the_loopback_sees_everything(port: Port, host: str) -> None:
    assert [port.connect(host).gets(path)[0] for path in ("/status", "/", "/metrics")] == [200, 200, 200]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *[
            (host, 200)
            for host in ("127.0.0.1", "127.0.0.1:8080", "localhost:15020", "LOCALHOST", "[::1]:1", "10.1.2.3")
        ],
        *[
            (host, 421)
            for host in ("evil.example", "evil.example:15020", "localhost.evil.example", "", "[evil]", "::1")
        ],
        ("127.0.0.1.evil.example", 421),
    ],
)
def test_a_name_pointed_at_the_loopback_sees_nothing(peer: Peer, host: str, status: int) -> None:
    """DNS rebinding: the browser sends the attacker's name as Host."""
    for path in ("/status", "/"):
        assert parsed(peer.asks(f"GET {path} HTTP/1.1\nHost: {host}\n\n", wait=0.05))[0] == status
    if status == 421:
        assert parsed(peer.asks(f"POST /drain HTTP/1.1\nHost: {host}\n\n"))[0] == 421
        assert parsed(peer.asks("GET http://evil.example/status HTTP/1.1\nHost: localhost\n\n"))[0] == 421
    assert peer.port.drained == 0


def test_a_foreign_page_cannot_drain(peer: Peer) -> None:
    """A no-cors POST from any web page reaches localhost, with its Origin."""
    for origin in ("https://evil.example", "null", "http://localhost:9999"):
        asked = f"POST /drain HTTP/1.1\nHost: localhost:15020\nOrigin: {origin}\nContent-Length: 0\n\n"
        assert parsed(peer.asks(asked))[0] == 403
    assert peer.port.drained == 0
    own = "POST /drain HTTP/1.1\nHost: localhost:15020\nOrigin: http://localhost:15020\n\n"
    assert parsed(peer.asks(own))[0] == 202


def test_status_is_readable_json_with_a_line_for_each_endpoint(peer: Peer, view: FakeView) -> None:
    view.services.append(service(endpoints=2))
    call(view.services[0], 0, times=3)
    view.services[0]["snapshot_age_seconds"] = math.inf
    view.held["source"] = {
        "kind": "file",
        "path": "/tmp/ä.json",
        "bad": math.nan,
        "odd": {1: ValueError("x")},
    }
    status, fields, body = peer.gets("/status")
    assert (status, fields["content-type"]) == (200, "application/json")
    told = json.loads(body)
    assert told["services"][0]["endpoints"][0]["grpc_status"] == {"0": 3}
    assert told["services"][0]["snapshot_age_seconds"] is None
    assert told["source"] == {"kind": "file", "path": "/tmp/ä.json", "bad": None, "odd": {"1": "x"}}
    assert list(told) == list(view.held)
    assert sum(line.strip().startswith('{"address"') for line in body.decode().splitlines()) == 2
    assert max(map(len, body.splitlines())) < 800


def test_the_page_allows_itself_and_nothing_else(peer: Peer) -> None:
    status, fields, body = peer.gets("/")
    assert (status, fields["content-type"]) == (200, "text/html; charset=utf-8")
    policy = dict(part.strip().split(" ", 1) for part in fields["content-security-policy"].split(";"))
    nonce = policy["script-src"].strip("'").removeprefix("nonce-")
    assert policy["default-src"] == "'none'"
    assert body.count(f'nonce="{nonce}"'.encode()) == 2
    assert b"NONCE" not in body
    assert peer.gets("/")[2] != body, "a nonce is used once"
    for outside in (b"//cdn", b"https://", b"src=", b"@import", b"url("):
        assert outside not in body


def test_a_fault_of_the_view_is_an_answer_and_a_log_line(peer: Peer, view: FakeView) -> None:
    view.fault = RuntimeError("broken")
    for path in ("/status", "/metrics"):
        status, _, body = peer.gets(path)
        assert (status, body) == (
            500,
            f"{path} could not be made: RuntimeError; see the sidecar's log\n".encode(),
        )
    assert peer.port.logged == [
        "admin: GET /status failed: RuntimeError: broken",
        "admin: GET /metrics failed: RuntimeError: broken",
    ]
    view.fault = None
    assert peer.gets("/status")[0] == 200


@pytest.mark.parametrize(
    ("garbage", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET /livez\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\nX: " + b"x" * limits.MAX_REQUEST_HEAD_BYTES, 431),
        (b"GET /" + b"x" * limits.MAX_REQUEST_HEAD_BYTES, 431),
        (b"POST /drain HTTP/1.1\r\nHost: a\r\nContent-Length: 99999\r\n\r\n" + b"x" * 2000, 413),
        (b"HEAD /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 99999\r\n\r\n" + b"x" * 2000, 413),
    ],
)
def test_what_is_not_http_gets_one_line_and_the_end(peer: Peer, garbage: bytes, status: int) -> None:
    peer.send(garbage)
    answer = peer.taken()
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nConnection: close\r\n" in answer
    assert peer.closed
    assert peer.port.server.open_connections == 0
    peer.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    assert peer.taken() == b""
    assert peer.port.drained == 0


def test_100_continue_is_answered(peer: Peer) -> None:
    first = peer.asks("POST /drain HTTP/1.1\nHost: localhost\nExpect: 100-continue\nContent-Length: 2\n\n")
    assert first.startswith(b"HTTP/1.1 100 ")
    assert parsed(peer.asks("{}"))[0] == 202


def test_upgrade_and_connect_are_just_declined(peer: Peer) -> None:
    upgrade = "GET /livez HTTP/1.1\nHost: x\nConnection: Upgrade, HTTP2-Settings\nUpgrade: h2c\n\n"
    assert peer.asks(upgrade).endswith(b"ok\n")
    assert parsed(peer.asks("CONNECT evil.example:443 HTTP/1.1\nHost: x\n\n"))[0] == 404
    assert parsed(peer.asks("OPTIONS * HTTP/1.1\nHost: x\n\n"))[0] == 404


def test_a_slow_request_is_ended_however_it_drips(peer: Peer, port: Port) -> None:
    request = b"GET /livez HTTP/1.1\r\nX: " + b"x" * 1000
    for index in range(len(request)):
        peer.send(request[index : index + 1])
        port.wait(limits.REQUEST_TIMEOUT_SECONDS / 100)
        if peer.closed:
            break
    assert 99 <= index <= 101
    assert peer.taken().startswith(b"HTTP/1.1 408 Request Timeout\r\n")


def test_silence_is_ended(port: Port) -> None:
    mute, regular = port.connect(), port.connect()
    regular.gets("/livez")
    port.wait(limits.REQUEST_TIMEOUT_SECONDS)
    assert (mute.closed, mute.taken(), regular.closed) == (True, b"", False)
    port.wait(limits.IDLE_TIMEOUT_SECONDS - limits.REQUEST_TIMEOUT_SECONDS - 1)
    assert regular.gets("/livez")[0] == 200
    port.wait(limits.IDLE_TIMEOUT_SECONDS)
    assert regular.closed
    assert (port.server.open_connections, port.server.deadline()) == (0, math.inf)


def test_a_peer_that_reads_nothing_is_ended(peer: Peer, port: Port) -> None:
    peer.wire.stalled = True
    peer.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
    assert peer.wire.sent.count(b"200 OK") == 1, "no second answer while the first is not taken"
    port.wait(limits.WRITE_TIMEOUT_SECONDS / 2)
    assert not peer.closed
    port.wait(limits.WRITE_TIMEOUT_SECONDS)
    assert peer.closed
    assert peer.wire.sent.count(b"200 OK") == 1


def test_a_peer_that_stalls_once_after_its_answer_is_ended(peer: Peer, port: Port) -> None:
    peer.wire.stalled = True
    peer.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    port.wait(limits.WRITE_TIMEOUT_SECONDS)
    assert peer.closed


def test_a_peer_that_reads_late_gets_all(peer: Peer, port: Port) -> None:
    peer.wire.stalled = True
    peer.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
    port.wait(1)
    peer.wire.stalled = False
    port.wait(1)
    assert peer.taken().count(b"200 OK") == 3
    assert not peer.closed


def test_rendering_is_paced_and_probes_are_not(port: Port, view: FakeView) -> None:
    scrapers, probe = [port.connect() for _ in range(5)], port.connect()
    for scraper in scrapers:
        scraper.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    assert view.asked == 1
    assert parsed(probe.asks("GET /livez HTTP/1.1\nHost: x\n\n"))[0] == 200
    port.wait(RENDER_INTERVAL_SECONDS)
    assert view.asked == 2
    port.wait(RENDER_INTERVAL_SECONDS * 3)
    assert [parsed(scraper.taken())[0] for scraper in scrapers] == [200] * 5


def test_pipelining_beyond_the_bound_ends_the_connection(peer: Peer, port: Port, view: FakeView) -> None:
    many = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 1000
    for start in range(0, len(many), 4096):
        peer.send(many[start : start + 4096])
    assert peer.closed
    assert view.asked == 1


def test_half_closed_peers_are_answered(peer: Peer, port: Port) -> None:
    peer.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\nGET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    peer.send(b"")
    port.wait(1)
    assert peer.taken().count(b"200 OK") == 2
    assert peer.closed


def test_lost_connections_are_forgotten(peer: Peer, port: Port) -> None:
    peer.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
    peer.taken()
    peer.connection.lost("reset", port.now)
    port.wait(100)
    assert (port.server.open_connections, peer.taken(), peer.closed) == (0, b"", False)


def test_whoever_opens_too_many_loses_their_own(port: Port) -> None:
    probe, scraper = port.connect("10.0.0.1"), port.connect("10.0.0.2")
    greedy = [port.connect("10.0.0.3") for _ in range(MAX_ADMIN_CONNECTIONS * 2)]
    assert port.server.open_connections == MAX_ADMIN_CONNECTIONS
    assert not probe.closed
    assert not scraper.closed
    assert sum(not one.closed for one in greedy) == MAX_ADMIN_CONNECTIONS - 2
    assert probe.gets("/livez")[0] == 200
    assert port.connect("10.0.0.4").gets("/readyz")[0] == 200


def test_close_ends_all(port: Port) -> None:
    peers = [port.connect() for _ in range(3)]
    port.server.close()
    assert all(peer.closed for peer in peers)
    assert port.server.open_connections == 0


def test_accept_hands_out_connections(port: Port) -> None:
    assert isinstance(port.connect().connection, AdminConnection)
