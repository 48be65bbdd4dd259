"""Whole calls from end to end: the four kinds, trailers-only, half-close, resets, 1xx."""

from __future__ import annotations

import pytest
from rawhttp2 import (
    CANCEL,
    INTERNAL_ERROR,
    NO_ERROR,
    OK,
    POST,
    PREFACE,
    TRAILERS,
    Data,
    Headers,
    Reset,
    data,
    frame,
    headers,
    literal,
    request,
    response,
    rst,
    settings,
)
from transcript import ready


def test_a_unary_call() -> None:
    world = ready(1)
    client = world.client()
    client.sends(headers(1, POST), data(1, b"request", end=True))
    backend = world.backend(1)
    backend.receives(request(1), Data(1, b"request", True))
    backend.sends(headers(1, OK), data(1, b"response"), headers(1, TRAILERS, end=True))
    client.receives(response(1, OK), Data(1, b"response"), response(1, TRAILERS, True))
    world.nothing_is_left()


def test_a_unary_call_octet_by_octet() -> None:
    world = ready(1)
    client = world.raw_client()
    client.sends_octet_by_octet(PREFACE, settings(), headers(1, POST), data(1, b"request", end=True))
    backend = world.backend(1)
    backend.receives(request(1), Data(1, b"request", True))
    backend.sends_octet_by_octet(headers(1, OK), data(1, b"response"), headers(1, TRAILERS, end=True))
    client.receives(response(1, OK), Data(1, b"response"), response(1, TRAILERS, True))
    world.nothing_is_left()


def test_a_call_in_the_clients_first_write() -> None:
    """A client need not wait for our SETTINGS (RFC 9113 section 3.4)."""
    world = ready(1)
    client = world.raw_client()
    client.sends(PREFACE + settings() + headers(1, POST) + data(1, b"request", end=True))
    world.backend(1).receives(request(1), Data(1, b"request", True))


def test_client_streaming() -> None:
    world = ready(1)
    client = world.client()
    client.sends(headers(1, POST))
    backend = world.backend(1)
    backend.receives(request(1))
    for message in (b"one", b"two", b"three"):
        client.sends(data(1, message))
        backend.receives(Data(1, message))
    client.sends(data(1, b"", end=True))
    backend.receives(Data(1, b"", True))
    client.receives_nothing()
    backend.answers(1)
    client.receives(response(1, OK), Data(1, b"response"), response(1, TRAILERS, True))
    world.nothing_is_left()


def test_server_streaming() -> None:
    world = ready(1)
    client = world.client()
    client.sends(headers(1, POST), data(1, b"request", end=True))
    backend = world.backend(1)
    backend.take()
    backend.sends(headers(1, OK))
    client.receives(response(1, OK))
    for message in (b"one", b"two", b"three"):
        backend.sends(data(1, message))
        client.receives(Data(1, message))
    backend.sends(headers(1, TRAILERS, end=True))
    client.receives(response(1, TRAILERS, True))
    world.nothing_is_left()


def test_bidirectional_streaming() -> None:
    world = ready(1)
    client = world.client()
    client.sends(headers(1, POST))
    backend = world.backend(1)
    backend.sends(headers(1, OK))
    backend.receives(request(1))
    client.receives(response(1, OK))
    for turn in range(5):
        client.sends(data(1, b"ping %d" % turn))
        backend.receives(Data(1, b"ping %d" % turn))
        backend.sends(data(1, b"pong %d" % turn))
        client.receives(Data(1, b"pong %d" % turn))
    client.sends(data(1, b"", end=True))
    backend.receives(Data(1, b"", True))
    backend.sends(data(1, b"after the half-close"), headers(1, TRAILERS, end=True))
    client.receives(Data(1, b"after the half-close"), response(1, TRAILERS, True))
    world.nothing_is_left()


def test_trailers_only() -> None:
    world = ready(1)
    client = world.client()
    client.calls()
    backend = world.backend(1)
    backend.take()
    answer = (*OK, ("grpc-status", "5"), ("grpc-message", "no such greeting"))
    backend.sends(headers(1, answer, end=True))
    client.receives(response(1, answer, True))
    world.nothing_is_left()


def test_request_trailers_are_passed_on() -> None:
    world = ready(1)
    client = world.client()
    trailers = (("checksum", "abc"),)
    client.sends(headers(1, POST), data(1, b"body"), headers(1, trailers, end=True))
    world.backend(1).receives(request(1), Data(1, b"body"), request(1, trailers, True))


