"""Flow control end to end (RFC 9113 section 6.9): credit is the receiver's, handed on as it is granted."""

from __future__ import annotations

import pytest
from credit_calls import body_of, open_call, send_as_granted
from rawhttp2 import (
    INITIAL_WINDOW_SIZE,
    OK,
    POST,
    TRAILERS,
    Data,
    Event,
    Goaway,
    Headers,
    Settings,
    data,
    headers,
    request,
    response,
    rst,
    settings,
    window,
)
from transcript import BIG, World, ready

from sidecar.splice.credit import LEND_LIMIT, MAX_LENT_UNREAD
from sidecar.wire.connection import RESPONSE_WINDOW


def test_a_sender_is_granted_what_its_receiver_grants() -> None:
    world = ready(1)
    client = world.client()
    stream, backend = open_call(world, client)
    send_as_granted(backend, 1, 65535)
    assert body_of(client, stream) == 65535, "and no more, for the client has granted nothing yet"
    client.sends(window(stream, 10_000), window(0, 65535))
    assert backend.granted(1) == 10_000
    client.sends(window(stream, 1))
    assert backend.granted(1) == 0, "a sender with credit enough is not told of every octet"
    backend.sends(data(1, bytes(10_000)))
    assert backend.granted(1) == 1


def test_credit_of_one_octet_does_not_end_all_credit() -> None:
    """Found by the simulator: once one octet had been lent, nothing was lent again."""
    world = ready(1)
    client = world.client()
    stream, backend = open_call(world, client)
    send_as_granted(backend, 1, 65535)
    client.sends(window(0, BIG), window(stream, 1))
    assert backend.granted(1) == 1
    backend.sends(data(1, b"x"))
    client.sends(window(stream, 5000))
    assert backend.granted(1) == 5000


def test_the_request_side_is_granted_what_the_backend_grants() -> None:
    world = ready(1)
    client = world.client()
    client.sends(headers(1, POST), data(1, bytes(65535)))
    backend = world.backend(1)
    assert body_of(backend, 1) == 65535
    assert client.granted(1) == 0
    backend.sends(window(1, 12_345), window(0, 65535))
    assert client.granted(1) == 12_345


@pytest.mark.parametrize("pad", [0, 1, 255])
def test_padding_counts_and_comes_back(pad: int) -> None:
    """Section 6.9.1: the whole payload counts. Padding is not passed on, so its credit is ours to return."""
    world = ready(1)
    client = world.client()
    client.sends(headers(1, POST))
    backend = world.backend(1)
    backend.sends(window(0, BIG), window(1, 65535))
    backend.take()
    credit, sent = 65535, 0
    for _ in range(300):
        size = min(1000, credit - pad - 1)
        assert size > 0
        client.sends(data(1, bytes(size), pad=pad))
        credit += client.granted(1) - size - pad - 1
        sent += size
        backend.sends(window(1, size))
    assert body_of(backend, 1) == sent


def test_settings_are_acknowledged_before_the_credit_they_give_is_used() -> None:
    """nghttp2 and h2 count by the new window from the acknowledgement on. Found by the simulator."""
    world = World()
    world.backend_settings["10.0.0.1"] = {INITIAL_WINDOW_SIZE: 10}
    world.endpoints(1)
    client = world.client()
    client.calls(body=bytes(100))
    backend = world.backend(1)
    assert body_of(backend, 1) == 10
    order: list[object] = []
    feed = backend.reader.feed

    def record(octets: bytes) -> list[Event]:
        found = feed(octets)
        order.extend(found)
        return found

    backend.reader.feed = record  # type: ignore[method-assign]
    backend.sends(settings({INITIAL_WINDOW_SIZE: 1000}))
    assert order == [Settings({}, True), Data(1, bytes(90), True)]


def test_a_rise_of_the_initial_window_is_handed_on() -> None:
    """Section 6.9.2; grpc-go does this as its estimate of the bandwidth grows."""
    world = ready(1)
    client = world.client()
    stream, backend = open_call(world, client)
    send_as_granted(backend, 1, 65535)
    client.sends(settings({INITIAL_WINDOW_SIZE: 100_000}), window(0, BIG))
    assert backend.granted(1) == 100_000 - 65535
    backend.sends(data(1, bytes(100_000 - 65535)))
    assert body_of(client, stream) == 100_000


