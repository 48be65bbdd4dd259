"""Flow control end to end (RFC 9113 section 6.9): credit is the receiver's; a stalled reader holds up only itself."""

from __future__ import annotations

import pytest
from rawhttp2 import (
    FLOW_CONTROL_ERROR,
    INITIAL_WINDOW_SIZE,
    OK,
    POST,
    PROTOCOL_ERROR,
    TRAILERS,
    Data,
    Event,
    Goaway,
    Headers,
    Reset,
    Settings,
    data,
    headers,
    literal,
    request,
    response,
    rst,
    settings,
    window,
)
from transcript import BIG, BackendConnection, Client, World, ready

MAX_WINDOW = 2**31 - 1
# What the engine may hold for all stalled readers together in the worst test below.
HELD_BOUND = 64 << 20


def open_call(world: World, client: Client) -> tuple[int, BackendConnection]:
    """A call with its response begun: the client's number, and the backend that has it (as its newest)."""
    stream = client.calls()
    (backend,) = [c for c in world.connections() if c.inbox]
    backend.take()
    backend.sends(headers(max(backend.streams_open()), OK))
    client.take()
    return stream, backend


def body_of(party: Client | BackendConnection, stream: int) -> int:
    """Octets of DATA of one stream; takes them, leaves the rest."""
    size = sum(len(e.payload) for e in party.inbox if isinstance(e, Data) and e.stream == stream)
    party.inbox = [e for e in party.inbox if not (isinstance(e, Data) and e.stream == stream)]
    return size


def test_a_sender_is_granted_what_its_receiver_grants() -> None:
    world = ready(1)
    client = world.client()
    stream, backend = open_call(world, client)
    backend.sends(data(1, bytes(65535)))
    assert body_of(client, stream) == 65535
    assert backend.granted(1) == 0, "the client has granted nothing yet"
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
    backend.sends(data(1, bytes(65535)))
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


def test_more_than_was_granted_is_a_flow_control_error() -> None:
    """Section 6.9.1. The stream ends; the connection and its other streams go on."""
    world = ready(1)
    client = world.client()
    client.calls(end=False, body=b"")
    client.sends(headers(3, POST))
    backend = world.backend(1)
    backend.sends(window(0, BIG))
    backend.take()
    client.sends(data(3, bytes(65535)), data(3, b"x"))
    assert [e for e in client.take() if isinstance(e, Reset)] == [Reset(3, FLOW_CONTROL_ERROR)]
    client.still_works()
    assert Reset(3, 8) in backend.take()
    client.sends(data(1, b"end", end=True))
    backend.receives(Data(1, b"end", True))


def test_a_backend_that_sends_more_than_was_granted() -> None:
    world = ready(1)
    client = world.client()
    stream, backend = open_call(world, client)
    other, _ = open_call(world, client)
    backend.sends(data(1, bytes(65535)), data(1, b"x"))
    assert Reset(1, FLOW_CONTROL_ERROR) in backend.take()
    ends = [e for e in client.take() if isinstance(e, Headers) and e.end]
    assert [e.stream for e in ends] == [stream]
    assert dict(ends[0].fields)["grpc-status"] == "14"
    client.sends(window(0, BIG))
    backend.sends(data(3, b"fine"))
    assert body_of(client, other) == 4


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
    backend.sends(data(1, bytes(65535)))
    assert backend.granted(1) == 0
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


def test_window_overflow_of_a_stream_ends_the_stream() -> None:
    """Section 6.9.1."""
    world = ready(1)
    client = world.client()
    client.calls()
    client.calls()
    backend = world.backend(1)
    backend.take()
    client.sends(window(1, MAX_WINDOW))
    client.receives(Reset(1, FLOW_CONTROL_ERROR))
    backend.receives(Reset(1, 8))
    client.still_works()


@pytest.mark.parametrize("who", ["client", "backend"])
def test_window_overflow_of_a_connection_ends_it(who: str) -> None:
    world = ready(1)
    client = world.client()
    client.calls()
    party = client if who == "client" else world.backend(1)
    party.sends(window(0, MAX_WINDOW))
    party.is_told(FLOW_CONTROL_ERROR)


def test_window_overflow_by_settings_ends_the_connection() -> None:
    """Section 6.9.2."""
    world = ready(1)
    client = world.client()
    client.calls()
    client.sends(window(1, MAX_WINDOW - 65535))
    client.still_works()
    client.sends(settings({INITIAL_WINDOW_SIZE: 65536}))
    client.is_told(FLOW_CONTROL_ERROR)


@pytest.mark.parametrize("who", ["client", "backend"])
def test_a_window_update_of_zero_ends_the_stream_only(who: str) -> None:
    """Section 6.9."""
    world = ready(1)
    client = world.client()
    client.calls()
    party = client if who == "client" else world.backend(1)
    party.take()
    party.sends(window(1, 0))
    party.receives(Reset(1, PROTOCOL_ERROR))
    party.still_works()


@pytest.mark.parametrize("who", ["client", "backend"])
def test_a_window_update_of_zero_on_the_connection_ends_it(who: str) -> None:
    world = ready(1)
    client = world.client()
    party = client if who == "client" else world.backend(1)
    party.sends(window(0, 0))
    party.is_told(PROTOCOL_ERROR)


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
    backend.sends(data(3, bytes(49152)), data(5, bytes(49152)))
    client.sends(window(0, 49152))
    assert body_of(client, first) + body_of(client, second) == 49152
    client.sends(window(0, 49152))
    both = [body_of(client, first), body_of(client, second)]
    assert sum(both) == 49152
    assert max(both) <= 32768, "one of them got nearly everything"


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
        backend.sends(headers(stream, OK), data(stream, bytes(65535)), headers(stream, TRAILERS, end=True))
    for _ in range(20):
        client.reads(step)
    client.reads()
    found = client.take()
    assert sum(len(e.payload) for e in found if isinstance(e, Data)) == 10 * 65535
    assert sum(1 for e in found if isinstance(e, Headers) and e.end) == 10
    world.nothing_is_left()


def test_a_stalled_stream_holds_up_no_other_of_its_connection() -> None:
    world = ready(1)
    client = world.client({INITIAL_WINDOW_SIZE: 1000})
    client.sends(window(0, BIG))
    stalled, backend = open_call(world, client)
    running, _ = open_call(world, client)
    backend.sends(data(1, bytes(65535)))
    assert body_of(client, stalled) == 1000
    for _ in range(200):
        backend.sends(data(3, bytes(1000)))
        assert body_of(client, running) == 1000
        client.sends(window(running, 1000))
    assert world.engine.held() == 64535


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
    credit = dict.fromkeys(numbers, 65535)
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
