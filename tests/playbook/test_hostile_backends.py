"""Backends that attack: each affects its own streams only, never the rest of a client's connection.

The bounds stand in docs/limits.md. tests/hostile holds the same attacks against the real process.
"""

from __future__ import annotations

import struct

import pytest
from bystander import flood
from rawhttp2 import (
    CONTINUATION,
    ENHANCE_YOUR_CALM,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    INSERT_LARGE,
    MAX_CONCURRENT_STREAMS,
    NEWEST,
    OK,
    POST,
    PRIORITY,
    REFUSED_STREAM,
    TRAILERS,
    Data,
    Headers,
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
    window,
)
from transcript import Client, ready

from sidecar.splice import context, peer, unfinished, upstream
from sidecar.wire import allowance, connection

UNAVAILABLE = "14"


class Scene:
    """A client with one stream on each of two backends: `hostile` and `honest`."""

    def __init__(self) -> None:
        self.world = ready(1, 2)
        self.client = self.world.client()
        self.client.sends(window(0, 1 << 30))
        for stream in (1, 3):
            self.client.sends(headers(stream, POST, end=True))
        self.hostile, self.honest = self.world.backend(1), self.world.backend(2)
        self.hostile.take()
        ((head,),) = [self.honest.take()]
        assert isinstance(head, Headers)
        on_first = self.hostile.peer.streams.find(1).down_id
        self.victim, self.other = on_first, 4 - on_first

    def check(self) -> None:
        """The client's stream on the honest backend, and its connection, are as they were."""
        assert not self.client.closed
        self.honest.answers(1)
        found = [e for e in self.client.take() if getattr(e, "stream", 0) == self.other]
        assert found == [
            response(self.other, OK),
            Data(self.other, b"response"),
            response(self.other, TRAILERS, True),
        ]


NUISANCES = {
    "PING": ping(),
    "answers to no PING": ping(ack=True),
    "SETTINGS": settings(),
    "SETTINGS that open and close windows": settings({INITIAL_WINDOW_SIZE: 0}),
    "SETTINGS that open and close the backend": settings({MAX_CONCURRENT_STREAMS: 0}),
    "acknowledgements": settings(ack=True),
    "PRIORITY": frame(PRIORITY, 0, 1, bytes(5)),
    "WINDOW_UPDATE of a stream": window(1, 1),
    "WINDOW_UPDATE of the connection": window(0, 1),
    "empty DATA": data(1, b""),
    "DATA of padding only": data(1, b"", pad=9),
    "unknown frames": frame(0x77, 0, 1, bytes(1000)),
    "GOAWAY": goaway(1),
}


@pytest.mark.parametrize("kind", NUISANCES)
def test_a_flood_of_frames_that_move_nothing(kind: str) -> None:
    scene = Scene()
    scene.hostile.sends(headers(1, OK))
    scene.client.take()
    flood(scene.hostile, [NUISANCES[kind]] * 1200, 1100)
    status, message = scene.client.outcome(scene.victim)
    assert status == UNAVAILABLE
    assert "10.0.0.1:50051" in message
    scene.check()
    scene.world.nothing_is_left()


def test_goaway_without_end_is_earned_by_nothing() -> None:
    """Each is a walk over all streams."""
    scene = Scene()
    scene.hostile.sends(headers(1, OK))
    flood(scene.hostile, [data(1, b"x") + goaway(1)] * 200, allowance.SETTINGS_BUDGET + 10)
    scene.check()


def test_resets_without_end() -> None:
    """It refuses whatever it is sent: each call goes to the other one then, and costs two tries."""
    world = ready(1, 2)
    client = world.client()
    hostile, honest = world.backend(1), world.backend(2)
    done = 0
    for _ in range(12_000):
        stream = client.opens(end=True)
        hostile.sends(*[rst(s, REFUSED_STREAM) for s in hostile.streams_open()])
        for s in honest.streams_open():
            honest.sends(headers(s, (*OK, *TRAILERS), end=True))
        assert client.outcome(stream) == ("0", "")
        client.take()
        done += 1
    hostile.still_works()
    assert done == 12_000
    assert world.engine.totals.retried <= 12_000


