"""Honest peers at their most lively: none of the bounds that stop attackers may ever stop them."""

from __future__ import annotations

import pytest
from rawhttp2 import (
    CANCEL,
    INITIAL_WINDOW_SIZE,
    OK,
    POST,
    REFUSED_STREAM,
    TRAILERS,
    Data,
    Headers,
    Reset,
    data,
    headers,
    literal,
    ping,
    rst,
    settings,
    window,
)
from transcript import BackendConnection, Client, World, ready

MESSAGE = b"\0\0\0\0\1x"
BLOCK = literal(POST)


def all_work(*parties: Client | BackendConnection) -> None:
    for party in parties:
        party.still_works()


def test_grpc_go_measures_its_bandwidth() -> None:
    """As a client of a stream of answers: a PING and two WINDOW_UPDATEs for what it reads, and now and then SETTINGS
    with a larger window."""
    world = ready(1)
    client = world.client()
    client.sends(headers(1, POST, end=True))
    backend = world.backend(1)
    backend.sends(headers(1, OK))
    size = 65535
    for turn in range(5000):
        backend.sends(data(1, bytes(8000)))
        client.sends(window(1, 8000), window(0, 8000), ping(b"%08d" % turn))
        if turn % 400 == 0 and size < 16 << 20:
            size *= 2
            client.sends(settings({INITIAL_WINDOW_SIZE: min(size, 16 << 20)}))
        client.take()
    all_work(client, backend)


def test_grpc_go_measures_its_bandwidth_as_a_server() -> None:
    world = ready(1)
    client = world.client()
    client.sends(headers(1, POST))
    backend = world.backend(1)
    for turn in range(5000):
        client.sends(data(1, bytes(8000)))
        backend.sends(window(1, 8000), window(0, 8000), ping(b"%08d" % turn), ping(ack=True))
        backend.take()
    all_work(client, backend)


@pytest.mark.parametrize("credit", [1, 6, 100, 2000])
def test_credit_for_every_message_of_a_stream(credit: int) -> None:
    """C-core and Java give back what they read, however little it is, for stream and connection."""
    world = ready(1)
    client = world.client()
    client.sends(headers(1, POST))
    backend = world.backend(1)
    backend.sends(headers(1, OK))
    for _ in range(5000):
        client.sends(data(1, b"x" * credit))
        backend.sends(window(1, credit), window(0, credit), data(1, b"y" * credit))
        client.sends(window(1, credit), window(0, credit))
    all_work(client, backend)
    assert sum(isinstance(e, Data) for e in backend.take()) == 5000


def test_a_server_that_opens_the_window_of_every_stream() -> None:
    """C-core does, as its application takes up each call: 5,000 in one burst."""
    world = ready(1)
    client = world.client()
    backend = world.backend(1)
    client.sends(*[headers(s, BLOCK) for s in range(1, 10_001, 2)])
    backend.sends(*[window(n, 5) + window(n, 65535) + window(0, 5) for n in backend.streams_open()])
    all_work(client, backend)


def test_a_stream_of_tiny_messages_both_ways() -> None:
    world = ready(1)
    client = world.client()
    client.sends(headers(1, POST), window(1, 1 << 30), window(0, 1 << 30))
    backend = world.backend(1)
    backend.sends(headers(1, OK), window(1, 1 << 30), window(0, 1 << 30))
    for _ in range(100):
        client.sends(data(1, MESSAGE) * 500)
        backend.sends(data(1, MESSAGE) * 500)
    all_work(client, backend)
    assert sum(isinstance(e, Data) for e in client.take()) == 50_000
    assert sum(isinstance(e, Data) for e in backend.take()) == 50_000


def test_keep_alive_pings_of_an_idle_connection() -> None:
    world = ready(1)
    client = world.client()
    for _ in range(2000):
        client.sends(ping())
        world.advance(1.0)
    client.still_works()


def test_five_thousand_streams_cancelled_at_once() -> None:
    """An application that gives up on all it has, a second after it began. Late answers that cross the resets are no
    fault of the backend's either."""
    world = ready(1)
    client = world.client()
    numbers = range(1, 10_001, 2)
    client.sends(*[headers(s, BLOCK) for s in numbers])
    backend = world.backend(1)
    world.advance(1.0)
    client.sends(*[rst(s) for s in numbers])
    assert sum(isinstance(e, Reset) for e in backend.take()) == 5000
    backend.sends(*[headers(n, OK) + data(n, b"x") + headers(n, TRAILERS, end=True) for n in numbers])
    backend.sends(*[rst(n) for n in numbers])
    all_work(client, backend)
    world.nothing_is_left()


