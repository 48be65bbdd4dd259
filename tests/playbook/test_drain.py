"""Graceful shutdown: two GOAWAYs with a PING between them (RFC 9113 section 6.8)."""

from __future__ import annotations

from rawhttp2 import NO_ERROR, POST, PREFACE, REFUSED_STREAM, Goaway, Ping, Reset, headers, ping, settings
from transcript import Client, World, ready


def drain(world: World) -> None:
    world.engine.drain(world.now)
    world.settle()


def goaways(client: Client) -> list[Goaway]:
    return [e for e in client.take() if isinstance(e, Goaway)]


def test_an_idle_connection_ends_a_round_trip_later() -> None:
    world = ready(1)
    client = world.client()
    drain(world)
    (first,) = goaways(client)
    assert (first.last, first.code) == (2**31 - 1, NO_ERROR)
    asked = [e for e in client.housekeeping if isinstance(e, Ping) and not e.ack]
    assert len(asked) == 1
    assert not client.closed
    client.sends(ping(asked[0].payload, ack=True))
    (second,) = goaways(client)
    assert (second.last, second.code) == (0, NO_ERROR)
    assert client.closed


def test_streams_on_their_way_are_taken_until_the_second_goaway_and_run_to_their_end() -> None:
    world = ready(1)
    client = world.client()
    client.calls()
    drain(world)
    client.calls()
    asked = [e for e in client.housekeeping if isinstance(e, Ping) and not e.ack]
    client.sends(ping(asked[0].payload, ack=True))
    assert [g.last for g in goaways(client)] == [2**31 - 1, 3]
    client.sends(headers(5, POST, end=True))
    assert client.take() == [Reset(5, REFUSED_STREAM)]
    backend = world.backend(1)
    backend.answers(1)
    assert not client.closed
    backend.answers(3)
    assert client.outcome(1) == client.outcome(3) == ("0", "")
    assert client.closed
    world.nothing_is_left()


def test_a_client_that_does_not_answer_the_ping_is_told_all_the_same() -> None:
    world = ready(1)
    client = world.client()
    client.opens()
    drain(world)
    world.advance(0.5)
    assert len(goaways(client)) == 1
    world.advance(1.0)
    assert [g.last for g in goaways(client)] == [1]
    assert not client.closed


def test_a_drain_is_announced_once() -> None:
    world = ready(1)
    client = world.client()
    client.opens()
    drain(world)
    drain(world)
    world.advance(5.0)
    assert len(goaways(client)) == 2


def test_a_drain_before_the_preface() -> None:
    world = ready(1)
    client = world.raw_client()
    drain(world)
    world.advance(2.0)
    assert client.closed


def test_a_client_that_connects_during_the_drain_has_its_calls_and_is_then_sent_away() -> None:
    world = ready(1)
    drain(world)
    world.advance(2.0)
    client = world.client()
    stream = client.calls()
    world.backend(1).answers(1)
    assert client.outcome(stream)[0] == "0"
    world.advance(0.4)
    assert not goaways(client)
    stream = client.calls()
    world.advance(2.0)
    assert [g.last for g in goaways(client)] == [2**31 - 1, stream]
    assert not client.closed
    world.backend(1).answers(3)
    assert client.closed
    world.nothing_is_left()


def test_a_client_that_is_still_connecting_when_the_drain_begins_is_not_turned_away() -> None:
    world = ready(1)
    client = world.raw_client()
    drain(world)
    world.advance(0.3)
    client.sends(PREFACE, settings(), settings(ack=True))
    assert not goaways(client)
    stream = client.calls()
    world.backend(1).answers(1)
    assert client.outcome(stream)[0] == "0"
    world.advance(2.0)
    assert goaways(client)
    assert client.closed


def test_a_late_client_that_left_is_not_told() -> None:
    world = ready(1)
    drain(world)
    client = world.client()
    client.leaves()
    world.advance(2.0)
    assert not goaways(client)
