"""Clients that attack: each is cut off within its bound, and another client on the same backend never notices.

The bounds stand in docs/limits.md. tests/hostile holds the same attacks against the real process.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import pytest
from rawhttp2 import (
    CONTINUATION,
    END_HEADERS,
    ENHANCE_YOUR_CALM,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    OK,
    POST,
    PREFACE,
    PRIORITY,
    PRIORITY_FLAG,
    REFUSED_STREAM,
    SETTINGS,
    SETTINGS_TIMEOUT,
    TRAILERS,
    Data,
    Reset,
    data,
    frame,
    goaway,
    headers,
    literal,
    ping,
    response,
    rst,
    settings,
    string,
    window,
)
from transcript import BackendConnection, Client, World, ready

from sidecar.splice import context, downstream, engine, peer, stream
from sidecar.wire import connection

ODD = range(1, 1 << 20, 2)
# An entry of 3 KB in the peer's table, and a block of a few octets that stands for 40 of it.
INSERT = b"\x40\x01a" + string(b"x" * 3000)
BOMB = literal(POST) + b"\xbe" * 40


class Bystander:
    """Another client of the same backend, with one stream open from before the attack to after it."""

    def __init__(self, world: World) -> None:
        self.client = world.client()
        self.stream = self.client.opens()
        self.backend = world.backend(1)
        self.backend.sends(window(0, 1 << 30))  # it reads what it gets
        self.number = max(self.backend.streams_open())
        self.client.take()

    def check(self) -> None:
        self.client.sends(data(self.stream, b"still here", end=True))
        assert not self.backend.closed
        assert Data(self.number, b"still here", True) in self.backend.take()
        self.backend.answers(self.number)
        self.client.receives(
            response(self.stream, OK), Data(self.stream, b"response"), response(self.stream, TRAILERS, True)
        )
        late = self.client.calls()
        self.backend.answers(max(self.backend.streams_open()))
        assert self.client.outcome(late) == ("0", "")


def flood(
    client: Client, frames: Iterator[bytes] | list[bytes], most: int, code: int = ENHANCE_YOUR_CALM
) -> int:
    """Send one after the other; the client is to be told after at most `most`. How many it took."""
    sent = 0
    for each in frames:
        client.sends(each)
        if client.closed:
            break
        sent += 1
        assert sent <= most, "not cut off"
    client.is_told(code)
    return sent


# --- streams that are begun and not wanted ---------------------------------------------------------------


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


# --- frames that move nothing ----------------------------------------------------------------------------


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
    sent = flood(client, [data(1, b"x") + NUISANCES[kind]] * 1200, connection.SETTINGS_BUDGET + 10)
    assert sent >= 40


def test_one_frame_of_settings_is_one_change_whatever_it_says_in_between() -> None:
    """2,730 changes in one frame, with 5,000 streams open, must not be 13 million looks at a stream."""
    world = ready(1)
    client = world.client()
    client.calls()
    backend = world.backend(1)
    backend.sends(headers(1, OK), data(1, bytes(65535)))
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
    flood(client, [ping() * 100] * 1000, connection.NUISANCE_MOST // 100 + 11)


# --- header blocks ---------------------------------------------------------------------------------------


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
    client.sends(headers(1, literal(POST) + INSERT))
    client.sends(headers(3, literal(POST) + b"\xbe" * 2000))
    client.is_told(ENHANCE_YOUR_CALM)
    bystander.check()


def test_hpack_bombs_just_below_the_limit_do_not_pile_up() -> None:
    """40 octets that stand for 120 KB, on stream after stream, while the backend does not read."""
    world = ready(1)
    bystander = Bystander(world)
    client = world.client()
    client.sends(headers(1, literal(POST) + INSERT))
    bystander.backend.stops_reading()
    peak = 0
    for s in ODD[1:]:
        client.sends(headers(s, BOMB))
        peak = max(peak, world.engine.kept()["blocks"])
        if client.closed:
            break
    client.is_told(ENHANCE_YOUR_CALM)
    assert peak <= peer.MAX_BLOCKS_FROM
    assert len(bystander.backend.unsent) <= connection.MAX_UNREAD_OUTPUT
    bystander.backend.reads()
    bystander.check()
    world.advance(3.0)
    world.nothing_is_left()


def test_hpack_bombs_as_trailers_reset_their_own_stream() -> None:
    world = ready(1)
    bystander = Bystander(world)
    client = world.client()
    client.sends(headers(1, literal(POST) + INSERT))
    client.sends(*[headers(s, literal(POST)) for s in ODD[1:200]])
    bystander.backend.stops_reading()
    client.sends(*[headers(s, b"\xbe" * 40, end=True) for s in ODD[1:200]])
    assert not bystander.backend.closed
    assert len(bystander.backend.unsent) <= connection.MAX_UNREAD_OUTPUT
    bystander.backend.reads()
    assert any(isinstance(e, Reset) and e.code == ENHANCE_YOUR_CALM for e in client.take())
    bystander.check()


def test_what_an_hpack_bomb_pays_for_is_its_own() -> None:
    """The decoder costs time by the octet that comes out: few for each turn."""
    world = ready(1)
    client = world.client()
    client.sends(headers(1, literal(POST) + INSERT))
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


# --- slow ------------------------------------------------------------------------------------------------


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
    world.advance(engine.INCOMPLETE_TIMEOUT - 0.1)
    assert not client.closed
    world.advance(engine.INCOMPLETE_TIMEOUT)
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
    assert at <= 2 * engine.INCOMPLETE_TIMEOUT
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
    world.advance(engine.HANDSHAKE_TIMEOUT + 0.1)
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


def test_a_reader_that_stops_is_held_for_up_to_its_bound() -> None:
    """Its streams' first windows and what was lent beyond; nothing of it slows the bystander."""
    world = ready(1)
    bystander = Bystander(world)
    client = world.client({INITIAL_WINDOW_SIZE: 10 << 20})
    client.sends(window(0, 1 << 30), *[headers(s, POST, end=True) for s in ODD[:40]])
    backend = world.backend(1)
    numbers = [n for n in backend.streams_open() if n != bystander.number]
    client.stops_reading()
    backend.sends(*[headers(n, OK) for n in numbers])
    send_all_that_is_granted(backend, numbers)
    assert world.engine.held() <= 40 * 65535 + peer.MAX_LENT_FOR
    assert len(client.unsent) <= peer.OUTPUT_HIGH + 65536
    bystander.check()
    client.leaves()
    world.nothing_is_left()


