"""A socket and its unsent output, with a peer that leaves."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from sidecar.net.loop import READ, WRITE, Loop
from sidecar.net.transport import PlainTransport, Streams


class Heard:
    def __init__(self) -> None:
        self.octets = b""
        self.why = ""

    def connected(self, now: float) -> None:
        raise AssertionError("it is connected already")

    def received(self, data: bytes, now: float) -> None:
        self.octets += data

    def lost(self, reason: str, now: float) -> None:
        self.why = reason


@pytest.fixture
def channel() -> Iterator[tuple[PlainTransport, socket.socket]]:
    """One of ours, and its peer's socket."""
    loop = Loop()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    yield Streams(loop).adopt(ours), theirs
    theirs.close()
    loop.close()


def test_last_words_are_heard_though_nothing_can_be_written_any_more(
    channel: tuple[PlainTransport, socket.socket],
) -> None:
    """Such as a GOAWAY, or the answer to the request that is still being written."""
    ours, theirs = channel
    heard = Heard()
    ours.attach(heard)
    while not ours.unsent():
        ours.write(bytes(65536))
    theirs.sendall(b"last words")
    theirs.close()
    while not ours.closed:
        ours.ready(READ | WRITE, time.monotonic())
    assert heard.octets == b"last words"
    assert heard.why


def test_a_broken_socket_that_took_nothing_is_told_from_one_that_did(
    channel: tuple[PlainTransport, socket.socket],
) -> None:
    ours, theirs = channel
    assert ours.write_pieces([b"one"])
    assert ours.write_pieces([b"x", b"y"])
    theirs.close()
    assert not ours.write_pieces([b"one"])
    assert not ours.write_pieces([b"x", b"y"])
    assert not ours.closed  # the loop finds out


def test_a_closed_channel_does_not_write_to_what_has_its_number_now(
    channel: tuple[PlainTransport, socket.socket],
) -> None:
    ours, _ = channel
    number = ours.sock.fileno()
    ours.abort()
    other, end = socket.socketpair()
    if other.fileno() != number:
        pytest.skip("the number was not given again")
    ours.write(b"x")
    ours.write_pieces([b"x", b"y"])
    ours.ready(READ | WRITE, time.monotonic())
    end.setblocking(False)
    with pytest.raises(BlockingIOError):
        end.recv(10)
    other.close()
    end.close()
