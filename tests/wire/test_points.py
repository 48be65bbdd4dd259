"""DESIGN.md's eleven points on header blocks, those that are about connections rather than blocks.

Points 2, 3, 4 and 10 are in test_headers, test_stacks and test_memo; 6 also in test_framing.
"""

from __future__ import annotations

import pytest
from hpackwriter import INDEXING, indexed, literal
from rawhttp2 import (
    CANCEL,
    DATA,
    ENHANCE_YOUR_CALM,
    HEADER_TABLE_SIZE,
    INITIAL_WINDOW_SIZE,
    INTERNAL_ERROR,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    MAX_HEADER_LIST_SIZE,
    OK,
    POST,
    PREFACE,
    REFUSED_STREAM,
    TRAILERS,
    Fields,
    Goaway,
    Headers,
    Ping,
    Reset,
    Settings,
    data,
    frame,
    goaway,
    headers,
    ping,
    request,
    response,
    rst,
    settings,
    window,
)
from rawhttp2 import literal as plain
from transcript import Party, ready

from sidecar.wire.table import MAX_HEADER_LIST


def our_settings(party: Party) -> list[Settings]:
    return [event for event in party.housekeeping if isinstance(event, Settings) and not event.ack]


def acknowledgements(party: Party) -> int:
    return sum(isinstance(event, Settings) and event.ack for event in party.housekeeping)


# --- 1: SETTINGS on accept, before reading; the peer has a table of 4,096 octets until it says otherwise --


def test_settings_are_out_before_the_peer_has_said_a_word() -> None:
    world = ready(1)
    client = world.raw_client()
    (first,) = our_settings(client)
    assert first.values[HEADER_TABLE_SIZE] == 0
    assert first.values[MAX_HEADER_LIST_SIZE] == MAX_HEADER_LIST
    (to_backend,) = our_settings(world.backend(1))
    assert to_backend.values[HEADER_TABLE_SIZE] == 0


def test_what_came_before_our_settings_were_seen_may_use_a_table_of_4096_octets() -> None:
    world = ready(1)
    client = world.raw_client()
    token = "t" * 3900
    block = plain(POST) + literal(b"x-token", token.encode(), INDEXING)
    calls = headers(1, block, end=True) + headers(3, plain(POST) + indexed(62), end=True)
    client.sends(PREFACE, settings(), calls)  # in one segment, before it can have read ours
    fields = (*POST, ("x-token", token))
    world.backend(1).receives(request(1, fields, True), request(3, fields, True))


# --- 5: MAX_FRAME_SIZE stays 16,384 on both sides ------------------------------------------------------


@pytest.mark.parametrize("size", [16384, 1 << 20, (1 << 24) - 1])
def test_frames_stay_small_whatever_a_peer_would_take(size: int) -> None:
    """The playbook's reader refuses a frame of ours over 16,384 octets."""
    world = ready(1, settings={MAX_FRAME_SIZE: size})
    client = world.client({MAX_FRAME_SIZE: size})
    large = tuple((f"large-{at}", "v" * 9000) for at in range(5))
    client.sends(headers(1, (*POST, *large)), data(1, bytes(40_000), end=True))
    backend = world.backend(1)
    assert backend.take()[0] == request(1, (*POST, *large))
    backend.sends(
        headers(1, (*OK, *large)), data(1, bytes(40_000)), headers(1, (*TRAILERS, *large), end=True)
    )
    assert client.take()[0] == response(1, (*OK, *large))
    for party in (client, backend):
        assert MAX_FRAME_SIZE not in our_settings(party)[0].values
        assert not party.closed
    client.sends(frame(DATA, 0, 1, bytes(16385)))
    assert client.closed


# --- 6: numbers rise, given when a stream is written; a block's frames stand together ---------------------


def test_numbers_are_given_when_a_stream_is_written() -> None:
    """The first call waits for room at the backend; those of other clients that go out before it number before it."""
    world = ready(1, settings={MAX_CONCURRENT_STREAMS: 0})
    early, late = world.client(), world.client()
    early.opens((*POST, ("who", "early")), end=True)
    backend = world.backend(1)
    backend.receives_nothing()
    late.opens((*POST, ("who", "late")), end=True)
    early.sends(rst(1, CANCEL))
    backend.sends(settings({MAX_CONCURRENT_STREAMS: 10}))
    backend.receives(request(1, (*POST, ("who", "late")), True))
    early.opens((*POST, ("who", "again")), end=True)
    backend.receives(request(3, (*POST, ("who", "again")), True))