def test_many_readers_that_stop_are_held_for_up_to_one_bound() -> None:
    """90 connections that grant 10 MiB each and read nothing: a first window each, and one sum beyond it for all."""
    world = ready(1)
    bystander = Bystander(world)
    clients = []
    for _ in range(90):
        client = world.client({INITIAL_WINDOW_SIZE: 10 << 20})
        client.sends(window(0, 10 << 20), headers(1, POST, end=True))
        client.stops_reading()
        clients.append(client)
    backend = world.backend(1)
    numbers = [n for n in backend.streams_open() if n != bystander.number]
    assert len(numbers) == 90
    backend.sends(*[headers(n, OK) for n in numbers])
    send_all_that_is_granted(backend, numbers)
    assert world.engine.kept()["lent"] <= context.MAX_LENT_IN_ALL
    assert world.engine.held() <= 90 * 65535 + context.MAX_LENT_IN_ALL
    assert all(len(client.unsent) <= peer.UNSENT_HIGH + 65536 for client in clients)
    bystander.check()
    for client in clients:
        client.leaves()
    world.nothing_is_left()


def send_all_that_is_granted(backend: BackendConnection, numbers: list[int]) -> None:
    credit = dict.fromkeys(numbers, 65535)
    moved = True
    while moved:
        moved = False
        for number in numbers:
            credit[number] += backend.granted(number)
            size = min(credit[number], 16384)
            if size > 0 and not backend.closed:
                backend.sends(data(number, bytes(size)))
                credit[number] -= size
                moved = True
        backend.housekeeping.clear()


def test_a_reader_with_more_stalled_than_its_bound_is_given_up() -> None:
    world = ready(1)
    bystander = Bystander(world)
    client = world.client({INITIAL_WINDOW_SIZE: 0})
    client.sends(*[headers(s, POST, end=True) for s in ODD[:600]])
    backend = world.backend(1)
    numbers = [n for n in backend.streams_open() if n != bystander.number]
    for number in numbers:
        backend.sends(headers(number, OK), data(number, bytes(65535)))
        if client.closed:
            break
    assert client.closed
    assert world.engine.held() == 0
    backend.take()
    bystander.check()


def test_stalled_readers_on_many_connections_are_bounded_in_all() -> None:
    """The heaviest goes first."""
    world = ready(1)
    bystander = Bystander(world)
    backend = world.backend(1)
    clients = []
    for size in (400, 300, 250, 200, 150):
        client = world.client({INITIAL_WINDOW_SIZE: 0})
        clients.append(client)
        before = set(backend.streams_open())
        client.sends(*[headers(s, POST, end=True) for s in ODD[:size]])
        for number in set(backend.streams_open()) - before:
            backend.sends(headers(number, OK), data(number, bytes(65535)))
            assert world.engine.kept()["held"] <= context.MAX_HELD_IN_ALL
    assert [c.closed for c in clients] == [True, False, False, False, False]
    backend.take()
    bystander.check()


