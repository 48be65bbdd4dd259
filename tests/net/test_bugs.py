"""Exceptions in callbacks of the loop: what raised ends, everything else goes on, and nothing spins."""

from __future__ import annotations

import contextlib
import socket
import time

import pytest
from net_loop import run_until

from sidecar.balance.endpoints import Endpoint, ServicePort, Snapshot
from sidecar.net import loop as loops
from sidecar.net.dataplane import DataPlane, Listener
from sidecar.net.loop import Loop
from sidecar.net.transport import Streams
from sidecar.wire.frames import PREFACE

GREETER = ServicePort("default", "greeter", 50051)
SETTINGS = b"\0\0\0\4\0\0\0\0\0"


class Handler:
    """As a source of endpoints has one: raises in what it is told to."""

    def __init__(self, *raises: str) -> None:
        self.raises = raises
        self.told: list[str] = []

    def _saw(self, what: str) -> None:
        self.told.append(what)
        if what in self.raises:
            raise KeyError(what)

    def connected(self, now: float) -> None:
        self._saw("connected")

    def received(self, data: bytes, now: float) -> None:
        self._saw("received")

    def lost(self, reason: str, now: float) -> None:
        self._saw("lost")


@pytest.mark.parametrize(
    ("raises", "told", "errors"),
    [
        (("connected",), ["connected", "lost"], {"socket": 1}),
        (("received",), ["connected", "received", "lost"], {"socket": 1}),
        (("lost",), ["connected", "received", "lost"], {"socket": 1}),
        (("received", "lost"), ["connected", "received", "lost"], {"socket": 1, "recovery": 1}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_a_handler_that_raises_loses_its_connection_once(
    loop_and_plane: tuple[Loop, DataPlane], raises: tuple[str, ...], told: list[str], errors: dict[str, int]
) -> None:
    loop, plane = loop_and_plane
    streams = Streams(loop)
    server = socket.create_server(("127.0.0.1", 0))
    handler, other = Handler(*raises), Handler()
    host, port = server.getsockname()
    streams.dial(host, port, handler, None, "")
    first = server.accept()[0]
    streams.dial(host, port, other, None, "")
    second = server.accept()[0]
    first.sendall(b"x")
    if raises == ("lost",):
        first.shutdown(socket.SHUT_WR)
    run_until(loop, plane, lambda: "lost" in handler.told)
    assert handler.told == told
    assert loop.errors.counts == errors
    second.sendall(b"x")
    run_until(loop, plane, lambda: "received" in other.told)
    assert other.told == ["connected", "received"]
    with contextlib.suppress(ConnectionResetError):  # what it sent may be unread
        assert first.recv(16) == b"", "its socket is closed"
    for sock in (first, second, server):
        sock.close()


def test_a_client_that_cannot_be_adopted_is_closed(loop_and_plane: tuple[Loop, DataPlane]) -> None:
    loop, plane = loop_and_plane
    taken: list[socket.socket] = []

    def accept(sock: socket.socket, now: float) -> None:
        if not taken:
            taken.append(sock)
            raise KeyError("accept")
        taken.append(sock)

    server = socket.create_server(("127.0.0.1", 0))
    server.setblocking(False)
    listener = Listener(loop, server, accept)
    clients = [socket.create_connection(server.getsockname()) for _ in range(2)]
    run_until(loop, plane, lambda: len(taken) == 2)
    assert loop.errors.counts == {"accept": 1}
    assert clients[0].recv(1) == b""
    listener.close()
    for sock in (*clients, taken[1]):
        sock.close()


class Broken(socket.socket):
    asked = 0

    def accept(self) -> tuple[socket.socket, object]:
        self.asked += 1
        raise KeyError("accept")


def test_a_listener_that_raises_rests(loop_and_plane: tuple[Loop, DataPlane]) -> None:
    """Level-triggered as the loop is, the same would come in every turn."""
    loop, plane = loop_and_plane
    sock = Broken()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    sock.setblocking(False)
    listener = Listener(loop, sock, lambda found, now: None)
    client = socket.create_connection(sock.getsockname())
    started = time.monotonic()
    run_until(loop, plane, lambda: time.monotonic() - started > 3 * loops.REST)
    assert 1 <= sock.asked <= 5
    assert sum(loop.errors.counts.values()) == sock.asked
    listener.close()
    client.close()


def test_an_owner_whose_turn_raises_is_called_again_and_the_plane_goes_on(
    loop_and_plane: tuple[Loop, DataPlane],
) -> None:
    loop, plane = loop_and_plane
    turns: list[float] = []
    plane.engine.service(GREETER)
    left, right = socket.socketpair()
    left.setblocking(False)
    plane.adopt(left, GREETER, loop.now())
    right.settimeout(10)

    def turn(now: float) -> float:
        turns.append(now)
        if len(turns) < 4:
            raise KeyError("turn")
        loop.stop()
        return now + 1

    started = time.monotonic()
    loop.run(plane, turn)
    assert time.monotonic() - started >= 2 * loops.REST, "it rests in between"
    assert loop.errors.counts == {"turn": 3}
    assert right.recv(64), "our SETTINGS were written all the same"
    right.close()


def test_an_endpoint_that_cannot_be_dialled_is_one_that_is_not_there(
    loop_and_plane: tuple[Loop, DataPlane],
) -> None:
    """A name no socket takes: this raises TypeError, which is no OSError."""
    loop, plane = loop_and_plane
    engine = plane.engine
    endpoints = (Endpoint("no\0host", 1),)
    engine.update(Snapshot(GREETER, endpoints, "file", loop.now(), True), loop.now())
    left, right = socket.socketpair()
    left.setblocking(False)
    plane.adopt(left, GREETER, loop.now())
    right.sendall(PREFACE + SETTINGS)
    run_until(loop, plane, lambda: sum(loop.errors.counts.values()) >= 2)
    (backend,) = engine.services[GREETER].backends.values()
    assert "internal error" in backend.last_error
    assert set(loop.errors.counts) == {"dial"}
    assert len(engine.downstreams) == 1
    right.close()


def test_a_connection_whose_socket_raises_ends_alone(loop_and_plane: tuple[Loop, DataPlane]) -> None:
    """When it is half-closed behind the GOAWAY for what it sent, and when that is got over."""
    loop, plane = loop_and_plane
    engine = plane.engine

    class Odd(socket.socket):
        def shutdown(self, *_: object) -> None:
            raise KeyError("shutdown")

    left, right = socket.socketpair()
    odd = Odd(fileno=left.detach())
    odd.setblocking(False)
    plane.adopt(odd, GREETER, loop.now())
    well, other = socket.socketpair()
    well.setblocking(False)
    plane.adopt(well, GREETER, loop.now())
    right.sendall(b"GET / HTTP/1.1\r\n\r\n")
    run_until(loop, plane, lambda: len(engine.downstreams) == 1)
    assert 1 <= sum(loop.errors.counts.values()) <= 4, loop.errors.counts
    assert odd.fileno() < 0, "it is closed all the same"
    other.sendall(PREFACE + SETTINGS)
    (peer,) = engine.downstreams
    run_until(loop, plane, lambda: peer.peer_ready)
    right.close()
    other.close()
