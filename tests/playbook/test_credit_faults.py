"""Flow control that is broken (RFC 9113 section 6.9): more than was granted, windows that overflow, credit of 0."""

from __future__ import annotations

import pytest
from credit_calls import body_of, open_call
from rawhttp2 import (
    FLOW_CONTROL_ERROR,
    INITIAL_WINDOW_SIZE,
    POST,
    PROTOCOL_ERROR,
    Data,
    Headers,
    Reset,
    data,
    headers,
    settings,
    window,
)
from transcript import BIG, ready

MAX_WINDOW = 2**31 - 1


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
