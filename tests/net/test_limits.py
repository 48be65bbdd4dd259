"""Out of files, out of connections, and clients that have left before they are taken: nothing spins, nothing ends."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import struct
import time

import pytest
from net_loop import run_until

from sidecar.balance.endpoints import ServicePort
from sidecar.net import loop as loops
from sidecar.net.dataplane import MAX_CONNECTIONS, DataPlane, Listener
from sidecar.net.loop import Loop
from sidecar.net.sockets import FILES_WANTED, raise_file_limit
from sidecar.net.transport import Streams
from sidecar.splice.engine import Engine

GREETER = ServicePort("default", "greeter", 50051)


class Refusing(socket.socket):
    """A listener whose process has no file left for a while."""

    code = errno.EMFILE
    asked = 0

    def accept(self) -> tuple[socket.socket, object]:
        self.asked += 1
        if self.code:
            raise OSError(self.code, os.strerror(self.code))
        return super().accept()


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_without_files_a_listener_rests_and_then_goes_on(
    loop_and_plane: tuple[Loop, DataPlane], code: int
) -> None:
    """Level-triggered as the loop is, it would otherwise be ready again in every turn: a core for nothing."""
    loop, plane = loop_and_plane
    sock = Refusing()
    sock.code = code
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    sock.setblocking(False)
    taken: list[socket.socket] = []
    listener = Listener(loop, sock, lambda found, now: taken.append(found))
    client = socket.create_connection(sock.getsockname())
    started = time.monotonic()
    run_until(loop, plane, lambda: time.monotonic() - started > 5 * loops.REST)
    assert 1 <= sock.asked <= 7
    sock.code = 0
    run_until(loop, plane, lambda: taken)
    listener.close()
    taken[0].close()
    client.close()


def test_a_resting_listener_that_is_closed_is_not_woken(loop_and_plane: tuple[Loop, DataPlane]) -> None:
    loop, plane = loop_and_plane
    sock = Refusing()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    sock.setblocking(False)
    listener = Listener(loop, sock, lambda found, now: None)
    client = socket.create_connection(sock.getsockname())
    run_until(loop, plane, lambda: sock.asked)
    listener.close()
    started = time.monotonic()
    run_until(loop, plane, lambda: time.monotonic() - started > 2 * loops.REST)
    client.close()


def test_an_error_of_one_client_keeps_nobody_else_waiting(loop_and_plane: tuple[Loop, DataPlane]) -> None:
    """ECONNABORTED and the like speak of one connection; the next may be fine."""
    loop, plane = loop_and_plane
    sock = Refusing()
    sock.code = errno.ECONNABORTED
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    sock.setblocking(False)
    taken: list[socket.socket] = []
    listener = Listener(loop, sock, lambda found, now: taken.append(found))
    client = socket.create_connection(sock.getsockname())

    def heal_and_look() -> bool:
        if sock.asked > 3:
            sock.code = 0
        return bool(taken)

    run_until(loop, plane, heal_and_look)
    listener.close()
    taken[0].close()
    client.close()


def closed_at_once(sock: socket.socket) -> bool:
    sock.settimeout(5)
    with contextlib.suppress(ConnectionResetError):
        while octets := sock.recv(1000):
            assert octets
    return True


def test_a_client_too_many_is_closed_and_the_others_stay() -> None:
    loop = Loop()
    plane = DataPlane(loop, Engine(1), files=16)
    assert plane.most_connections == 12
    plane.listen("127.0.0.1", 0, GREETER)
    address = plane._listeners[0]._sock.getsockname()
    clients = [socket.create_connection(address) for _ in range(14)]
    run_until(loop, plane, lambda: len(plane.engine.downstreams) == 12)
    started = time.monotonic()
    run_until(loop, plane, lambda: time.monotonic() - started > 0.1)
    assert len(plane.engine.downstreams) == 12
    assert all(closed_at_once(sock) for sock in clients[12:])
    for sock in clients[:12]:
        sock.settimeout(5)
        assert sock.recv(9)[3] == 4, "SETTINGS"
    clients[0].close()
    run_until(loop, plane, lambda: len(plane.engine.downstreams) == 11)
    clients.append(socket.create_connection(address))
    run_until(loop, plane, lambda: len(plane.engine.downstreams) == 12)
    for sock in clients:
        sock.close()
    plane.abort_all()
    loop.close()


def test_a_client_that_resets_before_it_is_taken(loop_and_plane: tuple[Loop, DataPlane]) -> None:
    loop, plane = loop_and_plane
    plane.listen("127.0.0.1", 0, GREETER)
    address = plane._listeners[0]._sock.getsockname()
    for _ in range(5):
        client = socket.create_connection(address)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    last = socket.create_connection(address)
    run_until(
        loop,
        plane,
        lambda: plane.engine.totals.downstreams_accepted == 6 and len(plane.engine.downstreams) == 1,
    )
    last.close()


def test_a_closed_connection_is_not_remembered_while_it_would_have_lingered(
    loop_and_plane: tuple[Loop, DataPlane],
) -> None:
    """Connections that come and go by the thousand a second must not stay for two seconds each."""
    loop, plane = loop_and_plane
    plane.listen("127.0.0.1", 0, GREETER)
    address = plane._listeners[0]._sock.getsockname()
    client = socket.create_connection(address)
    client.sendall(b"GET / HTTP/1.1\r\n\r\n")
    run_until(loop, plane, lambda: plane.engine.totals.downstream_errors)
    assert loop._lingering.due < float("inf")
    client.close()
    run_until(loop, plane, lambda: loop._lingering.due == float("inf"), limit=loops.LINGER * 0.9)


def test_a_dial_without_files_is_reported_as_lost() -> None:
    """The API server's connection: even what stands in for a socket must not need a file."""
    loop = Loop()
    plane = DataPlane(loop, Engine(1))
    streams = Streams(loop)

    class Handler:
        why = ""

        def connected(self, now: float) -> None: ...
        def received(self, data: bytes, now: float) -> None: ...
        def lost(self, reason: str, now: float) -> None:
            self.why = reason

    handler = Handler()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        transport = streams.dial("127.0.0.1", 1, handler, None, "")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def ticked() -> bool:
        streams.tick(loop.now())
        return bool(handler.why)

    run_until(loop, plane, ticked)
    assert handler.why == "too many open files"
    transport.close()
    loop.close()


def test_the_limit_on_files_is_raised_to_what_is_wanted() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        wanted = FILES_WANTED if hard == resource.RLIM_INFINITY else min(FILES_WANTED, hard)
        assert raise_file_limit() == wanted
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (wanted, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert FILES_WANTED * 0.75 >= MAX_CONNECTIONS