def test_resets_of_what_is_over() -> None:
    """A reset for each of many streams that have ended already: nothing is left to be done for them."""
    scene = Scene()
    scene.hostile.sends(headers(1, (*OK, *TRAILERS), end=True))
    scene.client.take()
    scene.hostile.sends(rst(1) * 5000)
    scene.hostile.still_works()
    scene.check()


@pytest.mark.parametrize("size", [0, 1, 16384])
def test_a_flood_of_continuations(size: int) -> None:
    scene = Scene()
    scene.hostile.sends(frame(HEADERS, 0, 1, b""))
    most = (256 << 10) // size if size > 100 else 100
    flood(scene.hostile, [frame(CONTINUATION, 0, 1, bytes(size))] * (most + 1), most)
    assert scene.client.outcome(scene.victim)[0] == UNAVAILABLE
    scene.check()


def test_a_header_bomb() -> None:
    scene = Scene()
    scene.hostile.sends(headers(1, literal(OK) + INSERT_LARGE))
    scene.hostile.sends(headers(1, NEWEST * 2000, end=True))
    scene.hostile.is_told(ENHANCE_YOUR_CALM)
    assert scene.client.outcome(scene.victim)[0] == UNAVAILABLE
    scene.check()


def test_header_bombs_just_below_the_limit_on_every_stream() -> None:
    """Each call gets at most one answer and its trailers; what the client does not read in time is reset, not its
    connection."""
    scene = Scene()
    world, client = scene.world, scene.client
    world.endpoints(1)
    streams = range(5, 605, 2)
    client.sends(*[headers(s, POST, end=True) for s in streams])
    numbers = scene.hostile.streams_open()
    client.stops_reading()
    scene.hostile.sends(headers(numbers[0], literal(OK) + INSERT_LARGE))
    for n in numbers[1:]:
        scene.hostile.sends(headers(n, literal(OK) + NEWEST * 40), headers(n, NEWEST * 40, end=True))
    assert not client.closed
    assert len(client.unsent) <= peer.MAX_BLOCKS_UNREAD + 2 * connection.MAX_HEADER_BLOCK + 13 * len(numbers)
    client.reads()
    found = client.take()
    whole = {e.stream for e in found if isinstance(e, Headers) and e.end}
    reset = {e.stream for e in found if isinstance(e, Reset) and e.code == ENHANCE_YOUR_CALM}
    assert len(whole) >= 3
    assert len(whole | reset) >= len(numbers) - 1
    client.inbox = []
    scene.check()


def test_trailers_held_behind_data_are_counted() -> None:
    scene = Scene()
    world = scene.world
    world.endpoints(1)
    client = scene.client
    client.sends(settings({INITIAL_WINDOW_SIZE: 0}))
    client.sends(*[headers(s, POST, end=True) for s in range(5, 805, 2)])
    numbers = scene.hostile.streams_open()
    scene.hostile.sends(headers(numbers[0], literal(OK) + INSERT_LARGE))
    for n in numbers[1:]:
        scene.hostile.sends(headers(n, OK), data(n, b"x"), headers(n, NEWEST * 40, end=True))
        assert world.engine.kept()["held"] <= context.MAX_HELD_IN_ALL
        if client.closed:
            break
    assert client.closed, "a reader that lets 32 MiB pile up is given up"
    assert world.engine.held() == 0


def test_informational_responses_without_end() -> None:
    scene = Scene()
    hint = headers(1, ((":status", "103"), ("link", "x")))
    scene.hostile.sends(hint * 1000)
    assert not scene.hostile.closed
    assert Reset(1, ENHANCE_YOUR_CALM) in scene.hostile.take()
    passed = [e for e in scene.client.inbox if isinstance(e, Headers) and not e.end]
    assert len(passed) <= upstream.MAX_INFORMATIONAL
    status, message = scene.client.outcome(scene.victim)
    assert status == UNAVAILABLE
    assert "informational" in message
    scene.client.take()
    scene.check()


