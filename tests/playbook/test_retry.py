"""GOAWAY both ways and transparent retry, exactly where gRFC A6 calls it safe and nowhere else."""

from __future__ import annotations

import pytest
from rawhttp2 import (
    ENHANCE_YOUR_CALM,
    NO_ERROR,
    OK,
    POST,
    REFUSED_STREAM,
    TRAILERS,
    Data,
    Goaway,
    Headers,
    Reset,
    data,
    goaway,
    headers,
    request,
    response,
    rst,
    settings,
    window,
)
from transcript import REFUSE, World, host_name, ready, who_has


def test_a_stream_above_the_goaways_last_is_sent_to_another_endpoint_with_its_body() -> None:
    world = ready(1, 2)
    client = world.client()
    client.sends(headers(1, POST), data(1, b"body"), data(1, b" and end", end=True))
    first = who_has(world)
    first.take()
    world.manners[first.host] = REFUSE
    first.sends(goaway(0, NO_ERROR, b"closing"))
    world.advance(0.5)
    second = who_has(world)
    assert second.host != first.host
    found = second.take()
    assert found[0] == request(1)
    assert b"".join(e.payload for e in found[1:] if isinstance(e, Data)) == b"body and end"
    assert isinstance(found[-1], Data)
    assert found[-1].end
    second.answers(1)
    client.receives(response(1, OK), Data(1, b"response"), response(1, TRAILERS, True))
    world.nothing_is_left()


def test_a_request_without_body_is_retried_without_body() -> None:
    world = ready(1, 2)
    client = world.client()
    client.sends(headers(1, POST, end=True))
    first = who_has(world)
    first.take()
    first.sends(rst(1, REFUSED_STREAM))
    who_has(world).receives(request(1 if who_has(world) is not first else 3, end=True))


def test_request_trailers_are_replayed() -> None:
    world = ready(1, 2)
    client = world.client()
    client.sends(headers(1, POST), data(1, b"body"), headers(1, (("sum", "1"),), end=True))
    first = who_has(world)
    first.take()
    first.sends(rst(1, REFUSED_STREAM))
    second = who_has(world)
    assert second is not first
    second.receives(request(1), Data(1, b"body"), request(1, (("sum", "1"),), True))


def test_streams_up_to_the_goaways_last_go_on() -> None:
    world = ready(1)
    client = world.client()
    client.calls()
    client.calls()
    first = world.backend(1)
    first.take()
    world.advance(2.0)
    first.sends(goaway(1))
    second = world.backend(1)
    assert second is not first
    second.receives(request(1), Data(1, b"request", True))  # the client's 3, the second connection's 1
    first.answers(1)
    second.answers(1)
    assert first.closed
    events = client.take()
    assert not any(isinstance(e, Goaway) for e in events), "a backend's GOAWAY is never relayed"
    assert [e for e in events if e.stream == 1] == [
        response(1, OK),
        Data(1, b"response"),
        response(1, TRAILERS, True),
    ]
    world.nothing_is_left()


def test_what_still_comes_for_a_stream_above_the_goaways_last_is_ignored() -> None:
    """A server that answers what it has just said it would not: the streams it has kept are not to suffer."""
    world = ready(1, 2)
    client = world.client()
    client.calls()
    first = who_has(world)
    client.calls()
    client.calls()
    assert first.streams_open() == [1, 3]
    other = world.backend(2 if first.host == host_name(1) else 1)
    first.sends(goaway(1), headers(3, OK), data(3, b"late"), headers(3, TRAILERS, end=True), rst(3))
    first.answers(1)
    for stream in other.streams_open():
        other.answers(stream)
    assert [client.outcome(stream) for stream in (1, 3, 5)] == [("0", "")] * 3
    world.nothing_is_left()


def test_graceful_goaway_takes_no_stream_away() -> None:
    """First GOAWAY with 2^31-1, then one with the last stream (section 6.8)."""
    world = ready(1)
    client = world.client()
    client.calls()
    first = world.backend(1)
    world.advance(2.0)
    first.sends(goaway(2**31 - 1))
    client.calls()
    assert first.streams_open() == [1]
    second = world.backend(1)
    assert second.streams_open() == [1]
    first.sends(goaway(1))
    first.answers(1)
    assert first.closed
    second.answers(1)
    assert {client.outcome(1), client.outcome(3)} == {("0", "")}
    world.nothing_is_left()


def test_a_refused_stream_goes_to_another_endpoint() -> None:
    world = ready(1, 2)
    client = world.client()
    busy = [client.opens() for _ in range(6)]
    first, second = world.backend(1), world.backend(2)
    for stream in first.streams_open():  # now the first has none and the second three
        first.sends(headers(stream, (*OK, *TRAILERS), end=True), rst(stream, NO_ERROR))
    first.take()
    second.take()
    client.take()
    assert len(busy) == 6
    stream = client.calls()
    for _ in range(10):
        for event in first.take():
            if isinstance(event, Headers):
                first.sends(rst(event.stream, REFUSED_STREAM))
    assert len(second.streams_open()) == 4, "nobody but the one that refuses was asked"
    second.answers(max(second.streams_open()))
    assert client.outcome(stream) == ("0", "")


