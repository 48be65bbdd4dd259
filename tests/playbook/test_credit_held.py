"""What waits here for credit: a stalled reader holds up only itself, and what is held is bounded and let go."""

from __future__ import annotations

import pytest
from credit_calls import body_of, open_call
from rawhttp2 import (
    INITIAL_WINDOW_SIZE,
    OK,
    POST,
    TRAILERS,
    Data,
    Headers,
    data,
    headers,
    literal,
    response,
    rst,
    window,
)
from transcript import BIG, World, ready

from sidecar.wire.connection import RESPONSE_WINDOW

# What the engine may hold for all stalled readers together in the worst test below.
HELD_BOUND = 64 << 20


def test_a_stalled_stream_holds_up_no_other_of_its_connection() -> None:
    world = ready(1)
    client = world.client({INITIAL_WINDOW_SIZE: 1000})
    client.sends(window(0, BIG))
    stalled, backend = open_call(world, client)
    running, _ = open_call(world, client)
    backend.sends(data(1, bytes(RESPONSE_WINDOW)))
    assert body_of(client, stalled) == 1000
    for _ in range(200):
        backend.sends(data(3, bytes(1000)))
        assert body_of(client, running) == 1000
        client.sends(window(running, 1000))
    assert world.engine.held() == RESPONSE_WINDOW - 1000


def test_ninety_stalled_readers_hold_up_nobody_else() -> None:
    """Each is sent as much as it is granted, of 10 MiB it could take; another client's stream on the same
    connection of the same backend goes on."""
    world = ready(1)
    stalled, running = world.client({INITIAL_WINDOW_SIZE: 10 << 20}), world.client()
    stalled.sends(window(0, 1 << 30))
    for _ in range(90):
        stalled.calls()
    backend = world.backend(1)
    numbers = backend.streams_open()
    running.sends(headers(1, POST))
    (number,) = set(backend.streams_open()) - set(numbers)
    backend.take()
    stalled.stops_reading()
    backend.sends(*[headers(s, OK) for s in [*numbers, number]])
    connection = 65535 + backend.connection_granted()
    credit = dict.fromkeys(numbers, RESPONSE_WINDOW)
    for _ in range(60):
        moved = 0
        for stream in numbers:
            credit[stream] += backend.granted(stream)
            size = min(credit[stream], 16384, connection)
            if size > 0:
                backend.sends(data(stream, bytes(size)))
                credit[stream] -= size
                moved += size
        granted = backend.connection_granted()
        backend.housekeeping.clear()
        connection += granted - moved if moved else granted
        if not moved:
            break
    assert world.engine.held() <= HELD_BOUND
    assert not stalled.closed
    running.take()
    body = 0
    for _ in range(100):
        size = min(16384, connection)
        assert size > 0, "nothing is left of the connection's window"
        backend.sends(data(number, bytes(size)))
        connection += backend.connection_granted() - size
        backend.housekeeping.clear()
        got = body_of(running, 1)
        assert got == size
        body += got
        running.sends(window(1, got), window(0, got))
    assert body == 100 * 16384
    stalled.leaves()
    running.sends(rst(1))
    world.nothing_is_left()


def test_ninety_stalled_backends_streams_hold_up_no_other_of_that_client() -> None:
    """The same the other way: requests to a backend that does not read."""
    world = World()
    world.backend_settings["10.0.0.1"] = {INITIAL_WINDOW_SIZE: 10 << 20}
    world.endpoints(1)
    client = world.client()
    world.backend(1).sends(window(0, 1 << 30))
    streams = [client.opens() for _ in range(90)]
    dead = world.backend(1)
    dead.stops_reading()
    world.endpoints(2)
    running = client.opens()
    alive = world.backend(2)
    alive.take()
    connection = 65535 + client.connection_granted()
    client.housekeeping.clear()
    credit = dict.fromkeys(streams, 65535)
    moved = 1
    while moved:
        moved = 0
        for stream in streams:
            credit[stream] += client.granted(stream)
            size = min(credit[stream], 16384, connection)
            if size > 0:
                client.sends(data(stream, bytes(size)))
                credit[stream] -= size
                connection += client.connection_granted() - size
                client.housekeeping.clear()
                moved += size
    assert world.engine.held() <= HELD_BOUND
    for _ in range(100):
        assert connection >= 1000, "nothing is left of the connection's window"
        client.sends(data(running, bytes(1000)))
        connection += client.connection_granted() - 1000
        client.housekeeping.clear()
        assert body_of(alive, 1) == 1000
        alive.sends(window(1, 1000), window(0, 1000))


