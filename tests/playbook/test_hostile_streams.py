"""Clients that open streams to harm: rapid reset, MadeYouReset, and more streams than anybody needs.

The bounds stand in docs/limits.md. tests/hostile holds the same attacks against the real process.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from bystander import ODD, Bystander, flood
from rawhttp2 import (
    END_HEADERS,
    ENHANCE_YOUR_CALM,
    HEADERS,
    OK,
    POST,
    PRIORITY,
    PRIORITY_FLAG,
    REFUSED_STREAM,
    TRAILERS,
    Reset,
    data,
    frame,
    headers,
    literal,
    rst,
    window,
)
from transcript import World, ready

from sidecar.splice import context, downstream

# --- streams that are begun and not wanted -------------------------------------------------------------


def test_rapid_reset() -> None:
    """CVE-2023-44487: within 1,100 resets."""
    world = ready(1)
    bystander = Bystander(world)
    client = world.client()
    sent = flood(client, (headers(s, POST) + rst(s) for s in ODD), 1100)
    assert sent >= 900, "a client may change its mind now and then"
    bystander.check()
    world.nothing_is_left()


def test_rapid_reset_with_a_deadline_too_short_to_be_one() -> None:
    world = ready(1)
    client = world.client()
    fields = (*POST, ("grpc-timeout", "1n"))
    flood(client, (headers(s, fields) + rst(s) for s in ODD), 1100)


def test_rapid_reset_of_streams_that_wait_for_an_endpoint() -> None:
    world = World()
    client = world.client()
    flood(client, (headers(s, POST) + rst(s) for s in ODD), 1100)
    world.nothing_is_left()


def test_slow_rapid_reset_is_allowed_at_its_rate() -> None:
    world = ready(1)
    client = world.client()
    for s in ODD[:3000]:
        client.sends(headers(s, POST) + rst(s))
        world.advance(1.02 / downstream.RESETS_PER_SECOND)
    client.still_works()


def malformed(stream: int) -> bytes:
    return headers(stream, (*POST, ("Upper", "x")))


MADE_YOU_RESET: dict[str, Callable[[int], bytes]] = {
    "WINDOW_UPDATE of 0": lambda s: headers(s, POST) + window(s, 0),
    "a window over 2^31-1": lambda s: headers(s, POST) + window(s, 2**31 - 1),
    "DATA after END_STREAM": lambda s: headers(s, POST, end=True) + data(s, b"x"),
    "HEADERS after END_STREAM": lambda s: headers(s, POST, end=True) + headers(s, TRAILERS, end=True),
    "PRIORITY of 4 octets": lambda s: headers(s, POST) + frame(PRIORITY, 0, s, bytes(4)),
    "PRIORITY on itself": lambda s: headers(s, POST) + frame(PRIORITY, 0, s, struct.pack(">IB", s, 1)),
    "HEADERS on itself": lambda s: frame(
        HEADERS, END_HEADERS | PRIORITY_FLAG, s, struct.pack(">IB", s, 1) + literal(POST)
    ),
    "a malformed request": malformed,
    "malformed trailers": lambda s: headers(s, POST) + headers(s, (("Upper", "x"),), end=True),
    "trailers without END_STREAM": lambda s: headers(s, POST) + headers(s, TRAILERS),
    "content-length that does not add up": lambda s: (
        headers(s, (*POST, ("content-length", "1"))) + data(s, b"xx")
    ),
    "DATA beyond the window": lambda s: headers(s, POST) + data(s, bytes(65536)),
    "HEADERS after RST_STREAM": lambda s: headers(s, POST) + rst(s) + headers(s, TRAILERS, end=True),
}


@pytest.mark.parametrize("way", MADE_YOU_RESET)
def test_made_you_reset(way: str) -> None:
    """CVE-2025-8671: within 200, whatever rule is broken to make us reset."""
    world = ready(1)
    bystander = Bystander(world)
    client = world.client()
    # Sent in one go: credit that is given back between turns would make some of these legal.
    flood(client, (MADE_YOU_RESET[way](s) for s in ODD), 200)
    bystander.check()
    world.nothing_is_left()


def test_made_you_reset_between_proper_calls() -> None:
    """Proper calls do not earn faults."""
    world = ready(1)
    client = world.client()
    bad = 0
    while bad < 700:
        stream = client.calls()
        world.backend(1).answers(max(world.backend(1).streams_open()))
        bad = client.next_id
        client.next_id += 2
        client.sends(malformed(bad))
        if client.closed:
            break
        assert client.outcome(stream) == ("0", "")
    assert bad < 600
    client.is_told(ENHANCE_YOUR_CALM)


# --- many ----------------------------------------------------------------------------------------------


def test_too_many_streams_of_one_connection() -> None:
    world = ready(1)
    bystander = Bystander(world)
    client = world.client()
    client.sends(*[headers(s, POST) for s in ODD[: downstream.MAX_STREAMS]])
    client.receives_nothing()
    more = ODD[downstream.MAX_STREAMS : downstream.MAX_STREAMS + 300]
    flood(client, (headers(s, POST) for s in more), 200)
    refused = [e for e in client.inbox if isinstance(e, Reset)]
    assert all(e.code == REFUSED_STREAM for e in refused)
    bystander.check()
    world.nothing_is_left()


def test_too_many_streams_in_all() -> None:
    world = ready(1)
    bystander = Bystander(world)
    clients = [world.client() for _ in range(7)]
    block = literal(POST)
    everything = b"".join(headers(s, block) for s in ODD[: downstream.MAX_STREAMS])
    for client in clients:
        client.sends(everything)
    assert world.engine.kept()["streams"] == context.MAX_STREAMS_IN_ALL
    refused = [e for e in clients[-1].take() if isinstance(e, Reset)]
    assert refused
    assert {e.code for e in refused} == {REFUSED_STREAM}
    assert not clients[-1].closed, "it is not this client's doing alone"
    clients[0].leaves()
    bystander.backend.take()
    clients[-1].sends(headers(ODD[6000], POST))
    clients[-1].receives_nothing()
    bystander.check()


def test_the_largest_header_blocks_of_many_streams() -> None:
    """64 KiB of metadata on each of many unanswered calls: refused from 2.5 MiB on, and room again with each answer."""
    world = ready(1)
    client = world.client()
    large = (*POST, *[(f"large-{n}", "x" * 8000) for n in range(8)])
    for s in ODD[:35]:
        client.sends(headers(s, large, end=True))
    client.receives_nothing()
    for s in ODD[35:70]:
        client.sends(headers(s, large, end=True))
    refused = [e for e in client.take() if isinstance(e, Reset)]
    assert refused
    assert all(e.code == REFUSED_STREAM for e in refused)
    backend = world.backend(1)
    for n in backend.streams_open()[:20]:
        backend.sends(headers(n, OK))
    client.take()
    for s in ODD[70:80]:
        client.sends(headers(s, large, end=True))
    client.receives_nothing()