def test_goaway_in_a_loop_of_new_connections() -> None:
    """Accept, say GOAWAY, again: dialled less and less often, and its calls go to the other backend."""
    scene = Scene()
    world = scene.world
    world.after_dial = lambda b: (
        world.engine.received(b.peer, goaway(0), world.now) if b.host == "10.0.0.1" else None
    )
    scene.hostile.sends(goaway(0))
    dials = world.dials
    for _ in range(100):
        stream = scene.client.opens(end=True) if scene.client.next_id > 5 else _skip(scene.client)
        for s in scene.honest.streams_open():
            if s > 3:
                scene.honest.answers(s)
        world.advance(0.1)
        assert stream
    assert world.dials - dials <= 12
    assert not scene.client.closed


def _skip(client: Client) -> int:
    client.next_id = 5
    return client.opens(end=True)


def test_a_goaway_that_refuses_what_it_has_answered() -> None:
    """The answer has begun, so the call is not sent again; it is told why it ends."""
    scene = Scene()
    scene.hostile.sends(headers(1, OK), data(1, b"part"), goaway(0, 11, b"go away"))
    status, message = scene.client.outcome(scene.victim)
    assert status == UNAVAILABLE
    assert "GOAWAY ENHANCE_YOUR_CALM go away" in message
    assert scene.world.engine.totals.retried == 0
    scene.client.take()
    scene.check()


@pytest.mark.parametrize("first", [0, 1, 65535])
def test_window_games(first: int) -> None:
    """Windows that open and close with every frame: nothing is lost, and nothing is sent beyond them."""
    world = ready(1, settings={INITIAL_WINDOW_SIZE: first})
    client = world.client()
    backend = world.backend(1)
    client.sends(headers(1, POST))
    client.sends(data(1, bytes(40_000)), data(1, b"end", end=True))
    body = sum(len(e.payload) for e in backend.take() if isinstance(e, Data))
    assert body == min(first, 40_003)
    size, credit = first, first - body
    for turn in range(40):
        to = 65535 if turn % 2 else 0
        credit += to - size
        size = to
        backend.sends(settings({INITIAL_WINDOW_SIZE: to}))
        got = sum(len(e.payload) for e in backend.take() if isinstance(e, Data))
        credit -= got
        body += got
        assert got == 0 or credit >= 0
    assert body == 40_003


def test_a_limit_of_streams_that_opens_and_closes() -> None:
    world = ready(1)
    client = world.client()
    backend = world.backend(1)
    done = 0
    for _ in range(40):
        backend.sends(settings({MAX_CONCURRENT_STREAMS: 0}))
        stream = client.opens(end=True)
        for each in world.backends["10.0.0.1"]:
            if not each.closed:
                each.sends(settings({MAX_CONCURRENT_STREAMS: 10}))
                for s in each.streams_open():
                    each.answers(s)
        assert client.outcome(stream) == ("0", "")
        client.take()
        world.advance(0.2)
        done += 1
        backend = next(b for b in world.backends["10.0.0.1"] if not b.closed)
    assert done == 40


def test_one_octet_frames_to_a_stalled_reader() -> None:
    """Held pieces are joined: 65,535 of them cost what they carry."""
    world = ready(1)
    client = world.client({INITIAL_WINDOW_SIZE: 0})
    client.calls()
    backend = world.backend(1)
    backend.sends(headers(1, OK), data(1, b"x") * 20_000)
    half = client.peer.streams.find(1).response
    assert half.held_size == 20_000
    assert len(half.held) <= 20
    client.take()
    client.sends(window(1, 65535))
    body, _ = client.receives_body(1)
    assert body == b"x" * 20_000