def test_a_stream_that_is_refused_everywhere_is_refused_in_the_end() -> None:
    world = ready(1, 2)
    client = world.client()
    stream = client.calls()
    tries = 0
    while tries < 20:
        asked = [c for c in world.connections() if c.streams_open()]
        if not asked:
            break
        tries += 1
        asked[0].sends(rst(asked[0].streams_open()[0], REFUSED_STREAM))
    assert 2 <= tries <= 4
    client.receives(Reset(stream, REFUSED_STREAM))
    world.nothing_is_left()


def test_refused_after_headers_is_not_retried() -> None:
    """A6: once response headers have come, the stream was begun."""
    world = ready(1, 2)
    client = world.client()
    client.calls()
    first = who_has(world)
    first.sends(headers(1, OK), rst(1, REFUSED_STREAM))
    client.receives(response(1, OK), Reset(1, REFUSED_STREAM))
    world.nothing_is_left()
    assert world.engine.totals.retried == 0


def test_refused_after_informational_headers_is_not_retried() -> None:
    world = ready(1, 2)
    client = world.client()
    client.calls()
    first = who_has(world)
    hints = ((":status", "103"),)
    first.sends(headers(1, hints), rst(1, REFUSED_STREAM))
    client.receives(response(1, hints), Reset(1, REFUSED_STREAM))
    world.nothing_is_left()


@pytest.mark.parametrize("code", [NO_ERROR, 1, 2, 8, ENHANCE_YOUR_CALM])
def test_other_resets_are_not_retried(code: int) -> None:
    world = ready(1, 2)
    client = world.client()
    client.calls()
    who_has(world).sends(rst(1, code))
    client.receives(Reset(1, code))
    world.nothing_is_left()
    assert world.engine.totals.retried == 0


def test_a_lost_connection_is_not_retried() -> None:
    """The backend may have begun: nothing says that it has not."""
    world = ready(1, 2)
    client = world.client()
    client.calls()
    who_has(world).leaves()
    assert client.outcome(1)[0] == "14"
    world.nothing_is_left()
    assert world.engine.totals.retried == 0


def test_a_goaway_with_an_error_leaves_begun_streams_to_their_fate() -> None:
    world = ready(1)
    client = world.client()
    client.calls()
    backend = world.backend(1)
    backend.sends(goaway(1, ENHANCE_YOUR_CALM, b"too_many_pings"))
    client.receives_nothing()
    backend.leaves("closed the connection")
    assert client.outcome(1)[0] == "14"
    world.nothing_is_left()


def test_a_request_that_has_outgrown_its_copy_is_refused_not_cut() -> None:
    """More than 64 KiB was passed on: it cannot be sent again whole."""
    world = ready(1, 2, settings={4: 1 << 20})
    client = world.client()
    client.sends(headers(1, POST))
    first = who_has(world)
    first.sends(window(0, 1 << 20))
    sent = 0
    credit = 65535
    while sent < 100_000:
        client.sends(data(1, bytes(min(credit, 10_000))))
        sent += min(credit, 10_000)
        credit += client.granted(1) - min(credit, 10_000)
    first.sends(rst(1, REFUSED_STREAM))
    client.receives(Reset(1, REFUSED_STREAM))
    world.nothing_is_left()


def test_a_retried_body_goes_on_when_the_new_connections_window_opens() -> None:
    world = ready(1, 2, settings={4: 1 << 20})
    client = world.client()
    client.opens()
    client.opens()
    client.sends(data(1, bytes(60_000)))
    client.sends(data(3, bytes(60_000)))  # 5,535 octets are left of both connections' windows
    third = client.opens()
    client.sends(data(third, bytes(10_000), end=True))
    first = who_has(world, 2)
    second = who_has(world, 1)
    first.take()
    second.take()
    world.manners[first.host] = REFUSE
    first.sends(goaway(1))
    world.advance(1.0)
    found = second.take()
    second.sends(window(0, 1 << 20))
    found += second.take()
    body = [e for e in found if isinstance(e, Data)]
    assert sum(len(e.payload) for e in body) == 10_000
    assert body[-1].end


def test_a_clients_goaway_lets_its_streams_end_and_closes() -> None:
    world = ready(1)
    client = world.client()
    client.calls()
    client.sends(goaway(0))
    assert not client.closed
    world.backend(1).answers(1)
    assert client.outcome(1) == ("0", "")
    assert client.closed
    world.nothing_is_left()


def test_a_backend_is_told_when_its_idle_connection_is_left() -> None:
    world = ready(1)
    world.client()
    backend = world.backend(1)
    backend.sends(goaway(0))
    assert backend.closed
    assert [e.code for e in backend.take() if isinstance(e, Goaway)] == [NO_ERROR]


def test_the_refusing_goaway_before_settings() -> None:
    """A backend that is shutting down: SETTINGS and GOAWAY in one write, while a stream waits for it."""
    world = World()
    world.manners["10.0.0.1"] = "silence"
    world.endpoints(1)
    client = world.client()
    stream = client.calls()
    first = world.accept_dial(world.dialling[0], greet=False)
    world.manners["10.0.0.1"] = "accept"
    first.sends(settings() + goaway(0))
    world.advance(1.0)
    second = world.backend(1)
    assert second is not first
    second.answers(1)
    assert client.outcome(stream) == ("0", "")
    world.nothing_is_left()
