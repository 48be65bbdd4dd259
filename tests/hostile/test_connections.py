"""Connections as a weapon, against the real process: too many, half-open, slow, reset before they are taken."""

from __future__ import annotations

import contextlib
import signal
import socket
import struct
import sys
import time
from pathlib import Path

import pytest
from hostile_mesh import Attack, Backend, Caller, Mesh, until
from hostile_peers import Attacker
from rawhttp2 import CONTINUATION, HEADERS, POST, PREFACE, frame, literal

pytestmark = pytest.mark.once  # the bounds are the same in both builds, and the playbook holds them in both

RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def connect_and_reset(port: int) -> None:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    sock.close()


@pytest.mark.parametrize("where", ["data plane", "admin"])
def test_connections_reset_before_they_are_taken(mesh: Mesh, caller: Caller, where: str) -> None:
    """The process must not fall over a socket that is no longer connected."""
    port = mesh.ports["good"] if where == "data plane" else mesh.admin_port
    for _ in range(5):
        mesh.process.send_signal(signal.SIGSTOP)
        for _ in range(20):
            connect_and_reset(port)
        mesh.process.send_signal(signal.SIGCONT)
        time.sleep(0.05)
    caller.goes_on()
    assert mesh.alive(), mesh.log()
    assert not caller.failures


def test_connections_that_come_and_go(attack: Attack) -> None:
    for _ in range(3000):
        Attacker(attack.port, greet=True).close()
    attack.is_survived()


def test_connections_that_come_break_a_rule_and_stay(attack: Attack) -> None:
    """Each is given two seconds to take the GOAWAY; that many at once must not pile up."""
    socks = []
    for _ in range(1000):
        sock = socket.create_connection(("127.0.0.1", attack.port))
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        socks.append(sock)
    until(lambda: ended(socks[0]), "the first is closed")
    until(lambda: ended(socks[-1]), "the last is closed")
    attack.is_survived()
    for sock in socks:
        sock.close()


def ended(sock: socket.socket) -> bool:
    sock.settimeout(0.1)
    with contextlib.suppress(TimeoutError):
        try:
            while sock.recv(1 << 16):
                pass
        except ConnectionResetError:
            pass
        return True
    return False


@pytest.mark.parametrize(
    "said", [b"", PREFACE[:10], PREFACE], ids=["nothing", "half a preface", "no SETTINGS"]
)
def test_half_open_connections_and_slow_prefaces(attack: Attack, said: bytes) -> None:
    socks = []
    for _ in range(1000):
        socks.append(socket.create_connection(("127.0.0.1", attack.port)))
        socks[-1].sendall(said)
    attack.caller.goes_on()
    attack.is_survived()
    until(lambda: ended(socks[0]), "the first is given up")
    until(lambda: ended(socks[-1]), "the last is given up")
    attack.is_survived()
    for sock in socks:
        sock.close()


def test_header_blocks_that_never_end(attack: Attack) -> None:
    """100 connections with 96 KiB of a block each, and then an octet now and then: the oldest make room."""
    block = frame(HEADERS, 0, 1, literal(POST)) + frame(CONTINUATION, 0, 1, bytes(16384)) * 6
    attackers = []
    for _ in range(100):
        attackers.append(Attacker(attack.port))
        attackers[-1].send(block)
    attackers[0].read_to_the_end()
    for _ in range(10):
        for each in attackers[-20:]:
            each.send(frame(CONTINUATION, 0, 1, b"\0"))
        time.sleep(0.1)
    attack.is_survived()
    told = attackers[0].goaway()
    assert told is not None
    assert told.code == 11
    for each in attackers:
        each.close()


def test_frames_that_dribble(attack: Attack) -> None:
    attackers = [Attacker(attack.port) for _ in range(50)]
    octets = frame(HEADERS, 4, 1, literal(POST))
    for octet in octets[:40]:
        for each in attackers:
            each.send(bytes([octet]))
    attack.is_survived()
    for each in attackers:
        each.close()


def test_many_connections_at_once(attack: Attack) -> None:
    attackers = [Attacker(attack.port) for _ in range(1500)]
    attackers[-1].read_until(lambda: attackers[-1].events, "the last is served")
    attack.is_survived()
    for each in attackers:
        each.close()


def test_out_of_files(tmp_path: Path, backend: Backend) -> None:
    """Clients get three quarters of what there is; one too many is closed, and the core is not spun on it."""
    limited = [sys.executable, "-c", LIMITED]
    mesh = Mesh(tmp_path, {"good": [backend.address], "bad": []}, wrapper=limited)
    caller = Caller(mesh.target("good"))
    socks = [socket.create_connection(("127.0.0.1", mesh.ports["good"])) for _ in range(100)]
    try:
        before, started = mesh.cpu_seconds(), time.monotonic()
        while time.monotonic() - started < 2.0:
            socks.append(socket.create_connection(("127.0.0.1", mesh.ports["good"])))
            time.sleep(0.02)
        assert mesh.cpu_seconds() - before < 1.0, "it spins"
        caller.goes_on()
        assert mesh.status()
        until(lambda: ended(socks[-1]), "one too many is closed")
        assert not caller.failures
        assert mesh.alive()
        for sock in socks:
            sock.close()
        attacker = Attacker(mesh.ports["good"])
        attacker.read_until(lambda: attacker.events, "there is room again")
    finally:
        caller.stop()
        mesh.stop()


LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_slow_readers_of_the_admin_port(attack: Attack) -> None:
    """More connections than are served, each asking and never reading."""
    socks = []
    for _ in range(60):
        sock = socket.create_connection(("127.0.0.1", attack.mesh.admin_port))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100)
        socks.append(sock)
    time.sleep(1.0)
    attack.is_survived()
    for sock in socks:
        sock.close()
    until(lambda: attack.mesh.admin("/livez") == b"ok\n", "the admin port answers")
