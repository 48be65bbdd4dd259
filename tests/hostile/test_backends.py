"""Hostile backends, against the real process: each affects its own Service only.

The caller's Service has a real backend; the hostile one is the other Service's, and calls to it are what it attacks.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator

import grpc
import pytest
from hostile_mesh import DIRECT, ECHO, GRPC_CALL, Attack, until
from hostile_peers import Attacker, HostileBackend, HostileConnection
from rawhttp2 import (
    CONTINUATION,
    ENHANCE_YOUR_CALM,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    INSERT_LARGE,
    MAX_CONCURRENT_STREAMS,
    NEWEST,
    OK,
    PRIORITY,
    REFUSED_STREAM,
    Headers,
    data,
    frame,
    goaway,
    headers,
    literal,
    ping,
    rst,
    settings,
    window,
)

pytestmark = pytest.mark.once  # the bounds are the same in both builds, and the playbook holds them in both

Script = Callable[[HostileConnection], None]
Start = Callable[[Script], HostileBackend]


@pytest.fixture
def start(attack: Attack) -> Iterator[Start]:
    """Starts the only backend of Service `bad`."""
    started: list[HostileBackend] = []

    def begin(script: Script) -> HostileBackend:
        found = HostileBackend(script)
        started.append(found)
        attack.mesh.set_endpoints("bad", found.address)
        return found

    yield begin
    for each in started:
        each.stop()


def call(attack: Attack, timeout: float = 20.0) -> grpc.RpcError:
    """One call to the hostile backend's Service; its failure."""
    channel = grpc.insecure_channel(attack.mesh.target("bad"), options=DIRECT)
    with channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/test.Hostile/Echo")(b"x", timeout=timeout)
    return caught.value


def keep_sending(connection: HostileConnection, octets: bytes) -> None:
    """Until the sidecar has had enough."""
    for _ in range(20_000):
        connection.send(octets)


def greeted(connection: HostileConnection, values: dict[int, int] | None = None) -> int:
    """Says SETTINGS and waits for a request; its stream."""
    connection.send(settings(values), settings(ack=True))
    return connection.request()


NUISANCES = {
    "PING": ping(),
    "SETTINGS": settings(),
    "SETTINGS that open and close windows": settings({INITIAL_WINDOW_SIZE: 0})
    + settings({INITIAL_WINDOW_SIZE: 9}),
    "PRIORITY": frame(PRIORITY, 0, 1, bytes(5)),
    "WINDOW_UPDATE": window(1, 1),
    "empty DATA": data(1, b""),
    "unknown frames": frame(0x77, 0, 0, b"x"),
    "GOAWAY": goaway(1),
}


@pytest.mark.parametrize("kind", NUISANCES)
def test_a_flood_of_frames_that_move_nothing(attack: Attack, start: Start, kind: str) -> None:
    def script(connection: HostileConnection) -> None:
        stream = greeted(connection)
        connection.send(headers(stream, OK))
        keep_sending(connection, NUISANCES[kind] * 10)

    backend = start(script)
    error = call(attack)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "too many" in error.details()
    assert f"{backend.address[0]}:{backend.address[1]}" in error.details()
    assert backend.connections[0].told() == ENHANCE_YOUR_CALM
    attack.is_survived()


def test_continuations_without_end(attack: Attack, start: Start) -> None:
    def script(connection: HostileConnection) -> None:
        stream = greeted(connection)
        connection.send(frame(HEADERS, 0, stream, b""))
        keep_sending(connection, frame(CONTINUATION, 0, stream, bytes(16384)))

    backend = start(script)
    error = call(attack)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "header block" in error.details()
    assert backend.connections[0].told() == ENHANCE_YOUR_CALM
    attack.is_survived()


def test_a_header_bomb(attack: Attack, start: Start) -> None:
    def script(connection: HostileConnection) -> None:
        stream = greeted(connection)
        connection.send(headers(stream, literal(OK) + INSERT_LARGE), headers(stream, NEWEST * 2000, end=True))
        connection.told()

    start(script)
    error = call(attack)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "header list" in error.details()
    attack.is_survived()


def test_informational_responses_without_end(attack: Attack, start: Start) -> None:
    def script(connection: HostileConnection) -> None:
        while True:
            stream = greeted(connection)
            connection.send(headers(stream, ((":status", "103"), ("link", "x" * 1000))) * 1000)

    start(script)
    call(attack)  # C-core makes of an informational response what it likes
    attacker = Attacker(attack.mesh.ports["bad"])
    attacker.send(headers(1, ECHO) + data(1, GRPC_CALL, True))
    attacker.read_until(lambda: attacker.answered() == 1, "the answer")
    assert attacker.count(Headers) <= 9
    assert "too many informational responses" in str(attacker.events[-1])
    attacker.close()
    attack.is_survived()


