"""Clients that send frames which move nothing, again and again: each kind is cut off within its bound.

The bounds stand in docs/limits.md. tests/hostile holds the same attacks against the real process.
"""

from __future__ import annotations

import struct

import pytest
from bystander import Bystander, flood
from credit_calls import send_as_granted
from rawhttp2 import (
    INITIAL_WINDOW_SIZE,
    OK,
    PRIORITY,
    SETTINGS,
    data,
    frame,
    goaway,
    headers,
    ping,
    rst,
    settings,
    window,
)
from transcript import ready

from sidecar.wire import allowance

NUISANCES = {
    "PING": ping(),
    "answers to no PING": ping(ack=True),
    "SETTINGS": settings(),
    "acknowledgements": settings(ack=True),
    "SETTINGS that change": settings({INITIAL_WINDOW_SIZE: 1000}) + settings({INITIAL_WINDOW_SIZE: 65535}),
    "PRIORITY": frame(PRIORITY, 0, 1, bytes(5)),
    "PRIORITY on idle streams": frame(PRIORITY, 0, 4001, bytes(5)),
    "WINDOW_UPDATE of a stream": window(1, 1),
    "WINDOW_UPDATE of the connection": window(0, 1),
    "large WINDOW_UPDATE": window(1, 100_000),
    "WINDOW_UPDATE of a closed stream": window(3, 1),
    "empty DATA": data(1, b""),
    "DATA of padding only": data(1, b"", pad=20),
    "unknown frames": frame(0x77, 0, 0, b"x"),
    "large unknown frames": frame(0x77, 0, 0, bytes(16384)),
    "GOAWAY": goaway(0),
}


@pytest.mark.parametrize("kind", NUISANCES)
def test_a_flood_of_frames_that_move_nothing(kind: str) -> None:
    world = ready(1)
    bystander = Bystander(world)
    client = world.client()
    client.opens()
    client.opens()
    client.sends(rst(3))
    flood(client, [NUISANCES[kind]] * 1200, 1100)
    bystander.check()
    world.nothing_is_left()


@pytest.mark.parametrize("kind", ["SETTINGS", "SETTINGS that change", "GOAWAY"])
def test_what_is_looked_at_with_every_stream_is_earned_by_nothing(kind: str) -> None:
    world = ready(1)
    client = world.client()
    client.opens()
    sent = flood(client, [data(1, b"x") + NUISANCES[kind]] * 1200, allowance.SETTINGS_BUDGET + 10)
    assert sent >= 40


def test_one_frame_of_settings_is_one_change_whatever_it_says_in_between() -> None:
    """2,730 changes in one frame, with 5,000 streams open, must not be 13 million looks at a stream."""
    world = ready(1)
    client = world.client()
    client.calls()
    backend = world.backend(1)
    backend.sends(headers(1, OK))
    send_as_granted(backend, 1, 65535)
    values = [100_000, 65_535] * 1365
    client.sends(frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", INITIAL_WINDOW_SIZE, v) for v in values)))
    assert backend.granted(1) == 0, "a change in between was acted on"
    client.sends(settings({INITIAL_WINDOW_SIZE: 100_000}))
    assert backend.granted(1) == 100_000 - 65_535


def test_nuisances_are_earned_by_what_is_useful_but_not_without_end() -> None:
    """After any number of proper calls a flood is cut off all the same."""
    world = ready(1)
    client = world.client()
    for _ in range(3000):
        client.calls()
        world.backend(1).answers(max(world.backend(1).streams_open()))
    client.take()
    flood(client, [ping() * 100] * 1000, allowance.NUISANCE_MOST // 100 + 11)
