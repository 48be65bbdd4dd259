"""Clients that do not read, or read by the octet: what is held for them has its bound, and nobody else waits.

The bounds stand in docs/limits.md. tests/hostile holds the same attacks against the real process.
"""

from __future__ import annotations

from bystander import ODD, Bystander
from rawhttp2 import INITIAL_WINDOW_SIZE, OK, POST, Data, data, headers, ping, settings, window
from transcript import BackendConnection, ready

from sidecar.splice import context, credit, peer, replay, stream
from sidecar.wire import connection


def test_a_reader_that_stops_is_held_for_up_to_its_bound() -> None:
    """Its streams' first windows and what was lent beyond; nothing of it slows the bystander."""
    world = ready(1)
    bystander = Bystander(world)
    client = world.client({INITIAL_WINDOW_SIZE: 10 << 20})
    client.sends(window(0, 1 << 30), *[headers(s, POST, end=True) for s in ODD[:40]])
    backend = world.backend(1)
    numbers = [n for n in backend.streams_open() if n != bystander.number]
    client.stops_reading()
    backend.sends(*[headers(n, OK) for n in numbers])
    send_all_that_is_granted(backend, numbers)
    assert world.engine.held() <= 40 * connection.RESPONSE_WINDOW + credit.MAX_LENT_UNREAD
    assert len(client.unsent) <= peer.OUTPUT_HIGH + 65536
    bystander.check()
    client.leaves()
    world.nothing_is_left()


def test_many_readers_that_stop_are_held_for_up_to_one_bound() -> None:
    """90 connections that grant 10 MiB each and read nothing: a first window each, and one sum beyond it for all."""
    world = ready(1)
    bystander = Bystander(world)
    clients = []
    for _ in range(90):
        client = world.client({INITIAL_WINDOW_SIZE: 10 << 20})
        client.sends(window(0, 10 << 20), headers(1, POST, end=True))
        client.stops_reading()
        clients.append(client)
    backend = world.backend(1)
    numbers = [n for n in backend.streams_open() if n != bystander.number]
    assert len(numbers) == 90
    backend.sends(*[headers(n, OK) for n in numbers])
    send_all_that_is_granted(backend, numbers)
    assert world.engine.kept()["lent"] <= credit.MAX_LENT_UNREAD
    assert world.engine.held() <= 90 * connection.RESPONSE_WINDOW + credit.MAX_LENT_UNREAD
    bystander.check()
    for client in clients:
        client.leaves()
    world.nothing_is_left()


def send_all_that_is_granted(backend: BackendConnection, numbers: list[int]) -> None:
    left = dict.fromkeys(numbers, connection.RESPONSE_WINDOW)
    moved = True
    while moved:
        moved = False
        for number in numbers:
            left[number] += backend.granted(number)
            size = min(left[number], 16384)
            if size > 0 and not backend.closed:
                backend.sends(data(number, bytes(size)))
                left[number] -= size
                moved = True
        backend.housekeeping.clear()


def test_a_reader_with_more_stalled_than_its_bound_is_given_up() -> None:
    world = ready(1)
    bystander = Bystander(world)
    client = world.client({INITIAL_WINDOW_SIZE: 0})
    client.sends(*[headers(s, POST, end=True) for s in ODD[:1100]])
    backend = world.backend(1)
    numbers = [n for n in backend.streams_open() if n != bystander.number]
    for number in numbers:
        backend.sends(headers(number, OK), data(number, bytes(connection.RESPONSE_WINDOW)))
        if client.closed:
            break
    assert client.closed
    assert world.engine.held() == 0
    backend.take()
    bystander.check()


def test_stalled_readers_on_many_connections_are_bounded_in_all() -> None:
    """The heaviest goes first."""
    world = ready(1)
    bystander = Bystander(world)
    backend = world.backend(1)
    clients = []
    for size in (800, 600, 500, 400, 300):
        client = world.client({INITIAL_WINDOW_SIZE: 0})
        clients.append(client)
        before = set(backend.streams_open())
        client.sends(*[headers(s, POST, end=True) for s in ODD[:size]])
        for number in set(backend.streams_open()) - before:
            backend.sends(headers(number, OK), data(number, bytes(connection.RESPONSE_WINDOW)))
            assert world.engine.kept()["held"] <= context.MAX_HELD_IN_ALL
    assert [c.closed for c in clients] == [True, False, False, False, False]
    backend.take()
    bystander.check()