def test_queued_bodies_are_bounded_and_released() -> None:
    """300 uploads with their first 64 KiB wait for an endpoint; then they are answered and nothing is held."""
    world = World()
    client = world.client()
    connection = 65535 + client.connection_granted()
    streams = []
    for _ in range(300):
        if connection < 65535:
            break
        streams.append(client.opens())
        client.sends(data(streams[-1], bytes(65535)))
        connection -= 65535
    assert len(streams) >= 250
    assert world.engine.held() == len(streams) * 65535
    client.housekeeping.clear()
    world.advance(3.0)
    assert world.engine.held() == 0
    assert client.connection_granted() >= len(streams) * 65535 - (1 << 23)
    world.nothing_is_left()


def test_streams_that_are_over_wait_for_nothing() -> None:
    """A reset stream that had something held is not kept until the connection's window opens."""
    world = ready(1)
    client = world.client({INITIAL_WINDOW_SIZE: 1 << 20})
    _, backend = open_call(world, client)
    backend.sends(data(1, bytes(65535)), headers(1, TRAILERS, end=True))
    for _ in range(900):
        stream, _ = open_call(world, client)
        backend.sends(data(max(backend.streams_open()), b"held"))
        client.sends(rst(stream))
    assert world.engine.held() == 0
    assert not client.peer.has_waiting()


def test_a_client_that_leaves_with_everything_held() -> None:
    world = ready(1)
    client = world.client({INITIAL_WINDOW_SIZE: 0})
    for _ in range(20):
        open_call(world, client)
    backend = world.backend(1)
    backend.sends(*[data(s, bytes(30_000)) for s in backend.streams_open()])
    backend.sends(*[headers(s, TRAILERS, end=True) for s in backend.streams_open()])
    assert world.engine.held() == 20 * (30_000 + len(literal(TRAILERS)))
    client.leaves()
    world.nothing_is_left()


def test_what_a_lost_backend_had_answered_is_still_delivered() -> None:
    world = ready(1)
    client = world.client({INITIAL_WINDOW_SIZE: 0})
    complete, backend = open_call(world, client)
    partial, _ = open_call(world, client)
    backend.sends(data(1, b"complete"), headers(1, TRAILERS, end=True), data(3, b"partial"))
    backend.leaves()
    client.receives_nothing()
    client.sends(window(complete, 100), window(partial, 100))
    first, second, third, fourth = client.take()
    assert (first, second) == (Data(complete, b"complete"), response(complete, TRAILERS, True))
    assert third == Data(partial, b"partial")
    assert isinstance(fourth, Headers)
    assert dict(fourth.fields)["grpc-status"] == "14"
    world.nothing_is_left()


@pytest.mark.parametrize("ending", ["reset", "lost"])
def test_a_request_nobody_wants_any_more_may_go_on_while_its_answer_is_held(ending: str) -> None:
    """Section 8.1. The client cannot know yet. Found by the simulator: it was told STREAM_CLOSED."""
    world = ready(1)
    client = world.client({INITIAL_WINDOW_SIZE: 0})
    client.sends(headers(1, POST), data(1, b"first"))
    backend = world.backend(1)
    backend.sends(headers(1, OK), data(1, b"answer"), headers(1, TRAILERS, end=True))
    if ending == "reset":
        backend.sends(rst(1, 0))
    else:
        backend.leaves()
    client.receives(response(1, OK))
    client.sends(data(1, b"second"))
    client.sends(headers(1, (("x-trailer", "1"),), end=True))
    client.receives_nothing()
    client.sends(window(1, 100))
    assert client.take()[:2] == [Data(1, b"answer"), response(1, TRAILERS, True)]
    client.still_works()
    world.nothing_is_left()


def test_credit_lent_to_a_backend_that_dies_in_mid_answer_is_taken_back() -> None:
    """Found by the simulator: the client's connection counted it as lent for ever."""
    world = ready(1)
    client = world.client({INITIAL_WINDOW_SIZE: BIG})
    client.sends(window(0, BIG))
    _, backend = open_call(world, client)
    backend.sends(data(1, bytes(60_000)))
    assert backend.granted(1) > 60_000
    backend.leaves()
    world.nothing_is_left()
