"""What is remembered of connections that are passed through: where to, whose address, why; and how much of it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from net_loop import run_until

from sidecar.balance.endpoints import ServicePort
from sidecar.net.capture import MAX_HELD, MAX_TOLD, Capture, Passed
from sidecar.net.channel import BULK_READ_SIZE
from sidecar.net.dataplane import DataPlane
from sidecar.net.loop import Loop
from sidecar.net.sockets import Destination
from sidecar.splice.engine import Engine
from sidecar.view import View

ORDERS = ServicePort("shop", "orders", 7000)
TLS_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)


class Source:
    """Knows nothing and is synced."""

    def synced(self) -> bool:
        return True

    def status(self, now: float) -> dict[str, Any]:
        return {"kind": "none"}

    def standing(self, *_: Any) -> Any:
        return None


@pytest.fixture
def capture() -> Iterator[Capture]:
    loop = Loop()
    made = Capture(DataPlane(loop, Engine(7)), lambda destination, now: None)
    yield made
    made.abort_all()
    loop.close()


def connect(
    capture: Capture, destination: Destination, service: ServicePort | None, first: bytes
) -> socket.socket:
    """A redirected client that has said `first` once its destination is found out."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    capture.adopt(ours, destination, 1.0)
    captured = next(reversed(capture.open))
    if first:
        captured.received(first, 1.0)
    capture.resolved(destination, service, False, False, 1.0)
    return theirs


def test_destination_service_and_reason_are_kept(capture: Capture):
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        orders, outside = (Destination(*server.getsockname()[:2]) for server in (one, other))
        clients = [connect(capture, orders, ORDERS, TLS_HELLO) for _ in range(2)]
        clients.append(connect(capture, outside, None, b""))
    assert capture.passed_through == {"tls": 2, "not_a_service": 1}
    assert capture.passed_to == {
        Passed(orders, "tls"): 2,
        Passed(outside, "not_a_service"): 1,
    }
    assert capture.service_of(orders) == ORDERS, "though the first spoke before it was found out"
    assert capture.service_of(outside) is None
    for client in clients:
        client.close()


def test_the_latest_stand_last_and_the_number_is_bounded(capture: Capture):
    for number in range(3 * MAX_TOLD):
        capture.count("tls", Destination("10.0.0.1", 1000 + number))
        capture.count("tls", Destination("10.0.0.1", 1))
    assert len(capture.passed_to) == MAX_TOLD
    (*_, before, last) = capture.passed_to.items()
    assert last == (Passed(Destination("10.0.0.1", 1), "tls"), 3 * MAX_TOLD), "in use, so never forgotten"
    assert before[0].destination.port == 1000 + 3 * MAX_TOLD - 1
    assert capture.passed_through == {"tls": 6 * MAX_TOLD}


def test_the_status_tells_the_latest_first(capture: Capture):
    orders = Destination("10.96.0.7", 443)
    capture.resolved(orders, ORDERS, False, False, 1.0)
    capture.count("tls", orders)
    capture.count("http1", Destination("fd00::9", 80))
    view = View(capture.plane.engine, Source(), capture, 0.0)  # type: ignore[arg-type]
    assert view.status(1.0)["connections"]["passthrough"] == [
        {"destination": "[fd00::9]:80", "service": "", "reason": "http1", "connections": 1},
        {"destination": "10.96.0.7:443", "service": "orders.shop:7000", "reason": "tls", "connections": 1},
    ]


def test_what_a_server_says_ahead_is_held_up_to_its_bound_and_then_passed_on(capture: Capture):
    """It begins as HTTP/2 does, and the client has not said a word yet."""
    said = bytes.fromhex("000000040000000000") + bytes(8 * MAX_HELD)
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = connect(capture, Destination(*server.getsockname()[:2]), ORDERS, b"")
        speaker = server.accept()[0]
    speaker.setblocking(False)
    client.setblocking(False)
    (captured,) = capture.open
    loop, plane = capture.plane.loop, capture.plane
    sent, got, still = 0, b"", 0

    def speak() -> int:
        nonlocal sent
        before = sent
        with contextlib.suppress(BlockingIOError):
            sent += speaker.send(said[sent:])
        return sent - before

    def nothing_moves() -> bool:
        nonlocal still
        still = 0 if speak() else still + 1
        return still > 20

    def all_has_come() -> bool:
        nonlocal got
        speak()
        with contextlib.suppress(BlockingIOError):
            got += client.recv(1 << 20)
        return len(got) == len(said)

    run_until(loop, plane, nothing_moves)
    assert MAX_HELD < len(captured._from_client + captured._from_server) <= MAX_HELD + BULK_READ_SIZE
    client.sendall(TLS_HELLO)
    run_until(loop, plane, all_has_come)
    assert got == said
    speaker.close()
    client.close()
