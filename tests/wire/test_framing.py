"""Header blocks in frames: CONTINUATION at every split, padding and priority, blocks at the limits."""

from __future__ import annotations

import itertools
import random

import pytest
from hpackwriter import INDEXING, huffman, indexed, literal, size_update
from rawhttp2 import (
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    HEADERS,
    OK,
    PADDED,
    POST,
    PREFACE,
    PRIORITY_FLAG,
    TRAILERS,
    Data,
    Headers,
    data,
    frame,
    headers,
    request,
    response,
    settings,
    split_headers,
)
from rawhttp2 import literal as plain
from transcript import Client, World, ready

from sidecar.wire.connection import MAX_BLOCK_FRAMES, MAX_HEADER_BLOCK
from sidecar.wire.memo import MAX_BLOCK_REMEMBERED
from sidecar.wire.table import MAX_HEADER_LIST

CUSTOM = ("x-custom", "value")
# Blocks of one call on one connection, each with the fields it stands for: plain, with state, with references.
BLOCKS = (
    (plain(POST), POST),
    (plain(POST) + literal(b"x-custom", b"value", INDEXING, coded=True), (*POST, CUSTOM)),
    (size_update(4096) + plain(POST) + indexed(62), (*POST, CUSTOM)),
    (
        size_update(100) + size_update(0) + plain(POST) + literal(b"x-custom", b"value", INDEXING),
        (*POST, CUSTOM),
    ),
    (plain(POST) + literal(b"x-custom", b"value", coded=True), (*POST, CUSTOM)),
)


def test_a_block_cut_once_at_every_place() -> None:
    world = ready(1)
    longest = max(len(block) for block, _ in BLOCKS)
    for cut in range(longest + 1):
        client = world.client()
        for at, (block, fields) in enumerate(BLOCKS):
            stream = 2 * at + 1
            client.sends(split_headers(stream, block, [min(cut, len(block))], end=True))
            (event,) = world.backend(1).take()
            assert isinstance(event, Headers)
            assert (event.fields, event.end) == (fields, True)
        client.still_works()


def test_a_block_cut_twice_at_every_pair_of_places() -> None:
    world = ready(1)
    short = literal(4, b"/p", INDEXING) + indexed(3) + indexed(6) + literal(b"te", b"trailers")
    fields = ((":path", "/p"), (":method", "POST"), (":scheme", "http"), ("te", "trailers"))
    client = world.client()
    for stream, cuts in enumerate(itertools.combinations_with_replacement(range(len(short) + 1), 2)):
        client.sends(split_headers(2 * stream + 1, short, cuts, end=True))
        (event,) = world.backend(1).take()
        assert isinstance(event, Headers)
        assert event.fields == fields
    client.still_works()


@pytest.mark.parametrize("side", ["client", "backend"])
@pytest.mark.parametrize("seed", range(5))
def test_frames_and_segments_cut_anywhere(seed: int, side: str) -> None:
    """Blocks cut into CONTINUATIONs at random, and the octets of it all into reads at random."""
    rng = random.Random(seed)
    world = ready(1)
    client = world.raw_client()
    client.sends(PREFACE, settings())
    for at, (block, fields) in enumerate(BLOCKS):
        stream = 2 * at + 1
        cuts = sorted(rng.choices(range(len(block) + 1), k=rng.randrange(6)))
        if side == "client":
            in_pieces(client, split_headers(stream, block, cuts) + data(stream, b"body", end=True), rng)
            world.backend(1).receives(request(stream, fields), Data(stream, b"body", True))
        else:
            client.opens(end=True)
            backend = world.backend(1)
            block, fields = block.replace(plain(POST), plain(OK)), tuple(OK) + fields[len(POST) :]
            cuts = sorted(rng.choices(range(len(block) + 1), k=rng.randrange(6)))
            in_pieces(backend, split_headers(stream, block, cuts) + headers(stream, TRAILERS, end=True), rng)
            client.receives(response(stream, fields), response(stream, TRAILERS, True))


def in_pieces(party: Client, octets: bytes, rng: random.Random) -> None:  # or a backend's connection
    while octets:
        size = rng.randrange(1, 12)
        party.sends(octets[:size])
        octets = octets[size:]


# --- padding and priority ----------------------------------------------------------------------------