def test_a_response_that_ends_with_data() -> None:
    """Not gRPC's way, but HTTP's."""
    world = ready(1)
    client = world.client()
    client.calls()
    backend = world.backend(1)
    backend.take()
    backend.sends(headers(1, OK), data(1, b"body", end=True))
    client.receives(response(1, OK), Data(1, b"body", True))
    world.nothing_is_left()


def test_informational_headers_go_before_the_response() -> None:
    world = ready(1)
    client = world.client()
    client.calls()
    backend = world.backend(1)
    hints = ((":status", "103"), ("link", "</style.css>"))
    backend.sends(headers(1, hints), headers(1, hints), headers(1, OK), headers(1, TRAILERS, end=True))
    client.receives(response(1, hints), response(1, hints), response(1, OK), response(1, TRAILERS, True))
    world.nothing_is_left()


def test_an_answer_before_the_request_has_ended() -> None:
    """The backend ends the call early and resets with NO_ERROR what it will not read (section 8.1)."""
    world = ready(1)
    client = world.client()
    client.sends(headers(1, POST), data(1, b"first"))
    backend = world.backend(1)
    backend.take()
    answer = (*OK, ("grpc-status", "7"))
    backend.sends(headers(1, answer, end=True), rst(1, NO_ERROR))
    client.receives(response(1, answer, True), Reset(1, NO_ERROR))
    client.sends(data(1, b"already on its way"))
    client.receives_nothing()
    backend.receives_nothing()
    client.still_works()
    world.nothing_is_left()


def test_an_answer_before_the_request_has_ended_and_the_client_goes_on() -> None:
    world = ready(1)
    client = world.client()
    client.sends(headers(1, POST), data(1, b"first"))
    backend = world.backend(1)
    backend.take()
    answer = (*OK, ("grpc-status", "0"))
    backend.sends(headers(1, answer, end=True))
    client.receives(response(1, answer, True))
    client.sends(data(1, b"second"), data(1, b"last", end=True))
    backend.receives(Data(1, b"second"), Data(1, b"last", True))
    world.nothing_is_left()


@pytest.mark.parametrize("code", [CANCEL, NO_ERROR, INTERNAL_ERROR, 0xFFFFFFFF])
def test_the_clients_reset_reaches_the_backend_within_the_turn(code: int) -> None:
    world = ready(1)
    client = world.client()
    client.sends(headers(1, POST), data(1, b"request"))
    backend = world.backend(1)
    backend.take()
    client.sends(rst(1, code))
    backend.receives(Reset(1, code))
    world.nothing_is_left()
    backend.sends(headers(1, OK), data(1, b"late"), headers(1, TRAILERS, end=True))
    backend.still_works()
    client.receives_nothing()
    client.still_works()


@pytest.mark.parametrize("code", [CANCEL, NO_ERROR, INTERNAL_ERROR, 0xFFFFFFFF])
@pytest.mark.parametrize("answered", [False, True])
def test_the_backends_reset_reaches_the_client_within_the_turn(code: int, answered: bool) -> None:
    world = ready(1)
    client = world.client()
    client.sends(headers(1, POST), data(1, b"request"))
    backend = world.backend(1)
    backend.take()
    if answered:
        backend.sends(headers(1, OK))
    client.take()
    backend.sends(rst(1, code))
    client.receives(Reset(1, code))
    client.sends(data(1, b"late", end=True))
    client.still_works()
    backend.receives_nothing()
    world.nothing_is_left()


def test_a_client_that_leaves_cancels_its_streams_and_only_those() -> None:
    world = ready(1)
    leaver, stayer = world.client(), world.client()
    leaver.sends(headers(1, POST), headers(3, POST, end=True))
    stayer.sends(headers(1, POST, end=True))
    backend = world.backend(1)
    backend.take()
    leaver.leaves()
    backend.receives(Reset(1, CANCEL), Reset(3, CANCEL))
    backend.answers(5)
    stayer.receives(response(1, OK), Data(1, b"response"), response(1, TRAILERS, True))
    world.nothing_is_left()


def test_a_backend_that_is_lost_answers_unavailable_to_its_streams_and_only_those() -> None:
    world = ready(1, 2)
    client = world.client()
    streams = [client.calls() for _ in range(4)]
    lost, kept = world.backend(1), world.backend(2)
    lost_number = len(lost.streams_open())
    lost.leaves("reset the connection")
    unavailable = [e for e in client.take() if isinstance(e, Headers)]
    assert len(unavailable) == lost_number == 2
    for event in unavailable:
        fields = dict(event.fields)
        assert event.end
        assert fields["grpc-status"] == "14"
        assert "10.0.0.1:50051" in fields["grpc-message"]
        assert "greeter.default:50051" in fields["grpc-message"]
        assert "reset the connection" in fields["grpc-message"]
    for stream in kept.streams_open():
        kept.answers(stream)
    assert {e.stream for e in client.take()} == set(streams) - {e.stream for e in unavailable}
    world.nothing_is_left()


