"""Clients that begin and do not end: a preface, a frame, a header block.

The bounds stand in docs/limits.md. tests/hostile holds the same attacks against the real process.
"""

from __future__ import annotations

import pytest
from bystander import Bystander
from rawhttp2 import (
    CONTINUATION,
    ENHANCE_YOUR_CALM,
    HEADERS,
    POST,
    PREFACE,
    SETTINGS_TIMEOUT,
    data,
    frame,
    headers,
    literal,
    ping,
    settings,
    split_headers,
)
from transcript import ready

from sidecar.splice import context, unfinished


@pytest.mark.parametrize(
    "begun",
    [
        frame(HEADERS, 0, 1, literal(POST)),
        frame(HEADERS, 0, 1, b"") + frame(CONTINUATION, 0, 1),
        headers(1, POST)[:-1],
        ping()[:9],
        b"\0",
    ],
    ids=["block", "empty block", "HEADERS", "PING", "one octet"],
)
def test_what_has_begun_and_does_not_end(begun: bytes) -> None:
    world = ready(1)
    bystander = Bystander(world)
    client = world.client()
    world.advance(100.0)
    client.sends(begun)
    world.advance(unfinished.INCOMPLETE_TIMEOUT - 0.1)
    assert not client.closed
    world.advance(unfinished.INCOMPLETE_TIMEOUT)
    client.is_told(ENHANCE_YOUR_CALM)
    bystander.check()
    assert world.engine.kept()["blocks under way"] == 0


def test_a_block_that_dribbles() -> None:
    """An octet a second keeps nobody's clock from running."""
    world = ready(1)
    client = world.client()
    octets = frame(HEADERS, 0, 1, literal(POST)) + frame(CONTINUATION, 0, 1, b"\0") * 100
    for at in range(100):
        client.sends(octets[at * 5 : at * 5 + 5])
        world.advance(1.0)
        if client.closed:
            break
    assert at <= 2 * unfinished.INCOMPLETE_TIMEOUT
    client.is_told(ENHANCE_YOUR_CALM)


def test_a_busy_connection_is_never_incomplete_for_long() -> None:
    """Reads cut frames anywhere; what counts is that they come to their end."""
    world = ready(1)
    client = world.client()
    octets = headers(1, POST) + data(1, b"x" * 100) * 2000
    step = 1000
    for at in range(0, len(octets), step):
        client.sends(octets[at : at + step])
        world.advance(1.0)
    client.still_works()


def test_many_that_do_not_end_are_ended_from_the_oldest() -> None:
    world = ready(1)
    bystander = Bystander(world)
    block = frame(HEADERS, 0, 1, bytes(16384)) + frame(CONTINUATION, 0, 1, bytes(16384)) * 6
    attackers = []
    for _ in range(100):
        attackers.append(world.client())
        attackers[-1].sends(block)
        world.advance(0.01)
    assert world.engine.kept()["blocks under way"] <= context.MAX_BLOCKS_UNDER_WAY
    closed = [a.closed for a in attackers]
    assert closed[0]
    assert not closed[-1]
    assert closed == sorted(closed, reverse=True)
    bystander.check()


@pytest.mark.parametrize("said", [b"", PREFACE[:1], PREFACE[:23], PREFACE, PREFACE + settings()[:8]])
def test_a_slow_preface(said: bytes) -> None:
    world = ready(1)
    client = world.raw_client()
    client.sends_octet_by_octet(said)
    world.advance(unfinished.HANDSHAKE_TIMEOUT + 0.1)
    client.is_told(SETTINGS_TIMEOUT)


def test_connections_that_come_and_go_leave_nothing_behind() -> None:
    world = ready(1)
    for at in range(300):
        client = world.client() if at % 2 else world.raw_client()
        client.leaves()
    assert not world.engine.downstreams
    assert not world.engine._context.handshakes
    assert len(world.engine._context._timers) <= 10


def test_each_handshake_has_its_own_time() -> None:
    world = ready(1)
    first = world.raw_client()
    world.advance(4.0)
    second = world.raw_client()
    proper = world.client()
    world.advance(6.1)
    assert first.closed
    assert not second.closed
    world.advance(4.0)
    second.is_told(SETTINGS_TIMEOUT)
    proper.still_works()


def test_blocks_that_each_end_in_time_are_no_fault_though_every_read_ends_inside_one() -> None:
    """Large metadata without a pause: reads end where they end."""
    world = ready(1)
    client = world.client()
    octets = b"".join(split_headers(stream, literal(POST), [40], True) for stream in range(1, 201, 2))
    size = len(octets) // 100
    client.sends(octets[: size - 10])
    for at in range(1, 99):
        world.advance(unfinished.INCOMPLETE_TIMEOUT / 40)
        client.sends(octets[at * size - 10 : (at + 1) * size - 10])
    assert not client.closed
    assert len(world.backend(1).streams_open()) == 98