@pytest.mark.parametrize("timeout", ["20m", "50000u", "100m", "500m"])
def test_deadlines_that_end_calls_by_the_thousand(timeout: str) -> None:
    """A backend stalls for seconds: every call of a busy client ends by its deadline."""
    world = ready(1)
    client = world.client()
    backend = world.backend(1)
    block = literal((*POST, ("grpc-timeout", timeout)))
    seconds = {"20m": 0.02, "50000u": 0.05, "100m": 0.1, "500m": 0.5}[timeout]
    first = 1
    while first < 10_000:
        batch = range(first, first + 200, 2)
        first += 200
        client.sends(*[headers(s, block, end=True) for s in batch])
        world.advance(seconds * 0.97)  # its clock started before ours
        client.sends(*[rst(s) for s in batch])
    all_work(client, backend)
    assert sum(isinstance(e, Reset) and e.code == CANCEL for e in backend.take()) == 5000


def test_hedged_calls() -> None:
    """Each call goes out twice, the slower one is cancelled."""
    world = ready(1, 2)
    client = world.client()
    for first in range(1, 20_001, 4):
        client.sends(headers(first, BLOCK, end=True), headers(first + 2, BLOCK, end=True))
        winner = next(c for c in world.connections() if c.streams_open())
        winner.sends(headers(winner.streams_open()[0], (*OK, *TRAILERS), end=True))
        (answer,) = [e for e in client.take() if isinstance(e, Headers)]
        client.sends(rst(2 * first + 2 - answer.stream))
        client.take()
    all_work(client, *world.connections())


def test_the_first_message_of_a_stream_is_all_that_is_wanted() -> None:
    """Subscribe, read the state, cancel: thousands in a second."""
    world = ready(1)
    client = world.client()
    backend = world.backend(1)
    for first in range(1, 10_001, 200):
        batch = range(first, first + 200, 2)
        client.sends(*[headers(s, BLOCK, end=True) for s in batch])
        backend.sends(*[headers(n, OK) + data(n, MESSAGE) for n in batch])
        client.sends(*[rst(s) for s in batch])
    all_work(client, backend)
    world.nothing_is_left()


def test_a_server_refuses_a_burst() -> None:
    """5,000 at once, as one does that shuts down: they are sent to the other."""
    world = ready(1, 2)
    client = world.client()
    client.sends(*[headers(s, BLOCK, end=True) for s in range(1, 8001, 2)])
    first, second = world.backend(1), world.backend(2)
    first.sends(*[rst(n, REFUSED_STREAM) for n in first.streams_open()])
    assert len(second.streams_open()) == 4000
    all_work(client, first, second)


def test_a_server_that_is_shut_down_cancels_what_it_has() -> None:
    """Resets of answered and of unanswered streams, more than a thousand a second."""
    world = ready(1)
    client = world.client()
    client.sends(*[headers(s, BLOCK) for s in range(1, 9001, 2)])
    backend = world.backend(1)
    backend.sends(*[headers(n, OK) for n in range(1, 4501, 2)])
    backend.sends(*[rst(n) for n in range(1, 9001, 2)])
    all_work(client, backend)
    assert sum(isinstance(e, Reset) for e in client.take()) == 4500


def test_a_server_that_resets_what_it_has_answered() -> None:
    """grpc-go: trailers, then RST_STREAM NO_ERROR where the client had not ended its request."""
    world = ready(1)
    client = world.client()
    backend = world.backend(1)
    for n in range(1, 20_001, 2):
        client.sends(headers(n, BLOCK))
        backend.sends(headers(n, (*OK, *TRAILERS), end=True), rst(n, 0))
        client.take()
        backend.take()
    all_work(client, backend)


def test_a_call_with_64_kib_of_metadata_in_many_frames() -> None:
    """Written in one go, as every stack does; a slow network may cut it anywhere."""
    world = ready(1)
    client = world.client()
    large = literal((*POST, *[(f"large-{n}", "x" * 8000) for n in range(8)]))
    octets = headers(1, large, end=True)
    for at in range(0, len(octets), 3000):
        client.sends(octets[at : at + 3000])
        world.advance(1.0)
    client.still_works()
    assert world.backend(1).streams_open() == [1]


def test_clients_that_come_for_one_call_each() -> None:
    world = World()
    world.endpoints(1)
    for n in range(1, 2001, 2):
        client = world.client()
        client.sends(headers(1, BLOCK, end=True))
        backend = world.backend(1)
        backend.sends(headers(n, (*OK, *TRAILERS), end=True))
        assert isinstance(client.take()[-1], Headers)
        client.leaves()
    world.backend(1).still_works()
    assert world.dials == 1
