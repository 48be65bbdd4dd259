"""A client that breaks each rule a client can break, RFC 9113 section by section.

h2spec covers much of this from outside (`make interop`); here every case also holds that the backend is told
CANCEL, that the rest of the connection goes on if only a stream was at fault, and that another client's stream on
the same backend connection never notices.
"""

from __future__ import annotations

import struct

import pytest
from client_faults import CLOSED, CONNECTION, FAULTS, HALF_CLOSED, IDLE, NEXT, SIBLING, SUM, VICTIM, Fault
from rawhttp2 import (
    CANCEL,
    ENHANCE_YOUR_CALM,
    FRAME_SIZE_ERROR,
    INITIAL_WINDOW_SIZE,
    NO_ERROR,
    OK,
    POST,
    PREFACE,
    PRIORITY,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    SETTINGS_TIMEOUT,
    TRAILERS,
    Data,
    Goaway,
    Reset,
    data,
    frame,
    goaway,
    headers,
    ping,
    request,
    response,
    rst,
    settings,
    window,
)
from transcript import World, ready

THEIRS = 5  # the backend's number of the other client's stream


class Scene:
    """One backend connection with two streams of the client at fault and one of another client."""

    def __init__(self, state: str) -> None:
        self.world = ready(1)
        # It does not acknowledge our SETTINGS, so that it may still use a table.
        self.client = self.world.client()
        self.state = state
        self.client.sends(headers(VICTIM, POST, end=state == HALF_CLOSED), headers(SIBLING, POST, end=True))
        self.other = self.world.client()
        self.other.opens()
        self.backend = self.world.backend(1)
        assert self.backend.streams_open() == [VICTIM, SIBLING, THEIRS]
        if state == CLOSED:
            self.client.sends(data(VICTIM, b"", end=True))
            self.backend.answers(VICTIM)
        self.client.take()
        self.backend.take()

    def check_other(self) -> None:
        self.other.sends(data(1, b"request", end=True))
        assert [e for e in self.backend.take() if isinstance(e, Data)] == [Data(THEIRS, b"request", True)]
        self.backend.answers(THEIRS)
        self.other.receives(response(1, OK), Data(1, b"response"), response(1, TRAILERS, True))
        self.backend.still_works()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f"{f.section} {f.what}")
def test_a_client_breaks(fault: Fault) -> None:
    scene = Scene(fault.state)
    scene.client.sends(fault.octets)
    resets = [e for e in scene.backend.take() if isinstance(e, Reset)]
    if fault.scope == CONNECTION:
        scene.client.is_told(fault.code)
        given_up = {SIBLING} if fault.state == CLOSED else {VICTIM, SIBLING}
        assert given_up <= {e.stream for e in resets}
    else:
        at_fault = NEXT if fault.state == IDLE else VICTIM
        assert [e for e in scene.client.take() if not isinstance(e, Goaway)] == [Reset(at_fault, fault.code)]
        # A request that was malformed from the start never reached the backend.
        assert [e.stream for e in resets] in ([VICTIM], [] if fault.state == IDLE else [VICTIM], [7])
        scene.client.sends(data(at_fault, b"late"), window(at_fault, 1), rst(at_fault))
        scene.client.still_works()
        scene.backend.answers(SIBLING)
        assert scene.client.outcome(SIBLING) == ("0", "")
        scene.client.take()
        if fault.state == IDLE:
            scene.client.sends(data(VICTIM, b"", end=True))
            scene.backend.receives(Data(VICTIM, b"", True))
            scene.backend.answers(VICTIM)
    assert all(e.code == CANCEL for e in resets)
    scene.check_other()
    scene.world.nothing_is_left()