def test_uploads_that_nobody_reads_close_the_clients_own_window_only() -> None:
    """500 uploads to a backend that takes none of them: the client's connection window is where it ends."""
    world = ready(1)
    bystander = Bystander(world)
    backend = world.backend(1)
    backend.sends(settings({INITIAL_WINDOW_SIZE: 0}))
    client = world.client()
    client.sends(*[headers(s, POST) for s in ODD[:500]])
    connection_window = 65535 + client.connection_granted()
    client.housekeeping.clear()
    for s in ODD[:500]:
        for _ in range(4):
            if connection_window >= 16383:
                client.sends(data(s, bytes(16383)))
                connection_window += client.connection_granted() - 16383
                client.housekeeping.clear()
    assert world.engine.held() <= connection.CONNECTION_WINDOW
    assert not client.closed
    assert not backend.closed
    assert world.engine.held() > connection.CONNECTION_WINDOW * 3 // 4 - 65536
    client.leaves()
    assert world.engine.held() == 0
    backend.take()
    backend.sends(settings({INITIAL_WINDOW_SIZE: 65535}))
    bystander.check()


def test_tiny_frames_that_are_held_are_joined() -> None:
    """65,535 frames of one octet must not cost sixty times what they carry."""
    world = ready(1, settings={INITIAL_WINDOW_SIZE: 0})
    client = world.client()
    client.sends(headers(1, POST))
    client.sends(data(1, b"x") * 20_000)
    half = client.peer.streams.find(1).request
    assert half.held_size == 20_000
    assert len(half.held) <= 20_000 // (stream.JOIN_BELOW // 2) + 1
    backend = world.backend(1)
    backend.take()
    backend.sends(window(1, 30_000))
    body, _ = backend.receives_body(1)
    assert body == b"x" * 20_000


def test_tiny_frames_that_are_copied_are_joined() -> None:
    world = ready(1)
    client = world.client()
    client.sends(headers(1, POST))
    client.sends(data(1, b"x") * 20_000)
    half = client.peer.streams.find(1).request
    assert half.replay_size == 20_000
    assert len(half.replay) <= 20_000 // (stream.JOIN_BELOW // 2) + 1


def test_copies_of_bodies_are_bounded_and_what_has_none_still_works() -> None:
    world = ready(1, settings={INITIAL_WINDOW_SIZE: 1 << 20})
    client = world.client()
    backend = world.backend(1)
    backend.sends(window(0, 1 << 30))
    for s in ODD[:200]:
        client.sends(headers(s, POST), data(s, bytes(40_000)))
    kept = world.engine.kept()["replay"]
    assert replay.MAX_REPLAY_FROM - 65536 <= kept <= replay.MAX_REPLAY_FROM
    client.sends(data(399, b"", end=True))
    backend.answers(399)
    assert client.outcome(399) == ("0", "")
    client.leaves()
    assert world.engine.kept()["replay"] == 0


def test_window_updates_of_one_octet_cost_what_they_move() -> None:
    """Data dribble (CVE-2019-9511): many streams wait, and each octet of window wakes one of them, not all."""
    world = ready(1)
    client = world.client({INITIAL_WINDOW_SIZE: 1 << 20})
    streams = [client.calls() for _ in range(400)]
    backend = world.backend(1)
    backend.sends(*[headers(n, OK) for n in backend.streams_open()])
    backend.sends(*[data(n, bytes(1000)) for n in backend.streams_open()])
    client.take()
    assert len(streams) == 400
    order = list(client.peer._waiting)
    assert len(order) >= 300
    for at in range(50):
        client.sends(window(0, 1))
        (event,) = client.take()
        assert isinstance(event, Data)
        assert event.payload == b"\0"
        assert event.stream == order[at].down_id, "in turn"


def test_a_client_that_speaks_and_does_not_listen() -> None:
    """Acknowledgements that nobody reads end where they cost more than a few megabytes."""
    world = ready(1)
    bystander = Bystander(world)
    client = world.client()
    client.opens()
    client.stops_reading()
    acknowledged = (data(1, b"x") + ping() * 3) * 1000
    for _ in range(200):
        client.sends(acknowledged)
        if client.closed:
            break
    assert client.closed
    assert len(client.unsent) <= connection.MAX_UNREAD_OUTPUT + 65536
    bystander.check()