def test_resets_without_end(attack: Attack, start: Start) -> None:
    """It refuses everything, and goes on resetting what is over."""

    def script(connection: HostileConnection) -> None:
        connection.send(settings(), settings(ack=True))
        while True:
            connection.send(rst(connection.request(), REFUSED_STREAM))
            connection.send(rst(1, REFUSED_STREAM) * 5000)

    start(script)
    for _ in range(20):
        assert call(attack).code() is grpc.StatusCode.UNAVAILABLE
    attack.is_survived()


def test_goaway_on_every_connection(attack: Attack, start: Start) -> None:
    def script(connection: HostileConnection) -> None:
        connection.send(settings(), goaway(0))
        connection.told()

    backend = start(script)
    assert call(attack).code() is grpc.StatusCode.UNAVAILABLE
    time.sleep(1.0)
    assert len(backend.connections) < 20, "it is dialled less and less often"
    attack.is_survived()


def test_window_games(attack: Attack, start: Start) -> None:
    """Windows that overflow, and windows that open by an octet."""

    def script(connection: HostileConnection) -> None:
        stream = greeted(connection, {INITIAL_WINDOW_SIZE: 0})
        for _ in range(3):
            connection.send(window(stream, 1))
        connection.send(window(stream, 2**31 - 1) * 2)
        connection.told()

    start(script)
    error = call(attack)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "window" in error.details()
    attack.is_survived()


def test_no_room_for_any_stream(attack: Attack, start: Start) -> None:
    def script(connection: HostileConnection) -> None:
        connection.send(settings({MAX_CONCURRENT_STREAMS: 0}), settings(ack=True))
        connection.told()

    backend = start(script)
    error = call(attack)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "none of 1 endpoints" in error.details()
    assert len(backend.connections) <= 8
    attack.is_survived()


@pytest.mark.parametrize(
    "said",
    [b"", settings()[:5], b"HTTP/1.1 400 Bad Request\r\n\r\n", bytes(3000), b"\xff" * 3000],
    ids=["nothing", "half of SETTINGS", "HTTP/1", "zeros", "ones"],
)
def test_what_is_no_http2_server(attack: Attack, start: Start, said: bytes) -> None:
    def script(connection: HostileConnection) -> None:
        connection.send(said)
        connection.told()

    start(script)
    assert call(attack).code() is grpc.StatusCode.UNAVAILABLE
    attack.is_survived()


def test_a_response_without_end(attack: Attack, start: Start) -> None:
    """It sends whatever it is granted."""

    def script(connection: HostileConnection) -> None:
        stream = greeted(connection)
        connection.send(headers(stream, OK))
        keep_sending(connection, data(stream, b"\0" + struct.pack(">I", 16379) + bytes(16379)))

    start(script)
    with grpc.insecure_channel(attack.mesh.target("bad"), options=DIRECT) as channel:
        messages = channel.unary_stream("/test.Hostile/Large")(b"x", timeout=20)
        with pytest.raises(grpc.RpcError) as caught:
            assert len(list(messages)) < 100
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "DATA beyond the stream's window" in caught.value.details()
    attack.is_survived()


def test_a_backend_that_never_reads(attack: Attack, start: Start) -> None:
    """Its calls wait or end by their deadlines; nobody else's do."""

    def script(connection: HostileConnection) -> None:
        connection.send(settings(), settings(ack=True))
        time.sleep(60)

    start(script)
    large = (("token", "t" * 8000),)
    with grpc.insecure_channel(attack.mesh.target("bad"), options=DIRECT) as channel:
        echo = channel.unary_unary("/test.Hostile/Echo")
        calls = [echo.future(b"x" * 10_000, timeout=3, metadata=large) for _ in range(500)]
        for each in calls:
            assert each.exception() is not None
    attack.is_survived()


def test_a_connection_that_is_dropped_again_and_again(attack: Attack, start: Start) -> None:
    def script(connection: HostileConnection) -> None:
        greeted(connection)
        connection.sock.close()

    start(script)
    for _ in range(4):
        assert call(attack).code() is grpc.StatusCode.UNAVAILABLE
    attack.is_survived()


def test_one_hostile_backend_among_honest_ones(attack: Attack, start: Start) -> None:
    """Of the same Service: what it gets may fail, what the others get does not, and it gets no more than its share."""

    def script(connection: HostileConnection) -> None:
        greeted(connection)
        keep_sending(connection, ping() * 10)

    backend = start(script)
    honest = attack.mesh.services["good"][0]
    attack.mesh.set_endpoints("bad", backend.address, honest)
    outcomes = []
    with grpc.insecure_channel(attack.mesh.target("bad"), options=DIRECT) as channel:
        for _ in range(100):
            future = channel.unary_unary("/test.Hostile/Echo").future(b"x", timeout=20)
            outcomes.append(future.code())
    assert set(outcomes) <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    assert outcomes.count(grpc.StatusCode.OK) >= 50
    until(lambda: len(attack.mesh.endpoints("bad")) == 2, "both are still known")
    attack.is_survived()