def test_blocks_of_many_frames_are_never_interrupted() -> None:
    """Large blocks of several clients come in pieces at the same time; the reader refuses what stands between."""
    world = ready(1)
    clients = [world.client() for _ in range(4)]
    large = tuple((f"large-{at}", "v" * 9000) for at in range(6))
    octets = headers(1, (*POST, *large), end=True)
    at = 0
    while at < len(octets):
        for client in clients:
            client.sends(octets[at : at + 1500])
        at += 1500
    events = world.backend(1).take()
    assert events == [request(stream, (*POST, *large), True) for stream in (1, 3, 5, 7)]


# --- 7: PING is answered here and never relayed -----------------------------------------------------------


def test_ping_is_answered_here_and_not_passed_on() -> None:
    world = ready(1)
    client = world.client()
    client.opens()
    backend = world.backend(1)
    client.sends(ping(b"12345678"))
    backend.sends(ping(b"abcdefgh"), ping(b"unasked!", ack=True))
    assert Ping(b"12345678", True) in client.housekeeping
    assert Ping(b"abcdefgh", True) in backend.housekeeping
    pings = [
        e for party in (client, backend) for e in party.housekeeping if isinstance(e, Ping) and not e.ack
    ]
    assert not pings, "frequent pings toward a server earn GOAWAY"


# --- 8: SETTINGS are never relayed; each is acknowledged once ---------------------------------------------


def test_settings_are_acknowledged_once_each_and_not_passed_on() -> None:
    world = ready(1)
    client = world.client()
    client.opens()
    backend = world.backend(1)
    before = [(len(our_settings(party)), acknowledgements(party)) for party in (client, backend)]
    assert before == [(1, 1), (1, 1)]
    for at in range(5):
        client.sends(settings({INITIAL_WINDOW_SIZE: 65535 + at}))
        backend.sends(settings({INITIAL_WINDOW_SIZE: 65535 + at, HEADER_TABLE_SIZE: 1000 * at, 0x99: at}))
    assert [len(our_settings(party)) for party in (client, backend)] == [1, 1]
    assert [acknowledgements(party) for party in (client, backend)] == [6, 6]
    client.sends(settings(), settings(), settings())
    assert acknowledgements(client) == 9


def test_a_peers_own_table_size_changes_nothing_of_what_we_write() -> None:
    """Our encoder's table is empty whatever the peer offers or takes back (RFC 7541 section 4.2)."""
    world = ready(1)
    client = world.client({HEADER_TABLE_SIZE: 0})
    for at in range(4):
        client.calls()
        world.backend(1).sends(settings({HEADER_TABLE_SIZE: (1 << 20, 0, 4096, 65536)[at]}))
        client.sends(settings({HEADER_TABLE_SIZE: (0, 1 << 20, 100, 0)[at]}))
        world.backend(1).answers(2 * at + 1)
    for party in (client, world.backend(1)):
        assert [block[:1] == b"\x20" for block in party.reader.blocks].count(True) == 1


# --- 9: RST_STREAM codes pass through, GOAWAY never -------------------------------------------------------


@pytest.mark.parametrize("code", [0, 2, 3, 8, 0xB, 0xFFFFFFFF])
def test_a_reset_passes_with_its_code(code: int) -> None:
    world = ready(1)
    client = world.client()
    client.opens()
    client.opens()
    backend = world.backend(1)
    backend.take()
    client.sends(rst(1, code))
    backend.receives(Reset(1, code))
    backend.sends(headers(3, OK), rst(3, code))
    client.receives(response(3, OK), Reset(3, code))


def test_a_backends_goaway_is_not_passed_on() -> None:
    world = ready(1, 2)
    client = world.client()
    for _ in range(4):
        client.opens()
    leaver, other = world.backend(1), world.backend(2)
    taken, refused = leaver.streams_open()
    other.take()
    leaver.sends(goaway(taken, debug=b"max_age"))
    assert not any(isinstance(event, Goaway) for event in client.take())
    assert [type(event) for event in other.take()] == [Headers]  # what it did not take goes elsewhere
    leaver.sends(headers(taken, OK), headers(taken, TRAILERS, end=True))
    assert refused > taken
    client.still_works()


def test_a_refusal_that_nobody_else_can_take_is_passed_on_as_one() -> None:
    world = ready(1)
    client = world.client()
    client.opens()
    for _ in range(5):
        backend = world.backend(1)
        for stream in backend.streams_open():
            backend.sends(rst(stream, REFUSED_STREAM))
    assert Reset(1, REFUSED_STREAM) in client.take()


# --- 11: lists of headers ---------------------------------------------------------------------------------


def list_of(size: int, fields: Fields) -> Fields:
    """These fields and one more, so that the list comes to so many octets."""
    taken = sum(len(name) + len(value) + 32 for name, value in fields)
    return (*fields, ("large-bin", "A" * (size - taken - len("large-bin") - 32)))