@pytest.mark.parametrize(
    ("what", "octets", "code"),
    [
        ("no preface", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", PROTOCOL_ERROR),
        ("half a preface", PREFACE[:20] + b"XXXX", PROTOCOL_ERROR),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(20), PROTOCOL_ERROR),
        ("PING first", PREFACE + ping(), PROTOCOL_ERROR),
        ("an acknowledgement first", PREFACE + settings(ack=True), PROTOCOL_ERROR),
        ("HEADERS first", PREFACE + headers(1, POST, True), PROTOCOL_ERROR),
        ("DATA first", PREFACE + data(1, b"x"), PROTOCOL_ERROR),
        ("the preface twice", PREFACE + PREFACE, FRAME_SIZE_ERROR),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_a_client_that_does_not_begin_with_preface_and_settings(what: str, octets: bytes, code: int) -> None:
    """Section 3.4."""
    world = ready(1)
    client = world.raw_client()
    client.sends(octets)
    client.is_told(code, last=0)
    world.nothing_is_left()


@pytest.mark.parametrize("said", [b"", PREFACE[:10], PREFACE, PREFACE + settings()[:5]])
def test_a_client_that_says_nothing_is_not_waited_for(said: bytes) -> None:
    world = ready(1)
    client = world.raw_client()
    client.sends(said)
    world.advance(9.9)
    assert not client.closed
    world.advance(0.2)
    client.is_told(SETTINGS_TIMEOUT)


def test_the_goaway_of_a_fault_names_the_last_stream_that_was_taken() -> None:
    """Section 6.8: what is above it was not begun and may be sent again."""
    world = ready(1)
    client = world.client()
    client.sends(headers(1, POST, True), headers(5, POST, True), data(0, b"x"), headers(7, POST, True))
    client.is_told(PROTOCOL_ERROR, last=5)


def test_after_its_goaway_a_clients_streams_go_on() -> None:
    """Section 6.8: it says that it takes no pushes any more; what it opened goes on, up and down."""
    world = ready(1)
    client = world.client()
    client.sends(headers(1, POST), goaway(0))
    backend = world.backend(1)
    client.sends(data(1, b"more"), window(1, 1000), data(1, b"", end=True))
    backend.answers(1)
    assert client.outcome(1) == ("0", "")
    assert client.closed
    world.nothing_is_left()


def test_after_its_goaway_a_clients_new_stream_is_served_while_the_connection_stands() -> None:
    """It may not (section 6.8 speaks of the receiver); it harms nobody, and is not worth a fault."""
    world = ready(1)
    client = world.client()
    client.sends(headers(1, POST), goaway(0), headers(3, POST, end=True))
    backend = world.backend(1)
    backend.answers(3)
    assert client.outcome(3) == ("0", "")


def test_streams_opened_after_our_last_goaway_are_refused_but_not_without_end() -> None:
    world = ready(1)
    client = world.client()
    client.opens()
    world.engine.drain(world.now)
    world.settle()
    world.advance(1.5)
    client.take()
    for stream in range(3, 3003, 2):
        client.sends(headers(stream, POST, end=True))
        if client.closed:
            break
    found = client.take()
    assert found[0] == Reset(3, REFUSED_STREAM)
    assert isinstance(found[-1], Goaway)
    assert found[-1].code == ENHANCE_YOUR_CALM
    assert len(found) < 1200


def test_window_updates_while_half_closed_count() -> None:
    """Section 5.1: a client that has ended its request still grants credit for the response."""
    world = ready(1)
    client = world.client({INITIAL_WINDOW_SIZE: 0})
    client.calls()
    backend = world.backend(1)
    backend.sends(headers(1, OK), data(1, b"hello"), headers(1, TRAILERS, end=True))
    client.receives(response(1, OK))
    client.sends(window(1, 5))
    client.receives(Data(1, b"hello"), response(1, TRAILERS, True))


def test_priority_may_come_at_any_time() -> None:
    """Sections 5.1 and 6.3: idle, open, half-closed and closed."""
    world = ready(1)
    client = world.client()
    priority = [frame(PRIORITY, 0, stream, struct.pack(">IB", 0, 15)) for stream in (1, 2, 99)]
    client.sends(*priority)
    client.calls()
    client.sends(*priority)
    world.backend(1).answers(1)
    client.sends(*priority)
    assert client.outcome(1) == ("0", "")
    client.still_works()


def test_request_trailers_after_the_answer() -> None:
    """A backend may answer before the request has ended; what follows is still passed on."""
    world = ready(1)
    client = world.client()
    client.sends(headers(1, POST))
    backend = world.backend(1)
    backend.take()
    backend.sends(headers(1, (*OK, *TRAILERS), end=True))
    client.sends(data(1, b"late"), headers(1, SUM, end=True))
    backend.receives(Data(1, b"late"), request(1, SUM, True))
    world.nothing_is_left()


def test_malformed_trailers_after_the_answer_reset_the_request_only() -> None:
    world = ready(1)
    client = world.client()
    client.sends(headers(1, POST))
    backend = world.backend(1)
    backend.take()
    backend.sends(headers(1, (*OK, *TRAILERS), end=True))
    client.receives(response(1, (*OK, *TRAILERS), True))
    client.sends(headers(1, (("Bad", "x"),), end=True))
    client.receives(Reset(1, PROTOCOL_ERROR))
    backend.receives(Reset(1, CANCEL))
    client.still_works()
    world.nothing_is_left()


def test_frames_that_cross_our_reset_are_no_fault() -> None:
    """Section 5.1, closed: everything that was on its way when RST_STREAM left is ignored, but not unread: header
    blocks feed the decoder and DATA counts for the connection's window."""
    world = ready(1)
    client = world.client()
    client.sends(headers(1, POST), data(1, b"x"))
    backend = world.backend(1)
    backend.sends(rst(1, NO_ERROR))
    client.receives(Reset(1, NO_ERROR))
    client.sends(data(1, bytes(1000)), headers(1, SUM, end=True), window(1, 5), rst(1))
    client.still_works()
    for _ in range(600):
        client.sends(data(1, bytes(16384)))
    client.still_works()
    assert client.connection_granted() > 8 << 20


def test_every_fault_is_counted_by_its_code() -> None:
    world = World()
    for _ in range(3):
        world.client().sends(data(0, b"x"))
    assert world.engine.totals.downstream_errors == {PROTOCOL_ERROR: 3}