def test_a_fall_below_what_was_sent_makes_the_window_negative() -> None:
    world = ready(1)
    client = world.client()
    stream, backend = open_call(world, client)
    backend.sends(data(1, bytes(40_000)))
    assert body_of(client, stream) == 40_000
    client.sends(settings({INITIAL_WINDOW_SIZE: 10_000}))  # the window is now -30,000
    backend.sends(data(1, bytes(25_535)))  # its credit was given before
    assert body_of(client, stream) == 0
    client.sends(window(stream, 30_000))
    assert body_of(client, stream) == 0, "the window is 0"
    client.sends(window(stream, 1_000))
    assert body_of(client, stream) == 1_000
    client.sends(settings({INITIAL_WINDOW_SIZE: 65_535}))
    assert body_of(client, stream) == 24_535
    backend.sends(headers(1, TRAILERS, end=True))
    client.receives(response(stream, TRAILERS, True))
    world.nothing_is_left()


def test_a_zero_window_from_the_start() -> None:
    world = ready(1)
    client = world.client({INITIAL_WINDOW_SIZE: 0})
    stream, backend = open_call(world, client)
    backend.sends(data(1, b"hello"), headers(1, TRAILERS, end=True))
    client.receives_nothing()
    client.sends(window(stream, 2))
    client.receives(Data(stream, b"he"))
    client.sends(window(stream, 3))
    client.receives(Data(stream, b"llo"), response(stream, TRAILERS, True))
    world.nothing_is_left()


def test_a_zero_window_of_a_backend() -> None:
    world = ready(1, settings={INITIAL_WINDOW_SIZE: 0})
    client = world.client()
    client.sends(headers(1, POST), data(1, b"hello", end=True))
    backend = world.backend(1)
    backend.receives(request(1))
    backend.sends(window(1, 5))
    found, ended = backend.receives_body(1)
    assert (found, ended) == (b"hello", True)


def test_an_empty_end_needs_no_window() -> None:
    """Section 6.9.1: zero-length DATA with END_STREAM may go out whatever the windows say."""
    world = ready(1)
    client = world.client()
    client.sends(headers(1, POST), data(1, bytes(65535)))
    backend = world.backend(1)
    backend.take()
    backend.sends(settings({INITIAL_WINDOW_SIZE: 0}))
    client.sends(data(1, b"", end=True))
    backend.receives(Data(1, b"", True))


def test_a_clients_connection_window_is_respected_and_shared_in_turn() -> None:
    world = ready(1)
    client = world.client({INITIAL_WINDOW_SIZE: BIG})
    first, backend = open_call(world, client)
    second, _ = open_call(world, client)
    backend.sends(data(1, bytes(65535)), data(3, bytes(40_000)), data(1, b""))
    assert body_of(client, first) == 65535
    assert body_of(client, second) == 0
    client.sends(window(0, 40_000))
    assert body_of(client, second) == 40_000


def test_two_streams_that_wait_for_the_connection_take_turns() -> None:
    world = ready(1)
    client = world.client({INITIAL_WINDOW_SIZE: BIG})
    filler, backend = open_call(world, client)
    backend.sends(data(1, bytes(65535)))
    assert body_of(client, filler) == 65535, "and the connection's window is used up"
    first, _ = open_call(world, client)
    second, _ = open_call(world, client)
    backend.sends(data(3, bytes(RESPONSE_WINDOW)), data(5, bytes(RESPONSE_WINDOW)))
    for _ in range(2):
        client.sends(window(0, RESPONSE_WINDOW))
        both = [body_of(client, first), body_of(client, second)]
        assert sum(both) == RESPONSE_WINDOW
        assert max(both) <= 16384, "one of them got nearly everything"


def test_a_burst_of_held_data_goes_out_to_its_end() -> None:
    """One WINDOW_UPDATE lets more out than one write's worth; nothing else will wake what is left."""
    world = ready(1)
    client = world.client({INITIAL_WINDOW_SIZE: 1 << 20})
    streams = [client.calls() for _ in range(10)]
    backend = world.backend(1)
    for stream in streams:
        backend.sends(headers(stream, OK), data(stream, bytes(65535)), headers(stream, TRAILERS, end=True))
    client.take()
    client.sends(window(0, BIG))
    found = client.take()
    assert sum(len(e.payload) for e in found if isinstance(e, Data)) == 9 * 65535
    assert sum(1 for e in found if isinstance(e, Headers) and e.end) == 9
    world.nothing_is_left()


