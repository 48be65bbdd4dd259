"""The end of a client's last answers, which its socket does not take at once."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest
from net_loop import run_until

from sidecar.balance.endpoints import ServicePort
from sidecar.net.dataplane import DataPlane
from sidecar.net.loop import Loop
from sidecar.splice.downstream import Downstream
from sidecar.splice.engine import Engine
from sidecar.wire.frames import PREFACE

SETTINGS = bytes.fromhex("000000040000000000")
GOAWAY = bytes.fromhex("0000080700000000000000000000000000")
PINGS = 900  # whose acknowledgements are more than the socket takes, and fewer than a flood


def ping(number: int, ack: bool = False) -> bytes:
    return bytes([0, 0, 8, 6, ack, 0, 0, 0, 0]) + number.to_bytes(8, "big")


@pytest.fixture
def plane() -> Iterator[DataPlane]:
    loop = Loop()
    made = DataPlane(loop, Engine(7))
    yield made
    made.abort_all()
    loop.close()


def slow_client(plane: DataPlane) -> tuple[socket.socket, Downstream]:
    """One that is owed what its socket does not take."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    ours.setblocking(False)
    theirs.settimeout(10)
    plane.adopt(ours, ServicePort("default", "greeter", 50051), plane.loop.now())
    (peer,) = plane.engine.downstreams
    theirs.sendall(PREFACE + SETTINGS + b"".join(map(ping, range(PINGS))))
    run_until(plane.loop, plane, lambda: peer.unsent > 0)
    return theirs, peer


def test_a_client_that_leaves_is_closed_when_it_has_read_all(plane: DataPlane) -> None:
    theirs, peer = slow_client(plane)
    theirs.sendall(GOAWAY)
    run_until(plane.loop, plane, lambda: peer.finished)
    assert peer in plane.engine.downstreams, "a drain waits for it"
    theirs.setblocking(False)
    got = b""

    def read() -> bool:
        nonlocal got
        with contextlib.suppress(BlockingIOError):
            got += theirs.recv(1024)
        return not plane.engine.downstreams

    run_until(plane.loop, plane, read)
    theirs.settimeout(10)
    while more := theirs.recv(65536):
        got += more
    assert got.endswith(b"".join(ping(number, True) for number in range(PINGS)))
    assert plane.engine.kept()["held"] == 0
    theirs.close()


def test_a_client_that_leaves_and_resets_is_not_waited_for(plane: DataPlane) -> None:
    theirs, peer = slow_client(plane)
    theirs.sendall(GOAWAY)
    run_until(plane.loop, plane, lambda: peer.finished)
    theirs.close()
    run_until(plane.loop, plane, lambda: not plane.engine.downstreams)
    assert plane.engine.kept()["held"] == 0


def test_a_client_that_broke_a_rule_is_closed_at_once(plane: DataPlane) -> None:
    theirs, peer = slow_client(plane)
    theirs.sendall(bytes.fromhex("000000000000000000"))  # DATA on stream 0
    run_until(plane.loop, plane, lambda: peer.finished)
    assert peer not in plane.engine.downstreams
    theirs.close()
