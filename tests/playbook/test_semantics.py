"""gRPC's clauses that the other transcripts leave open: what may be sent again, deadlines while queued, capacity,
large messages and metadata, cancellation."""

from __future__ import annotations

import pytest
from rawhttp2 import (
    CANCEL,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    NO_ERROR,
    OK,
    POST,
    REFUSED_STREAM,
    TRAILERS,
    Data,
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
from transcript import (
    REFUSE,
    SILENCE,
    BackendConnection,
    Client,
    World,
    host_name,
    ready,
)

from sidecar.splice import stream

HINTS = ((":status", "103"),)
PART = b"part"


def who_has(world: World) -> BackendConnection:
    (found,) = [c for c in world.connections() if not c.closed and c.streams_open()]
    return found


# --- what may be sent again (gRFC A6) --------------------------------------------------------------------

REFUSALS = {
    "REFUSED_STREAM": lambda n: rst(n, REFUSED_STREAM),
    "above GOAWAY's last": lambda n: goaway(0),
    "above an error GOAWAY's last": lambda n: goaway(0, 11, b"too much"),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_what_was_not_begun_is_sent_again(refusal: str) -> None:
    world = ready(1, 2)
    client = world.client()
    client.sends(headers(1, POST), data(1, b"body", end=True))
    first = who_has(world)
    first.sends(REFUSALS[refusal](1))
    second = who_has(world)
    assert second.host != first.host
    second.answers(1)
    assert client.outcome(1) == ("0", "")
    assert world.engine.totals.retried == 1
    world.nothing_is_left()


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize(
    "begun",
    [headers(1, HINTS), headers(1, OK), headers(1, OK) + data(1, PART)],
    ids=["after 1xx", "after headers", "after a part of the answer"],
)
def test_what_was_begun_is_not_sent_again(refusal: str, begun: bytes) -> None:
    world = ready(1, 2)
    client = world.client()
    client.calls()
    first = who_has(world)
    first.sends(begun + REFUSALS[refusal](1))
    assert world.engine.totals.retried == 0
    assert not [c for c in world.connections() if c.streams_open()]
    last = client.take()[-1]
    if refusal == "REFUSED_STREAM":
        assert last == Reset(1, REFUSED_STREAM)
    else:
        assert isinstance(last, Headers)
        assert dict(last.fields)["grpc-status"] == "14"
        assert "GOAWAY" in dict(last.fields)["grpc-message"]
    world.nothing_is_left()


def test_what_was_never_sent_is_sent_elsewhere_however_often_dials_fail() -> None:
    """No limit of three here: no backend has seen it."""
    world = World()
    for host in range(1, 7):
        world.manners[host_name(host)] = REFUSE
    world.endpoints(*range(1, 7))
    client = world.client()
    stream_id = client.calls()
    world.endpoints(*range(1, 8))
    world.backend(7).answers(1)
    assert client.outcome(stream_id) == ("0", "")


@pytest.mark.parametrize("said", [b"", settings()[:5]])
def test_what_waits_for_a_connection_that_breaks_before_settings_is_sent_elsewhere(said: bytes) -> None:
    world = World()
    world.manners[host_name(1)] = "mute"
    world.endpoints(1)
    client = world.client()
    stream_id = client.calls()
    first = world.backend(1)
    first.sends(said)
    world.endpoints(1, 2)
    first.leaves()
    world.backend(2).answers(1)
    assert client.outcome(stream_id) == ("0", "")
    world.nothing_is_left()


@pytest.mark.parametrize("size", [0, 1, 16384, stream.REPLAY_LIMIT - 1, stream.REPLAY_LIMIT])
@pytest.mark.parametrize("ended", [False, True])
def test_a_body_within_its_copy_is_sent_again_whole(size: int, ended: bool) -> None:
    world = ready(1, 2, settings={INITIAL_WINDOW_SIZE: 1 << 20})
    client = world.client()
    for each in world.connections():
        each.sends(window(0, 1 << 20))
    body = bytes(range(256)) * 256
    client.sends(headers(1, POST), data(1, body[:size], end=ended))
    first = who_has(world)
    first.sends(rst(1, REFUSED_STREAM))
    second = who_has(world)
    assert second is not first
    head, *rest = second.take()
    assert head == request(1, end=ended and size == 0)
    assert b"".join(e.payload for e in rest if isinstance(e, Data)) == body[:size]
    if not ended:
        client.sends(data(1, b"more", end=True))
        second.receives(Data(1, b"more", True))
    second.answers(1)
    assert client.outcome(1) == ("0", "")
    world.nothing_is_left()


def test_a_body_beyond_its_copy_is_refused_to_the_client() -> None:
    world = ready(1, 2, settings={INITIAL_WINDOW_SIZE: 1 << 20})
    client = world.client()
    for each in world.connections():
        each.sends(window(0, 1 << 20))
    client.sends(headers(1, POST), data(1, bytes(stream.REPLAY_LIMIT)))
    credit = client.granted(1)
    assert credit > 0
    client.sends(data(1, b"x"))
    who_has(world).sends(rst(1, REFUSED_STREAM))
    client.receives(Reset(1, REFUSED_STREAM))
    assert world.engine.totals.retried == 0
    world.nothing_is_left()


def test_a_copy_of_many_small_messages_is_sent_again_in_order() -> None:
    world = ready(1, 2)
    client = world.client()
    client.sends(headers(1, POST))
    messages = [b"%05d" % n for n in range(3000)]
    client.sends(*[data(1, m) for m in messages], data(1, b"", end=True))
    who_has(world).sends(rst(1, REFUSED_STREAM))
    found = who_has(world).take()
    assert b"".join(e.payload for e in found if isinstance(e, Data)) == b"".join(messages)
    assert isinstance(found[-1], Data)
    assert found[-1].end


def test_each_try_is_told_apart_in_the_counts() -> None:
    world = ready(1, 2)
    client = world.client()
    client.calls()
    first = who_has(world)
    first.sends(rst(1, REFUSED_STREAM))
    second = who_has(world)
    second.answers(1)
    assert (first.peer.backend.stats.refused, first.peer.backend.stats.by_status) == (1, {})
    assert (second.peer.backend.stats.refused, second.peer.backend.stats.by_status) == (0, {0: 1})


def test_what_is_cancelled_while_it_waits_to_be_sent_again_is_not_sent_again() -> None:
    world = ready(1)
    client = world.client()
    client.calls()
    first = world.backend(1)
    world.manners[host_name(1)] = SILENCE
    first.sends(goaway(0))
    client.sends(rst(1))
    world.manners[host_name(1)] = "accept"
    for upstream in list(world.dialling):
        world.accept_dial(upstream)
    world.advance(2.0)
    assert all(not c.streams_open() for c in world.connections())
    world.nothing_is_left()


# --- deadlines while queued ------------------------------------------------------------------------------


def with_timeout(text: str) -> tuple[tuple[str, str], ...]:
    return (*POST, ("grpc-timeout", text))


def exceeded(client: Client, stream_id: int) -> None:
    status, message = client.outcome(stream_id)
    assert status == "4"
    assert "deadline passed while waiting" in message
    assert "greeter.default:50051" in message


def test_a_deadline_that_passes_while_a_connection_is_made() -> None:
    world = World()
    world.manners[host_name(1)] = SILENCE
    world.endpoints(1)
    client = world.client()
    stream_id = client.opens(with_timeout("150m"), end=True)
    world.advance(0.16)
    exceeded(client, stream_id)
    world.nothing_is_left()


def test_a_deadline_that_passes_while_all_streams_are_taken() -> None:
    world = ready(1, settings={MAX_CONCURRENT_STREAMS: 1})
    client = world.client()
    for _ in range(8):
        client.opens(end=True)
    stream_id = client.opens(with_timeout("300m"), end=True)
    world.advance(0.31)
    exceeded(client, stream_id)


def test_a_deadline_that_passes_after_a_refusal() -> None:
    """It was sent, refused, and waits again: the deadline is still the one it came with."""
    world = ready(1)
    client = world.client()
    stream_id = client.opens(with_timeout("400m"), end=True)
    world.advance(0.3)
    world.manners[host_name(1)] = SILENCE
    world.backend(1).sends(goaway(0))
    client.receives_nothing()
    world.advance(0.11)
    exceeded(client, stream_id)
    world.nothing_is_left()


def test_a_deadline_of_a_stream_that_a_backend_has_is_the_clients_and_the_backends() -> None:
    """They both know it; a third clock in between would only race them."""
    world = ready(1)
    client = world.client()
    client.opens(with_timeout("100m"), end=True)
    world.advance(5.0)
    client.receives_nothing()
    client.sends(rst(1))
    assert Reset(1, CANCEL) in world.backend(1).take()


@pytest.mark.parametrize("text", ["", "1", "x", "1X", "-1S", "123456789S", "1.5S"])
def test_a_timeout_that_is_none_is_the_servers_to_refuse(text: str) -> None:
    world = ready(1)
    client = world.client()
    client.opens(with_timeout(text), end=True)
    world.backend(1).receives(request(1, with_timeout(text), True))


# --- MAX_CONCURRENT_STREAMS: never an error while there is capacity ------------------------------------------


def serves_all(world: World, client: Client, streams: list[int]) -> None:
    """Backends answer as fast as they may; every stream is answered by one of them."""
    for _ in range(100):
        for each in list(world.connections()):
            if not each.closed:
                for n in each.streams_open():
                    each.answers(n)
        world.advance(0.01)
    assert {client.outcome(s) for s in streams} == {("0", "")}
    world.nothing_is_left()


def test_a_second_connection_that_is_refused_sends_what_waits_to_another_endpoint_at_once() -> None:
    world = World()
    world.backend_settings[host_name(1)] = {MAX_CONCURRENT_STREAMS: 1}
    world.endpoints(1, 2)
    client = world.client()
    world.manners[host_name(1)] = REFUSE
    streams = [client.opens(end=True) for _ in range(10)]
    assert len(world.backend(1).streams_open()) == 1
    assert len(world.backend(2).streams_open()) == 9
    assert world.dials <= 3, "and the refused dial is not tried again for every stream"
    serves_all(world, client, streams)


def test_a_second_connection_that_takes_long_sends_what_waits_to_another_endpoint() -> None:
    world = World()
    world.backend_settings[host_name(1)] = {MAX_CONCURRENT_STREAMS: 1}
    world.endpoints(1, 2)
    client = world.client()
    world.manners[host_name(1)] = SILENCE
    streams = [client.opens(end=True) for _ in range(10)]
    world.advance(0.3)
    assert len(world.backend(1).streams_open()) == 1
    assert len(world.backend(2).streams_open()) == 9
    serves_all(world, client, streams)


def test_a_second_connection_that_is_refused_is_tried_again_later() -> None:
    world = World()
    world.backend_settings[host_name(1)] = {MAX_CONCURRENT_STREAMS: 1}
    world.endpoints(1)
    client = world.client()
    world.manners[host_name(1)] = REFUSE
    streams = [client.opens(end=True) for _ in range(3)]
    assert len(world.backend(1).streams_open()) == 1
    world.manners[host_name(1)] = "accept"
    world.advance(1.0)
    assert sum(len(c.streams_open()) for c in world.connections()) == 3
    serves_all(world, client, streams)


def test_an_only_endpoint_at_its_limit_takes_the_next_when_one_ends() -> None:
    world = World()
    world.backend_settings[host_name(1)] = {MAX_CONCURRENT_STREAMS: 2}
    world.endpoints(1)
    client = world.client()
    world.manners[host_name(1)] = REFUSE
    streams = [client.opens(end=True) for _ in range(50)]
    world.manners[host_name(1)] = REFUSE
    serves_all(world, client, streams)


def test_a_limit_lowered_and_raised_again_mid_connection() -> None:
    world = ready(1)
    client = world.client()
    backend = world.backend(1)
    streams = [client.opens(end=True) for _ in range(5)]
    world.manners[host_name(1)] = REFUSE  # no other connection to be had
    backend.sends(settings({MAX_CONCURRENT_STREAMS: 2}))
    streams += [client.opens(end=True) for _ in range(5)]
    assert len(backend.streams_open()) == 5
    for n in backend.streams_open()[:4]:
        backend.answers(n)
    assert len(backend.streams_open()) == 2
    backend.sends(settings({MAX_CONCURRENT_STREAMS: 100}))
    assert len(backend.streams_open()) == 6
    serves_all(world, client, streams)


def test_a_limit_of_zero_for_a_while() -> None:
    world = ready(1, 2)
    client = world.client()
    first, second = world.backend(1), world.backend(2)
    for each in (first, second):
        each.sends(settings({MAX_CONCURRENT_STREAMS: 0}))
    world.backend_settings[host_name(1)] = world.backend_settings[host_name(2)] = {MAX_CONCURRENT_STREAMS: 0}
    streams = [client.opens(end=True) for _ in range(6)]
    world.advance(1.0)
    client.receives_nothing()
    second.sends(settings({MAX_CONCURRENT_STREAMS: 3}))
    assert len(second.streams_open()) == 3
    first.sends(settings({MAX_CONCURRENT_STREAMS: 10}))
    serves_all(world, client, streams)


def test_every_endpoint_at_zero_for_good_is_unavailable_and_says_why() -> None:
    world = ready(1, 2, settings={MAX_CONCURRENT_STREAMS: 0})
    client = world.client()
    stream_id = client.opens(end=True)
    world.advance(2.6)
    status, message = client.outcome(stream_id)
    assert status == "14"
    assert "none of 2 endpoints of greeter.default:50051 can take the call" in message


def test_a_limit_below_what_waits_for_the_connection() -> None:
    """The burst that comes before SETTINGS is known is held to the limit they name."""
    world = World()
    world.backend_settings[host_name(1)] = {MAX_CONCURRENT_STREAMS: 3}
    world.manners[host_name(1)] = SILENCE
    world.endpoints(1)
    client = world.client()
    streams = [client.opens(end=True) for _ in range(20)]
    world.manners[host_name(1)] = "accept"
    world.accept_dial(world.dialling[0])
    world.settle()
    assert all(len(c.streams_open()) <= 3 for c in world.connections())
    serves_all(world, client, streams)


# --- large -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("megabytes", [4, 64])
@pytest.mark.parametrize("direction", ["up", "down"])
def test_large_messages_with_little_held(megabytes: int, direction: str) -> None:
    """The reader takes 10,000 octets at a time; what is held stays below one stream's loan."""
    world = ready(1, settings={INITIAL_WINDOW_SIZE: 1 << 20})
    client = world.client({INITIAL_WINDOW_SIZE: 1 << 20})
    client.sends(headers(1, POST))
    backend = world.backend(1)
    backend.sends(headers(1, OK))
    source, sink = (client, backend) if direction == "up" else (backend, client)
    sink.take()
    wanted = megabytes << 20
    credit, connection, sent, got, most = 65535, 65535 + source.connection_granted(), 0, 0, 0
    source.housekeeping.clear()
    while got < wanted:
        size = min(credit, connection, 16384, wanted - sent)
        if size > 0:
            source.sends(data(1, bytes(size)))
            sent += size
            credit -= size
            connection -= size
        arrived = sum(len(e.payload) for e in sink.take() if isinstance(e, Data))
        got += arrived
        most = max(most, world.engine.held())
        if arrived or size <= 0:
            assert arrived or sink.granted(1) == 0
            sink.sends(window(1, 10_000), window(0, 10_000))
        credit += source.granted(1)
        connection += source.connection_granted()
        source.housekeeping.clear()
    assert most <= stream.LEND_LIMIT
    assert got == wanted


@pytest.mark.parametrize("cut", [1000, 16384])
def test_metadata_of_64_kib_in_one_field_both_ways(cut: int) -> None:
    world = ready(1)
    client = world.client()
    large = (("large-bin", "A" * 65_536),)
    octets = headers(1, (*POST, *large), end=True)
    for at in range(0, len(octets), cut):
        client.sends(octets[at : at + cut])
    backend = world.backend(1)
    backend.receives(request(1, (*POST, *large), True))
    octets = headers(1, (*OK, *large)) + headers(1, (*TRAILERS, *large), end=True)
    for at in range(0, len(octets), cut):
        backend.sends(octets[at : at + cut])
    client.receives(response(1, (*OK, *large)), response(1, (*TRAILERS, *large), True))
    world.nothing_is_left()


def test_metadata_of_64_kib_survives_a_retry() -> None:
    world = ready(1, 2)
    client = world.client()
    large = (*POST, *[(f"large-{n}", "x" * 8000) for n in range(8)])
    client.opens(large, end=True)
    who_has(world).sends(rst(1, REFUSED_STREAM))
    who_has(world).receives(request(1, large, True))


# --- cancellation and half-close ---------------------------------------------------------------------------


@pytest.mark.parametrize("held", [False, True], ids=["nothing held", "DATA held"])
def test_a_cancellation_overtakes_what_is_held(held: bool) -> None:
    world = ready(1, settings={INITIAL_WINDOW_SIZE: 0 if held else 65535})
    client = world.client()
    client.sends(headers(1, POST), data(1, bytes(1000)))
    backend = world.backend(1)
    backend.take()
    client.sends(rst(1, CANCEL))
    backend.receives(Reset(1, CANCEL))
    world.nothing_is_left()


def test_a_backends_reset_overtakes_what_the_client_has_not_granted() -> None:
    world = ready(1)
    client = world.client({INITIAL_WINDOW_SIZE: 0})
    client.calls()
    backend = world.backend(1)
    backend.sends(headers(1, OK), data(1, bytes(1000)))
    client.take()
    backend.sends(rst(1, CANCEL))
    client.receives(Reset(1, CANCEL))
    world.nothing_is_left()


def test_an_answer_complete_here_outlives_the_backends_reset() -> None:
    """The trailers have come; that the rest of the request is not wanted does not undo them."""
    world = ready(1)
    client = world.client({INITIAL_WINDOW_SIZE: 0})
    client.sends(headers(1, POST))
    backend = world.backend(1)
    backend.sends(headers(1, OK), data(1, b"answer"), headers(1, TRAILERS, end=True), rst(1, NO_ERROR))
    client.take()
    client.sends(window(1, 100))
    client.receives(Data(1, b"answer"), response(1, TRAILERS, True), Reset(1, NO_ERROR))
    world.nothing_is_left()


def test_half_close_with_the_last_message_and_alone() -> None:
    world = ready(1)
    client = world.client()
    backend = world.backend(1)
    client.sends(headers(1, POST), data(1, PART, end=True))
    backend.receives(request(1), Data(1, PART, True))
    client.sends(headers(3, POST), data(3, PART), data(3, b"", end=True))
    backend.receives(request(3), Data(3, PART), Data(3, b"", True))
    client.sends(headers(5, POST, end=True))
    backend.receives(request(5, end=True))


def test_half_close_behind_held_data() -> None:
    world = ready(1, settings={INITIAL_WINDOW_SIZE: 0})
    client = world.client()
    backend = world.backend(1)
    client.sends(headers(1, POST), data(1, PART), data(1, b"", end=True))
    backend.receives(request(1))
    backend.sends(window(1, 100))
    found, ended = backend.receives_body(1)
    assert (found, ended) == (PART, True)


def test_what_all_answers_made_here_say() -> None:
    """Each names the Service, and the endpoint where one is to blame."""
    world = ready(1)
    client = world.client()
    client.calls()
    world.backend(1).sends(data(0, b"x"))
    status, message = client.outcome(1)
    assert (status, message) == (
        "14",
        "evenstream: endpoint 10.0.0.1:50051 of greeter.default:50051 broke HTTP/2: DATA on stream 0",
    )