@pytest.mark.parametrize("step", [1, 1000, 100_000, 300_000])
def test_a_slow_socket_gets_everything_in_the_end(step: int) -> None:
    world = ready(1)
    client = world.client({INITIAL_WINDOW_SIZE: 1 << 20})
    client.sends(window(0, BIG))
    streams = [client.calls() for _ in range(10)]
    backend = world.backend(1)
    client.stops_reading()
    for stream in streams:
        answer = (
            headers(stream, OK),
            data(stream, bytes(RESPONSE_WINDOW)),
            headers(stream, TRAILERS, end=True),
        )
        backend.sends(*answer)
    for _ in range(20):
        client.reads(step)
    client.reads()
    found = client.take()
    assert sum(len(e.payload) for e in found if isinstance(e, Data)) == 10 * RESPONSE_WINDOW
    assert sum(1 for e in found if isinstance(e, Headers) and e.end) == 10
    world.nothing_is_left()


@pytest.mark.parametrize("over", [False, True])
def test_nothing_is_lent_while_the_socket_is_behind(over: bool) -> None:
    """What it has not taken counts as not read, whatever window the client has granted; it is made up for later."""
    world = ready(1)
    client = world.client({INITIAL_WINDOW_SIZE: 10 << 20})
    client.sends(window(0, BIG))
    _, backend = open_call(world, client)
    client.stops_reading()
    backend.sends(data(1, b"x"))
    backend.sends(data(1, bytes(RESPONSE_WINDOW - 1)))
    assert backend.granted(1) == 0
    client.reads(1)
    assert backend.granted(1) == 0, "one octet of many"
    if over:
        client.sends(rst(1))
    client.reads()
    assert (backend.granted(1) > RESPONSE_WINDOW) is not over
    client.still_works()


def test_a_reader_that_shows_that_it_reads_is_lent_more() -> None:
    """Credit for octets that the client was sent; a window opened in advance shows nothing."""
    world = ready(1)
    client = world.client({INITIAL_WINDOW_SIZE: 10 << 20})
    client.sends(window(0, BIG))
    _, backend = open_call(world, client)
    second, _ = open_call(world, client)
    backend.sends(data(1, bytes(RESPONSE_WINDOW)))
    assert backend.granted(1) == LEND_LIMIT
    left = RESPONSE_WINDOW + MAX_LENT_UNREAD - (LEND_LIMIT - RESPONSE_WINDOW)
    backend.sends(data(3, bytes(RESPONSE_WINDOW)))
    assert backend.granted(3) == left
    client.sends(window(second, 1 << 20))
    backend.sends(data(3, bytes(left)))
    assert 0 < backend.granted(3) <= left
    client.sends(window(second, RESPONSE_WINDOW))
    backend.sends(data(3, bytes(49152)))
    assert backend.granted(3) > left


def test_window_updates_on_ended_streams_are_ignored() -> None:
    """Section 5.1, closed: a receiver may still be granting."""
    world = ready(1)
    client = world.client()
    client.calls()
    backend = world.backend(1)
    backend.answers(1)
    client.take()
    client.sends(window(1, 1000), rst(1, 0))
    backend.sends(window(1, 1000), rst(1, 0))
    client.still_works()
    backend.still_works()


def test_the_connection_window_is_replenished() -> None:
    """64 MiB through one stream of one connection, both ways, without a stall."""
    world = ready(1, settings={INITIAL_WINDOW_SIZE: BIG})
    client = world.client({INITIAL_WINDOW_SIZE: BIG})
    client.sends(headers(1, POST), window(0, 1 << 30))
    backend = world.backend(1)
    backend.sends(window(0, 1 << 30))
    connection, credit = 65535 + client.connection_granted(), 65535
    client.housekeeping.clear()
    chunk = data(1, bytes(16384))
    for _ in range((64 << 20) // 16384):
        assert min(connection, credit) >= 16384
        client.sends(chunk)
        connection += client.connection_granted() - 16384
        client.housekeeping.clear()
        credit += client.granted(1) - 16384
        assert body_of(backend, 1) == 16384
        backend.sends(window(1, 16384))
    assert not [e for e in client.take() if isinstance(e, Goaway)]