@pytest.mark.parametrize("announced", [8192, 16384])  # Java's, C-core's
@pytest.mark.parametrize("end", [True, False])
def test_a_backend_is_not_sent_a_list_beyond_what_it_announced(announced: int, end: bool) -> None:
    """grpc-java ends its connection over one, with all calls that are on it."""
    world = ready(1, settings={MAX_HEADER_LIST_SIZE: announced})
    client = world.client()
    most, beyond = list_of(announced, POST), list_of(announced + 1, POST)
    client.sends(headers(1, most, end=True), headers(3, beyond, end))
    backend = world.backend(1)
    backend.receives(request(1, most, end=True))
    status, message = client.outcome(3)
    assert status == "8"
    assert f"{announced + 1} octets" in message
    assert message.endswith(f"takes {announced}")
    backend.answers(1)
    assert client.outcome(1) == ("0", "")
    assert world.engine.totals.answered_here == {8: 1}
    client.still_works()
    backend.still_works()
    world.nothing_is_left()


def test_a_backend_that_raises_its_limit_is_sent_more() -> None:
    world = ready(1, settings={MAX_HEADER_LIST_SIZE: 8192})
    client = world.client()
    large = list_of(9000, POST)
    backend = world.backend(1)
    backend.sends(settings({MAX_HEADER_LIST_SIZE: 10_000}))
    client.opens(large)
    backend.receives(request(1, large))


@pytest.mark.parametrize("part", ["1xx", "headers", "trailers", "trailers only", "trailers behind DATA"])
@pytest.mark.parametrize("ended", [True, False], ids=["request ended", "request open"])
def test_a_client_is_not_sent_a_list_beyond_what_it_announced(part: str, ended: bool) -> None:
    world = ready(1)
    client = world.client({MAX_HEADER_LIST_SIZE: 8192, INITIAL_WINDOW_SIZE: 10})
    client.sends(headers(1, POST, ended), headers(3, POST, end=True))
    backend = world.backend(1)
    backend.take()
    if part == "1xx":
        backend.sends(headers(1, list_of(8193, ((":status", "103"),))))
    elif part == "headers":
        backend.sends(headers(1, list_of(8193, OK)))
    elif part == "trailers only":
        backend.sends(headers(1, list_of(8193, (*OK, *TRAILERS)), True))
    else:
        held = 20 if part == "trailers behind DATA" else 10
        backend.sends(headers(1, OK), data(1, bytes(held)), headers(1, list_of(8193, TRAILERS), True))
        if held > 10:
            client.sends(window(1, 10))
    status, message = client.outcome(1)
    assert status == "8"
    assert "8193 octets" in message
    over = ended and part.startswith("trailers")
    assert [event for event in backend.take() if isinstance(event, Reset)] == (
        [] if over else [Reset(1, CANCEL)]
    )
    client.take()
    backend.answers(3)
    assert client.outcome(3) == ("0", "")
    client.still_works()
    backend.still_works()
    world.nothing_is_left()


def test_a_plain_http_client_and_a_plain_http_answer_beyond_a_limit() -> None:
    world = ready(1, settings={MAX_HEADER_LIST_SIZE: 8192})
    client = world.client({MAX_HEADER_LIST_SIZE: 8192})
    get = ((":method", "GET"), *POST[1:4])
    client.opens(list_of(8193, get), end=True)
    assert dict(client.take()[0].fields)[":status"] == "431"
    client.opens(get, end=True)
    world.backend(1).sends(headers(1, list_of(8193, OK)))
    client.receives(Reset(3, INTERNAL_ERROR))
    world.nothing_is_left()


@pytest.mark.parametrize("side", ["client", "backend"])
def test_a_limit_that_trips_ends_that_connection_and_no_other(side: str) -> None:
    """Its table can no longer be followed. Another client's calls, and other backends, go on."""
    world = ready(1, 2)
    client, other = world.client(), world.client()
    client.opens()
    client.opens()
    bomb = literal(b"bomb", b"v" * 4000, INDEXING) + indexed(62) * 40
    if side == "client":
        client.sends(headers(5, plain(POST) + bomb))
        client.is_told(ENHANCE_YOUR_CALM)
        for host in (1, 2):
            world.backend(host).still_works()
    else:
        world.backend(1).sends(headers(1, plain(OK) + bomb))
        assert world.backend(1).closed
        answers = [event for event in client.take() if isinstance(event, Headers)]
        assert [event.end for event in answers] == [True]  # of the one call that was there
        client.still_works()
        world.backend(2).still_works()
    who = (*POST, ("who", "other"))
    for connection in world.connections():
        connection.take()
    other.opens(who)
    seen = [
        event.fields for each in world.connections() for event in each.take() if isinstance(event, Headers)
    ]
    assert seen == [who]
