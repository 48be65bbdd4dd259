"""gRPC's clauses that the other transcripts leave open: large messages and metadata, cancellation, half-close."""

from __future__ import annotations

import pytest
from rawhttp2 import (
    CANCEL,
    INITIAL_WINDOW_SIZE,
    NO_ERROR,
    OK,
    POST,
    REFUSED_STREAM,
    TRAILERS,
    Data,
    Headers,
    Reset,
    data,
    headers,
    request,
    response,
    rst,
    window,
)
from transcript import World, ready, who_has

from sidecar.splice.credit import LEND_LIMIT
from sidecar.wire.connection import RESPONSE_WINDOW

PART = b"part"


# --- large ---------------------------------------------------------------------------------------------


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
    credit, connection = 65535 if direction == "up" else RESPONSE_WINDOW, 65535 + source.connection_granted()
    sent = got = most = 0
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
    assert most <= LEND_LIMIT
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


# --- cancellation and half-close -----------------------------------------------------------------------


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


# --- a body that may be missing (RFC 9113 section 8.1.1) -------------------------------------------------


@pytest.mark.parametrize(
    ("method", "status"), [("HEAD", "200"), ("GET", "204"), ("GET", "304")], ids=["HEAD", "204", "304"]
)
def test_a_length_may_speak_of_a_body_that_does_not_come(method: str, status: str) -> None:
    world = ready(1)
    client = world.client()
    client.sends(headers(1, ((":method", method), *POST[1:]), end=True))
    answer = ((":status", status), ("content-length", "4"))
    who_has(world).sends(headers(1, answer, end=True))
    client.receives(response(1, answer, True))
    world.nothing_is_left()


@pytest.mark.parametrize(
    "end", [data(1, end=True), headers(1, TRAILERS, True)], ids=["empty DATA", "trailers"]
)
def test_the_answer_to_head_may_end_apart_from_its_headers(end: bytes) -> None:
    world = ready(1)
    client = world.client()
    client.opens(((":method", "HEAD"), *POST[1:]), end=True)
    backend = world.backend(1)
    answer = (*OK, ("content-length", "4"))
    backend.sends(headers(1, answer), end)
    found = client.take()
    assert found[0] == response(1, answer)
    assert found[1:] in ([Data(1, b"", True)], [response(1, TRAILERS, True)])
    world.nothing_is_left()


@pytest.mark.parametrize("whole", [True, False])
def test_a_client_that_ends_its_request_with_a_reset_after_the_whole_answer_has_cancelled_nothing(
    whole: bool,
) -> None:
    """As grpc-go does it where the server ends the call first."""
    world = ready(1)
    client = world.client()
    client.opens()
    backend = world.backend(1)
    backend.take()
    backend.sends(headers(1, OK), data(1, PART))
    if whole:
        backend.sends(headers(1, TRAILERS, True))
    client.sends(rst(1, NO_ERROR))
    backend.receives(Reset(1, NO_ERROR))
    (service,) = world.engine.services.values()
    (endpoint,) = service.backends.values()
    for stats in (service.stats, endpoint.stats):
        assert stats.by_status == ({0: 1} if whole else {1: 1})
    world.nothing_is_left()


def test_an_answer_made_here_to_head_has_no_body() -> None:
    world = World()
    world.endpoints(exists=False)
    client = world.client()
    client.opens(((":method", "HEAD"), *POST[1:4]), end=True)
    world.advance(3.0)
    (head,) = client.take()
    assert isinstance(head, Headers)
    assert head.end
    assert dict(head.fields)[":status"] == "503"
    world.nothing_is_left()


def test_an_answer_made_here_that_no_window_has_room_for_says_nothing_of_a_body() -> None:
    world = World()
    world.endpoints(exists=False)
    client = world.client({INITIAL_WINDOW_SIZE: 0})
    client.opens(((":method", "GET"), *POST[1:4]), end=True)
    world.advance(3.0)
    (head,) = client.take()
    assert isinstance(head, Headers)
    assert head.end
    assert dict(head.fields)["content-length"] == "0"
    world.nothing_is_left()