def test_uploads_that_nobody_reads_close_the_clients_own_window_only() -> None:
    """500 uploads to a backend that takes none of them: the client's connection window is where it ends."""
    world = ready(1)
    bystander = Bystander(world)
    backend = world.backend(1)
    backend.sends(settings({INITIAL_WINDOW_SIZE: 0}))
    client = world.client()
    client.sends(*[headers(s, POST) for s in ODD[:500]])
    connection_window = 65535 + client.connection_granted()
    client.housekeeping.clear()
    for s in ODD[:500]:
        for _ in range(4):
            if connection_window >= 16383:
                client.sends(data(s, bytes(16383)))
                connection_window += client.connection_granted() - 16383
                client.housekeeping.clear()
    assert world.engine.held() <= connection.CONNECTION_WINDOW
    assert not client.closed
    assert not backend.closed
    assert world.engine.held() > connection.CONNECTION_WINDOW * 3 // 4 - 65536
    client.leaves()
    assert world.engine.held() == 0
    backend.take()
    backend.sends(settings({INITIAL_WINDOW_SIZE: 65535}))
    bystander.check()


def test_tiny_frames_that_are_held_are_joined() -> None:
    """65,535 frames of one octet must not cost sixty times what they carry."""
    world = ready(1, settings={INITIAL_WINDOW_SIZE: 0})
    client = world.client()
    client.sends(headers(1, POST))
    client.sends(data(1, b"x") * 20_000)
    half = client.peer.streams.find(1).request
    assert half.held_size == 20_000
    assert len(half.held) <= 20_000 // (stream.JOIN_BELOW // 2) + 1
    backend = world.backend(1)
    backend.take()
    backend.sends(window(1, 30_000))
    body, _ = backend.receives_body(1)
    assert body == b"x" * 20_000


def test_tiny_frames_that_are_copied_are_joined() -> None:
    world = ready(1)
    client = world.client()
    client.sends(headers(1, POST))
    client.sends(data(1, b"x") * 20_000)
    half = client.peer.streams.find(1).request
    assert half.replay_size == 20_000
    assert len(half.replay) <= 20_000 // (stream.JOIN_BELOW // 2) + 1


def test_copies_of_bodies_are_bounded_and_what_has_none_still_works() -> None:
    world = ready(1, settings={INITIAL_WINDOW_SIZE: 1 << 20})
    client = world.client()
    backend = world.backend(1)
    backend.sends(window(0, 1 << 30))
    for s in ODD[:200]:
        client.sends(headers(s, POST), data(s, bytes(40_000)))
    kept = world.engine.kept()["replay"]
    assert peer.MAX_REPLAY_FROM - 65536 <= kept <= peer.MAX_REPLAY_FROM
    client.sends(data(399, b"", end=True))
    backend.answers(399)
    assert client.outcome(399) == ("0", "")
    client.leaves()
    assert world.engine.kept()["replay"] == 0


def test_window_updates_of_one_octet_cost_what_they_move() -> None:
    """Data dribble (CVE-2019-9511): many streams wait, and each octet of window wakes one of them, not all."""
    world = ready(1)
    client = world.client({INITIAL_WINDOW_SIZE: 1 << 20})
    streams = [client.calls() for _ in range(400)]
    backend = world.backend(1)
    backend.sends(*[headers(n, OK) for n in backend.streams_open()])
    backend.sends(*[data(n, bytes(1000)) for n in backend.streams_open()])
    client.take()
    assert len(streams) == 400
    order = list(client.peer._waiting)
    assert len(order) >= 300
    for at in range(50):
        client.sends(window(0, 1))
        (event,) = client.take()
        assert isinstance(event, Data)
        assert event.payload == b"\0"
        assert event.stream == order[at].down_id, "in turn"


# --- many ------------------------------------------------------------------------------------------------


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
    """64 KiB of metadata on each of many unanswered calls: refused from 3 MiB on, and room again with each answer."""
    world = ready(1)
    client = world.client()
    large = (*POST, *[(f"large-{n}", "x" * 8000) for n in range(8)])
    for s in ODD[:45]:
        client.sends(headers(s, large, end=True))
    client.receives_nothing()
    for s in ODD[45:70]:
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


def test_a_client_that_speaks_and_does_not_listen() -> None:
    """Acknowledgements that nobody reads end where they cost more than a few megabytes."""
    world = ready(1)
    bystander = Bystander(world)
    client = world.client()
    client.opens()
    client.stops_reading()
    acknowledged = (data(1, b"x") + ping() * 3) * 1000
    for _ in range(200):
        client.sends(acknowledged)
        if client.closed:
            break
    assert client.closed
    assert len(client.unsent) <= connection.MAX_UNREAD_OUTPUT + 65536
    bystander.check()
