"""What may be sent again by gRFC A6, and what not: what was begun, how large a copy is kept, what is counted."""

from __future__ import annotations

import pytest
from rawhttp2 import (
    INITIAL_WINDOW_SIZE,
    OK,
    POST,
    REFUSED_STREAM,
    Data,
    Headers,
    Reset,
    data,
    goaway,
    headers,
    request,
    rst,
    settings,
    window,
)
from transcript import REFUSE, SILENCE, World, host_name, ready, who_has

from sidecar.splice import replay

HINTS = ((":status", "103"),)
PART = b"part"

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


def test_what_a_broken_socket_did_not_take_is_sent_elsewhere() -> None:
    """Its backend is gone, which shows when something is written to it; what was written before may have arrived."""
    world = ready(1)
    client = world.client()
    written = client.calls()
    first = world.backend(1)
    first.broken = True
    unwritten = [client.calls(), client.calls()]
    world.endpoints(1, 2)
    first.leaves()
    assert client.outcome(written)[0] == "14"
    for stream_id in (1, 3):
        world.backend(2).answers(stream_id)
    for stream_id in unwritten:
        assert client.outcome(stream_id) == ("0", "")
    world.nothing_is_left()


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


@pytest.mark.parametrize("size", [0, 1, 16384, replay.REPLAY_LIMIT - 1, replay.REPLAY_LIMIT])
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
    client.sends(headers(1, POST), data(1, bytes(replay.REPLAY_LIMIT)))
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


@pytest.mark.parametrize("written", [False, True])
def test_what_never_left_here_before_its_connection_was_lost_is_sent_again(written: bool) -> None:
    """A call and the end of the connection it was given to are found in one turn."""
    world = ready(1, 2)
    client = world.client()
    world.engine.received(client.peer, headers(1, POST) + data(1, b"body", end=True), world.now)
    lost = who_has(world)
    if written:
        world.settle()
    lost.leaves()
    if written:
        assert client.outcome(1)[0] == "14"
        return
    other = who_has(world)
    assert other.host != lost.host
    other.receives(request(1), Data(1, b"body", True))
    other.answers(1)
    assert client.outcome(1) == ("0", "")
    world.nothing_is_left()


def test_what_never_left_here_is_not_sent_again_where_it_still_goes_out() -> None:
    """The backend breaks a rule: what is in our output reaches it ahead of our GOAWAY."""
    world = ready(1, 2)
    client = world.client()
    world.engine.received(client.peer, headers(1, POST, end=True), world.now)
    lost = who_has(world)
    lost.sends(headers(9, OK))
    assert client.outcome(1)[0] == "14"
    assert not [c for c in world.connections() if c.streams_open()]
    world.nothing_is_left()
