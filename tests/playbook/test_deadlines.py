"""Deadlines that pass while a call waits here, and those that are others' to keep."""

from __future__ import annotations

import pytest
from rawhttp2 import CANCEL, MAX_CONCURRENT_STREAMS, Reset, goaway, headers, request, rst
from transcript import SILENCE, Client, World, host_name, ready, with_timeout


@pytest.mark.parametrize(("text", "seconds"), [("500m", 0.5), ("1S", 1.0), ("2000000u", 2.0), ("0n", 0.0)])
def test_a_deadline_that_passes_while_queued(text: str, seconds: float) -> None:
    world = World()
    world.endpoints()
    client = world.client()
    client.sends(headers(1, with_timeout(text), end=True))
    if seconds:
        world.advance(seconds - 0.01)
        client.receives_nothing()
    world.advance(0.02)
    status, message = client.outcome(1)
    assert status == "4"
    assert "greeter.default:50051" in message
    world.nothing_is_left()


def test_a_deadline_beyond_the_queue_is_unavailable() -> None:
    world = World()
    client = world.client()
    client.sends(headers(1, with_timeout("30S"), end=True))
    world.advance(3.0)
    assert client.outcome(1)[0] == "14"


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


def test_what_is_refused_waits_anew_and_not_only_for_what_was_left_of_its_first_wait() -> None:
    world = World()
    world.manners["10.0.0.1"] = SILENCE
    world.endpoints(1)
    client = world.client()
    client.calls()
    world.advance(0.2)
    backend = world.accept_dial(world.dialling[0])
    world.settle()
    assert backend.streams_open() == [1]
    world.advance(2.2)
    backend.sends(goaway(0))
    world.advance(1.0)  # the first wait would have been over 0.9 s ago
    client.receives_nothing()
    again = world.accept_dial(world.dialling[0])
    world.settle()
    again.answers(1)
    assert client.outcome(1) == ("0", "")
    world.nothing_is_left()


def test_what_is_refused_is_not_waited_with_for_ever() -> None:
    world = World()
    world.endpoints(1)
    client = world.client()
    client.calls()
    world.advance(1.0)
    world.manners["10.0.0.1"] = SILENCE
    world.backend(1).sends(goaway(0))
    world.advance(2.4)
    client.receives_nothing()
    world.advance(0.2)
    assert client.outcome(1)[0] == "14"