def test_a_backend_that_does_not_read_gets_no_more_requests_and_ends_nobodys() -> None:
    """Header blocks are not flow-controlled: from 512 KiB on the calls go to the other backend, or wait."""
    world = ready(1, 2)
    client = world.client()
    client.opens(end=True)
    client.opens(end=True)
    stalled, reading = world.backend(1), world.backend(2)
    stalled.stops_reading()
    large = (*POST, ("token", "t" * 8000))
    for _ in range(600):
        client.opens(large, end=True)
        reading.sends(*[headers(s, (*OK, *TRAILERS), end=True) for s in reading.streams_open()])
    assert not stalled.closed
    assert len(stalled.unsent) <= upstream.MAX_REQUESTS_UNREAD + 16384
    assert len(world.backends["10.0.0.1"]) == 1, "another connection would not be read either"
    client.take()
    stalled.reads()
    for s in stalled.streams_open():
        stalled.answers(s)
    late = [client.opens(end=True) for _ in range(4)]
    assert stalled.streams_open(), "it reads again and gets its share again"
    for backend in (stalled, reading):
        for s in backend.streams_open():
            backend.answers(s)
    assert {client.outcome(s) for s in late} == {("0", "")}
    world.nothing_is_left()


def test_calls_wait_for_an_only_backend_that_does_not_read_and_go_on_when_it_does() -> None:
    world = ready(1)
    client = world.client()
    backend = world.backend(1)
    backend.stops_reading()
    large = (*POST, ("token", "t" * 8000))
    streams = [client.opens(large, end=True) for _ in range(300)]
    assert len(backend.streams_open()) < 300
    assert world.dials == 1
    backend.reads()
    assert len(backend.streams_open()) == 300
    for s in backend.streams_open():
        backend.answers(s)
    assert {client.outcome(s) for s in streams} == {("0", "")}
    world.nothing_is_left()


def test_a_burst_that_is_read_at_once_needs_no_second_connection() -> None:
    """More than 512 KiB of requests in one turn: the socket takes it, so nobody waits and nothing is dialled."""
    world = ready(1)
    client = world.client()
    backend = world.backend(1)
    large = literal((*POST, ("token", "t" * 8000)))
    client.sends(*[headers(s, large, end=True) for s in range(1, 601, 2)])
    assert len(backend.streams_open()) == 300
    assert world.dials == 1


def test_answers_of_many_backends_in_one_turn_do_not_cost_the_client_its_connection() -> None:
    """What is put into a client's output in one turn is bounded, whatever it has granted."""
    world = ready(*range(1, 101))
    client = world.client({INITIAL_WINDOW_SIZE: 1 << 20})
    client.sends(window(0, 1 << 30))
    client.sends(*[headers(s, POST, end=True) for s in range(1, 201, 2)])
    client.take()
    client.stops_reading()
    for backend in world.connections():
        # As the loop does it: all reads of a turn, then the writes.
        world.engine.received(
            backend.peer, headers(1, OK) + data(1, bytes(connection.RESPONSE_WINDOW)), world.now
        )
    assert client.peer.output_size() <= peer.OUTPUT_HIGH + 32768
    world.settle()
    assert not client.closed
    client.reads()
    assert (
        sum(len(e.payload) for e in client.take() if isinstance(e, Data)) == 100 * connection.RESPONSE_WINDOW
    )


def test_a_frame_that_never_ends() -> None:
    scene = Scene()
    scene.hostile.sends(data(1, b"x" * 1000)[:500])
    scene.world.advance(2 * unfinished.INCOMPLETE_TIMEOUT + 1)
    scene.hostile.is_told(ENHANCE_YOUR_CALM)
    status, message = scene.client.outcome(scene.victim)
    assert status == UNAVAILABLE
    assert "not complete within" in message
    scene.client.take()
    scene.check()


def test_a_settings_frame_full_of_changes() -> None:
    scene = Scene()
    changes = b"".join(struct.pack(">HI", INITIAL_WINDOW_SIZE, n % 70_000) for n in range(2730))
    scene.hostile.sends(frame(4, 0, 0, changes))
    scene.hostile.still_works()
    scene.check()
