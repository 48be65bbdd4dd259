"""Clients that attack with header blocks: CONTINUATION without end, HPACK bombs, tables, blocks that never repeat.

The bounds stand in docs/limits.md. tests/hostile holds the same attacks against the real process.
"""

from __future__ import annotations

import pytest
from bystander import ODD, Bystander, flood
from rawhttp2 import (
    CONTINUATION,
    ENHANCE_YOUR_CALM,
    HEADERS,
    INSERT_LARGE,
    NEWEST,
    OK,
    POST,
    PREFACE,
    TRAILERS,
    Reset,
    frame,
    headers,
    literal,
    rst,
    settings,
    string,
)
from transcript import ready

from sidecar.splice import replay
from sidecar.wire import connection

# 40 octets that stand for 120 KB.
BOMB = literal(POST) + NEWEST * 40


@pytest.mark.parametrize("size", [1, 100, 1000, 16384])
def test_a_flood_of_continuations(size: int) -> None:
    """CVE-2024-27316 and kin: within 256 KB."""
    world = ready(1)
    bystander = Bystander(world)
    client = world.client()
    client.sends(frame(HEADERS, 0, 1, b"\x00"))
    sent = flood(client, [frame(CONTINUATION, 0, 1, bytes(size))] * 20_000, (256 << 10) // size)
    assert sent * size <= connection.MAX_HEADER_BLOCK
    bystander.check()


def test_a_flood_of_empty_continuations() -> None:
    world = ready(1)
    client = world.client()
    client.sends(frame(HEADERS, 0, 1, b""))
    flood(client, [frame(CONTINUATION, 0, 1)] * 200, 100)


def test_an_hpack_bomb() -> None:
    """A few octets that stand for kilobytes: the list has a limit, and the decoder stops at it."""
    world = ready(1)
    bystander = Bystander(world)
    client = world.client()
    client.sends(headers(1, literal(POST) + INSERT_LARGE))
    client.sends(headers(3, literal(POST) + NEWEST * 2000))
    client.is_told(ENHANCE_YOUR_CALM)
    bystander.check()


def test_hpack_bombs_just_below_the_limit_do_not_pile_up() -> None:
    """40 octets that stand for 120 KB, on stream after stream, while the backend does not read."""
    world = ready(1)
    bystander = Bystander(world)
    client = world.client()
    client.sends(headers(1, literal(POST) + INSERT_LARGE))
    bystander.backend.stops_reading()
    peak = 0
    for s in ODD[1:]:
        client.sends(headers(s, BOMB))
        peak = max(peak, world.engine.kept()["blocks"])
        if client.closed:
            break
    client.is_told(ENHANCE_YOUR_CALM)
    assert peak <= replay.MAX_BLOCKS_FROM
    assert len(bystander.backend.unsent) <= connection.MAX_UNREAD_OUTPUT
    bystander.backend.reads()
    bystander.check()
    world.advance(3.0)
    world.nothing_is_left()


def test_hpack_bombs_as_trailers_reset_their_own_stream() -> None:
    world = ready(1)
    bystander = Bystander(world)
    client = world.client()
    client.sends(headers(1, literal(POST) + INSERT_LARGE))
    client.sends(*[headers(s, literal(POST)) for s in ODD[1:200]])
    bystander.backend.stops_reading()
    client.sends(*[headers(s, NEWEST * 40, end=True) for s in ODD[1:200]])
    assert not bystander.backend.closed
    assert len(bystander.backend.unsent) <= connection.MAX_UNREAD_OUTPUT
    bystander.backend.reads()
    assert any(isinstance(e, Reset) and e.code == ENHANCE_YOUR_CALM for e in client.take())
    bystander.check()


def test_what_an_hpack_bomb_pays_for_is_its_own() -> None:
    """The decoder costs time by the octet that comes out: few for each turn."""
    world = ready(1)
    client = world.client()
    client.sends(headers(1, literal(POST) + INSERT_LARGE))
    client.sends(*[headers(s, BOMB) for s in ODD[1:1000]])
    client.is_told(ENHANCE_YOUR_CALM)
    assert len(world.backend(1).streams_open()) == 0


def test_a_table_that_is_filled_and_emptied_without_end() -> None:
    """Size updates and insertions: at most two updates a block, and 4,096 octets of table."""
    world = ready(1)
    bystander = Bystander(world)
    client = world.raw_client()
    client.sends(PREFACE, settings())
    for s in ODD[:300]:
        block = (
            b"\x3f\xe1\x1f"
            + literal(POST)
            + b"".join(b"\x40\x02" + b"%02d" % n + string(b"y" * 90) for n in range(60))
        )
        client.sends(headers(s, block, end=True), rst(s))
    client.still_works()
    bystander.check()


@pytest.mark.parametrize("unique", ["values", "names", "both"])
def test_blocks_that_never_repeat_are_not_remembered_without_end(unique: str) -> None:
    world = ready(1)
    client = world.client()
    memo = world.engine.memo
    backend = world.backend(1)
    block = literal(POST)
    for first in range(0, 6000, 200):
        octets = b""
        for s in ODD[first : first + 200]:
            name = f"x-{s}" if unique != "values" else "x-id"
            value = f"{s}" if unique != "names" else "same"
            octets += headers(s, block + literal(((name, value),)), end=True)
        client.sends(octets)
        backend.sends(*[headers(s, (*OK, *TRAILERS), end=True) for s in backend.streams_open()])
    client.still_works()
    assert memo.blocks() <= 2048
    assert memo.fields() <= 4096