@pytest.mark.parametrize("pad", [None, 0, 1, 100, 255])
@pytest.mark.parametrize("priority", [False, True])
@pytest.mark.parametrize("cut", [False, True])
def test_padding_and_priority_are_stripped(pad: int | None, priority: bool, cut: bool) -> None:
    """Point 6, both ways. The dependency names a stream that does not exist, exclusively: all of it is ignored."""

    def odd(stream: int, block: bytes, end: bool) -> bytes:
        flags = (END_STREAM if end else 0) | (PRIORITY_FLAG if priority else 0) | (0 if cut else END_HEADERS)
        first = block[: len(block) // 2] if cut else block
        payload = (b"\x80\x00\x00\x63\xff" if priority else b"") + first
        if pad is not None:
            flags |= PADDED
            payload = bytes([pad]) + payload + bytes(pad)
        rest = frame(9, END_HEADERS, stream, block[len(first) :]) if cut else b""
        return frame(HEADERS, flags, stream, payload) + rest

    world = ready(1)
    client = world.client()
    for stream in (1, 3):
        client.sends(odd(stream, plain(POST), False), odd(stream, plain(TRAILERS), True))
        backend = world.backend(1)
        backend.receives(request(stream), request(stream, TRAILERS, True))
        backend.sends(odd(stream, plain(OK), False), odd(stream, plain(TRAILERS), True))
        client.receives(response(stream, OK), response(stream, TRAILERS, True))
    world.nothing_is_left()


# --- limits ------------------------------------------------------------------------------------------


def block_of(octets: int) -> bytes:
    """A request's block of so many octets, of a list well under its limit: Huffman codes of rare octets are long."""
    start = plain(POST) + literal(b"x", b"\xff" * 36_000, coded=True)
    filler = octets - len(start) - 7
    block = start + literal(b"yy", b"v" * filler)
    assert len(block) == octets, len(block)
    assert 36_000 + filler < MAX_HEADER_LIST
    return block


def limits() -> tuple[World, Client]:
    world = ready(1)
    return world, world.client()


@pytest.mark.parametrize("prefix", [b"", size_update(0)], ids=["table", "no state"])
def test_a_block_at_the_limit_passes_and_one_beyond_ends_the_connection(prefix: bytes) -> None:
    world, client = limits()
    assert len(huffman(b"\xff" * 36_000)) > 110_000
    whole = prefix + block_of(int(MAX_HEADER_BLOCK) - len(prefix))
    client.sends(split_headers(1, whole, list(range(16384, len(whole), 16384)), True))
    (event,) = world.backend(1).take()
    assert isinstance(event, Headers)
    assert dict(event.fields)["x"] == "\xff" * 36_000
    beyond = block_of(int(MAX_HEADER_BLOCK) + 1)
    client.sends(split_headers(3, beyond, list(range(16384, len(beyond), 16384)), True))
    client.is_told(ENHANCE_YOUR_CALM)


def test_a_block_in_as_many_frames_as_may_be_passes_and_in_one_more_does_not() -> None:
    world, client = limits()
    block, most = plain(POST), int(MAX_BLOCK_FRAMES)
    client.sends(split_headers(1, block, [0] * (most - 1), True))  # all but the last are empty
    world.backend(1).receives(request(1, end=True))
    client.sends(split_headers(3, block, [*range(1, most)], True))
    world.backend(1).receives(request(3, end=True))
    client.sends(split_headers(5, block, [0] * most, True))
    client.is_told(ENHANCE_YOUR_CALM)


@pytest.mark.parametrize("prefix", [b"", size_update(0)], ids=["table", "no state"])
def test_a_list_at_the_limit_passes_and_one_beyond_ends_the_connection(prefix: bytes) -> None:
    world, client = limits()
    size = sum(len(name) + len(value) + 32 for name, value in POST)
    name = "m" * 100
    value = "v" * (MAX_HEADER_LIST - size - 32 - len(name))
    client.sends(headers(1, prefix + plain((*POST, (name, value))), end=True))
    world.backend(1).receives(request(1, (*POST, (name, value)), True))
    client.sends(headers(3, plain((*POST, (name, value + "v"))), end=True))
    client.is_told(ENHANCE_YOUR_CALM)


@pytest.mark.parametrize(
    "size", [MAX_BLOCK_REMEMBERED - 1, MAX_BLOCK_REMEMBERED, MAX_BLOCK_REMEMBERED + 1, 16384, 16385]
)
def test_sizes_where_something_changes(size: int) -> None:
    world, client = limits()
    filler = size - len(plain((*POST, ("x", "")))) - (2 if size > 255 else 0)
    block = plain((*POST, ("x", "v" * filler)))
    block = block if len(block) == size else plain((*POST, ("x", "v" * (filler + size - len(block)))))
    assert len(block) == size
    for stream in (1, 3, 5):
        client.sends(headers(stream, block, end=True))
        (event,) = world.backend(1).take()
        assert isinstance(event, Headers)
        assert event.fields[:-1] == POST
        assert event.fields[-1][0] == "x"
        assert world.backend(1).reader.blocks[-1].removeprefix(b"\x20") == block