def test_a_backend_that_is_lost_mid_response_ends_it_with_trailers() -> None:
    world = ready(1)
    client = world.client()
    client.calls()
    backend = world.backend(1)
    backend.sends(headers(1, OK), data(1, b"part"))
    client.take()
    backend.leaves()
    (event,) = client.take()
    assert isinstance(event, Headers)
    assert event.end
    assert dict(event.fields)["grpc-status"] == "14"
    assert ":status" not in dict(event.fields)
    world.nothing_is_left()


def test_a_plain_http2_call_is_answered_in_plain_http() -> None:
    world = ready(1)
    client = world.client()
    plain = ((":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "x"))
    client.sends(headers(1, plain, end=True))
    world.backend(1).leaves()
    head, body = client.take()
    assert isinstance(head, Headers)
    assert isinstance(body, Data)
    assert dict(head.fields)[":status"] == "503"
    assert body.end
    assert b"10.0.0.1" in body.payload
    assert dict(head.fields)["content-length"] == str(len(body.payload))
    world.nothing_is_left()


def test_a_plain_http2_response_that_is_cut_off_is_reset() -> None:
    """Trailers with a grpc-status would make a part look like a whole."""
    world = ready(1)
    client = world.client()
    plain = ((":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "x"))
    client.sends(headers(1, plain, end=True))
    world.backend(1).sends(headers(1, ((":status", "200"),)), data(1, b"part"))
    client.take()
    world.backend(1).leaves()
    client.receives(Reset(1, INTERNAL_ERROR))
    world.nothing_is_left()


def test_streams_of_one_connection_go_round_all_backends() -> None:
    world = ready(1, 2, 3)
    client = world.client()
    for _ in range(60):
        client.opens()
    assert [len(world.backend(host).streams_open()) for host in (1, 2, 3)] == [20, 20, 20]


def test_long_messages_arrive_whole_and_in_order() -> None:
    """4 MiB up and down, while neither side is granted more than the default windows at a time."""
    world = ready(1)
    client = world.client()
    message = bytes(range(256)) * 16384
    client.sends(headers(1, POST))
    backend = world.backend(1)
    backend.receives(request(1))

    up = _carry(client, backend, message)
    assert up == message
    backend.sends(headers(1, OK))
    client.receives(response(1, OK))
    down = _carry(backend, client, message)
    assert down == message
    backend.sends(headers(1, TRAILERS, end=True))
    client.receives(response(1, TRAILERS, True))
    world.nothing_is_left()


def _carry(source, sink, message: bytes) -> bytes:  # type: ignore[no-untyped-def]
    """Send within the credit that is granted; the sink grants back what it has read."""
    from rawhttp2 import window

    credit, at, got = 65535, 0, b""
    is_request = source.is_client
    while at < len(message):
        size = min(credit, 16384, len(message) - at)
        assert size > 0, f"no credit left after {at} octets"
        at += size
        credit -= size
        last = is_request and at == len(message)
        source.sends(data(1, message[at - size : at], end=last))
        arrived, _ = sink.receives_body(1)
        got += arrived
        if arrived:
            sink.sends(window(1, len(arrived)), window(0, len(arrived)))
        credit += source.granted(1)
        source.take()
    return got


def test_padding_and_priority_are_stripped() -> None:
    world = ready(1)
    client = world.client()
    block = literal(POST)
    padded = bytes([10]) + b"\x00\x00\x00\x00\x10" + block + bytes(10)
    client.sends(frame(1, 0x4 | 0x8 | 0x20, 1, padded), data(1, b"padded", pad=200, end=True))
    world.backend(1).receives(request(1), Data(1, b"padded", True))


def test_metadata_of_64_kib_is_passed_both_ways() -> None:
    world = ready(1)
    client = world.client()
    large = tuple((f"large-{n}-bin", "A" * 8000) for n in range(8))
    client.sends(headers(1, (*POST, *large), end=True))
    backend = world.backend(1)
    backend.receives(request(1, (*POST, *large), True))
    backend.sends(headers(1, (*OK, *large)), headers(1, (*TRAILERS, *large), end=True))
    client.receives(response(1, (*OK, *large)), response(1, (*TRAILERS, *large), True))
