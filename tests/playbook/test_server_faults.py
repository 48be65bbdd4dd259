"""A backend that breaks each rule a server can break, RFC 9113 section by section.

The fault ends that stream or that connection with the code the RFC names. Its gRPC callers are answered
UNAVAILABLE with a message that names endpoint and cause; every other stream goes on: those of the same
connection if only a stream was at fault, those of other endpoints, and those of other clients.
"""

# ruff: noqa: E501 - the tables' rows are one line each
from __future__ import annotations

import struct

import pytest
from rawhttp2 import (
    CONTINUATION,
    ENABLE_PUSH,
    END_HEADERS,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_FRAME_SIZE,
    NO_ERROR,
    OK,
    PADDED,
    PING,
    PRIORITY,
    PRIORITY_FLAG,
    PROTOCOL_ERROR,
    SETTINGS,
    TRAILERS,
    WINDOW_UPDATE,
    Data,
    Headers,
    Reset,
    data,
    frame,
    goaway,
    headers,
    ping,
    response,
    rst,
    settings,
    window,
)
from server_faults import BEGUN, BLOCK, CONNECTION, ENDED, FAULTS, SIBLING, VICTIM, Fault, answer
from transcript import MUTE, Client, World, host_name, ready

from sidecar.wire.connection import RESPONSE_WINDOW

UNAVAILABLE = "14"


class Scene:
    """Three backends and two clients. One connection of the first backend has VICTIM, SIBLING and a stream of
    another client; the second backend has a stream of the victim's client."""

    def __init__(self, request_ends: bool = True) -> None:
        self.world = ready(1)
        self.client = self.world.client()
        self.victim = self.client.opens(end=request_ends)
        self.sibling = self.client.opens(end=True)
        self.other_client = self.world.client()
        self.other_clients = self.other_client.opens(end=True)
        self.broken = self.world.backend(1)
        assert self.broken.streams_open() == [VICTIM, SIBLING, 5]
        self.world.endpoints(1, 2)
        self.elsewhere = self.client.opens(end=True)
        self.healthy = self.world.backend(2)
        assert self.healthy.streams_open() == [1]
        self.broken.take()
        self.healthy.take()

    def begin(self, before: str) -> None:
        if before == BEGUN:
            self.broken.sends(headers(VICTIM, OK))
            self.client.receives(response(self.victim, OK))
        elif before == ENDED:
            self.broken.sends(headers(VICTIM, (*OK, *TRAILERS), end=True))
            self.client.receives(response(self.victim, (*OK, *TRAILERS), True))

    def check_elsewhere(self) -> None:
        """Another endpoint's stream goes to its end, a new call finds an endpoint, and no client was harmed."""
        self.healthy.answers(1)
        finishes(self.client, self.elsewhere)
        assert not self.client.closed
        assert not self.other_client.closed
        self.world.advance(10.0)
        late = self.client.opens(end=True)
        for each in self.world.connections():
            if not each.closed:
                for stream in each.streams_open():
                    each.answers(stream)
        finishes(self.client, late)


def finishes(client: Client, stream: int) -> None:
    assert [e for e in client.take() if e.stream == stream] == [  # type: ignore[union-attr]
        response(stream, OK),
        Data(stream, b"response"),
        response(stream, TRAILERS, True),
    ]


def is_unavailable(event: object, cause: str, begun: bool) -> None:
    assert isinstance(event, Headers)
    assert event.end
    fields = dict(event.fields)
    assert (":status" not in fields) is begun, "trailers where headers have gone out, Trailers-Only where not"
    assert fields["grpc-status"] == UNAVAILABLE
    message = fields["grpc-message"]
    assert "10.0.0.1:50051" in message
    assert "greeter.default:50051" in message
    assert cause in message, message


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f"{f.section} {f.what}")
def test_a_server_breaks(fault: Fault) -> None:
    scene = Scene(request_ends=fault.before != ENDED)
    scene.begin(fault.before)
    scene.broken.sends(fault.octets)
    if fault.scope == CONNECTION:
        the_connection_ends(scene, fault)
    else:
        the_stream_ends(scene, fault)
    scene.check_elsewhere()
    if fault.before == ENDED:
        scene.client.sends(data(scene.victim, b"", end=True))
    scene.world.nothing_is_left()


def the_connection_ends(scene: Scene, fault: Fault) -> None:
    scene.broken.is_told(fault.code)
    begun = fault.before == BEGUN or fault.octets.startswith(headers(VICTIM, OK))
    mine = {e.stream: e for e in scene.client.take()}  # type: ignore[union-attr]
    assert mine.keys() == {scene.victim, scene.sibling}
    is_unavailable(mine[scene.victim], fault.cause, begun)
    is_unavailable(mine[scene.sibling], fault.cause, False)
    (theirs,) = scene.other_client.take()
    is_unavailable(theirs, fault.cause, False)


def the_stream_ends(scene: Scene, fault: Fault) -> None:
    assert [e for e in scene.broken.take() if not isinstance(e, Data)] == [Reset(VICTIM, fault.code)]
    found = scene.client.take()
    if fault.before == ENDED:
        assert found == [Reset(scene.victim, NO_ERROR)], (
            "it has its answer; the rest of its request is not wanted"
        )
    else:
        assert {e.stream for e in found} == {scene.victim}  # type: ignore[union-attr]
        begun = fault.before == BEGUN or any(
            isinstance(e, Headers) and dict(e.fields).get(":status") == "200" for e in found[:-1]
        )
        is_unavailable(found[-1], fault.cause, begun)
    scene.broken.still_works()
    # What was on its way when the reset crossed it is no fault.
    if fault.before != ENDED:
        scene.broken.sends(
            data(VICTIM, b"late"), headers(VICTIM, TRAILERS, end=True), window(VICTIM, 1), rst(VICTIM)
        )
        scene.broken.still_works()
    scene.broken.answers(SIBLING)
    finishes(scene.client, scene.sibling)
    scene.broken.answers(5)
    finishes(scene.other_client, scene.other_clients)


# --- before SETTINGS -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "octets", "code", "cause"),
    [
        ("PING", ping(), PROTOCOL_ERROR, "first frame is not SETTINGS"),
        ("an acknowledgement", settings(ack=True), PROTOCOL_ERROR, "first frame is not SETTINGS"),
        ("WINDOW_UPDATE", window(0, 1), PROTOCOL_ERROR, "first frame is not SETTINGS"),
        ("GOAWAY", goaway(0), PROTOCOL_ERROR, "first frame is not SETTINGS"),
        ("HEADERS", headers(1, OK), PROTOCOL_ERROR, "first frame is not SETTINGS"),
        ("DATA", data(1, b"x"), PROTOCOL_ERROR, "first frame is not SETTINGS"),
        ("an unknown frame", frame(0x77, 0, 0), PROTOCOL_ERROR, "first frame is not SETTINGS"),
        ("SETTINGS of 5 octets", frame(SETTINGS, 0, 0, bytes(5)), FRAME_SIZE_ERROR, "SETTINGS of 5 octets"),
        ("HTTP/1.1", b"HTTP/1.1 400 Bad Request\r\n\r\n", PROTOCOL_ERROR, "speaks HTTP/1, not HTTP/2"),
        ("TLS", b"\x15\x03\x01\x00\x02\x02\x46" + bytes(9), FRAME_SIZE_ERROR, "octets"),
        ("a greeting", b"220 mail.example.com ESMTP ready\r\n", FRAME_SIZE_ERROR, "octets"),
    ],
    ids=lambda v: v if isinstance(v, str) and len(v) < 40 else "",
)
def test_a_server_that_does_not_begin_with_settings(what: str, octets: bytes, code: int, cause: str) -> None:
    """Section 3.4. What waited for it was never sent: it goes elsewhere, or is answered with the cause."""
    world = World()
    world.manners[host_name(1)] = MUTE
    world.endpoints(1)
    client = world.client()
    stream = client.calls()
    broken = world.backend(1)
    broken.sends(octets)
    broken.is_told(code)
    client.receives_nothing()
    world.manners[host_name(1)] = "refuse"
    late = client.calls()
    world.endpoints(1, 2)
    world.backend(2).answers(1)
    world.backend(2).answers(3)
    assert client.outcome(stream) == client.outcome(late) == ("0", "")
    client.take()
    world.endpoints(1)
    world.manners[host_name(1)] = MUTE
    world.advance(0.3)
    world.backend(1).sends(octets)
    alone = client.calls()
    world.advance(3.0)
    status, message = client.outcome(alone)
    assert status == UNAVAILABLE
    assert "10.0.0.1:50051" in message
    world.nothing_is_left()


@pytest.mark.parametrize("only", [False, True], ids=["trailers", "trailers-only"])
def test_a_grpc_message_with_white_space_at_its_end_is_no_fault(only: bool) -> None:
    """8.2.1 forbids it, and all of gRPC's libraries write it: "not found: " is a message like any other."""
    scene = Scene()
    if not only:
        scene.broken.sends(headers(VICTIM, OK))
        scene.client.receives(response(scene.victim, OK))
    status = (("grpc-status", "5"), ("grpc-message", "not found: "))
    scene.broken.sends(headers(VICTIM, (*(OK if only else ()), *status), end=True))
    assert scene.client.outcome(scene.victim) == ("5", "not found:")
    scene.broken.still_works()


# --- what a server may do ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "octets"),
    [
        ("4.1 an unknown frame", frame(0x77, 0xFF, VICTIM, b"anything")),
        ("4.1 undefined flags", frame(PING, 0xFE, 0, b"pingping")),
        ("4.1 the reserved bit", frame(WINDOW_UPDATE, 0, 1 << 31 | VICTIM, struct.pack(">I", 1))),
        ("5.1 PRIORITY on an idle stream", frame(PRIORITY, 0, 99, bytes(5))),
        ("5.1 PRIORITY on a stream of its own", frame(PRIORITY, 0, 2, bytes(5))),
        ("6.4 an unknown error code", rst(SIBLING, 0xFFFFFFFF)),
        ("6.5 empty SETTINGS", settings()),
        ("6.5 an acknowledgement too many", settings(ack=True) * 3),
        ("6.5.2 an unknown setting", settings({0x77: 1, 0xFFFF: 0xFFFFFFFF})),
        ("6.5.2 ENABLE_PUSH 0", settings({ENABLE_PUSH: 0})),
        ("6.5.2 MAX_FRAME_SIZE at both ends", settings({MAX_FRAME_SIZE: 2**24 - 1}) + settings({MAX_FRAME_SIZE: 16384})),
        ("6.5.3 SETTINGS twice with one frame's worth of changes", settings({INITIAL_WINDOW_SIZE: 0}) + settings({INITIAL_WINDOW_SIZE: 65535})),
        ("6.7 an answer to no PING", ping(ack=True)),
        ("6.9 a window at its most", window(VICTIM, 2**31 - 1 - 65535) + window(0, 2**31 - 1 - 65535)),
        ("6.1 empty DATA with padding", headers(VICTIM, OK) + data(VICTIM, pad=0) + data(VICTIM, pad=255)),
        ("6.2 HEADERS with priority and padding", frame(HEADERS, END_HEADERS | PADDED | PRIORITY_FLAG, VICTIM, b"\2" + bytes(5) + BLOCK + bytes(2))),
        ("6.10 a block cut in every place", b"".join([frame(HEADERS, 0, VICTIM, BLOCK[:1])] + [frame(CONTINUATION, 0, VICTIM, BLOCK[i : i + 1]) for i in range(1, len(BLOCK) - 1)] + [frame(CONTINUATION, END_HEADERS, VICTIM, BLOCK[-1:])])),
        ("8.1 informational responses", answer(status="100") + answer(status="103")),
        ("8.2.1 obs-text and tabs inside a value", answer(("name", "a\t\x80\xff b"))),
        ("8.3.2 a status nobody knows", answer(status="599")),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)  # fmt: skip
def test_what_a_server_may_do_harms_nobody(section: str, octets: bytes) -> None:
    scene = Scene()
    scene.broken.sends(octets)
    scene.broken.still_works()
    assert VICTIM in scene.broken.streams_open()
    begun = [e for e in scene.client.take() if isinstance(e, Headers) and e.stream == scene.victim]
    if not any(dict(e.fields)[":status"] >= "200" for e in begun):
        scene.broken.sends(headers(VICTIM, OK))
        scene.client.receives(response(scene.victim, OK))
    scene.broken.sends(data(VICTIM, b"body"), headers(VICTIM, TRAILERS, end=True))
    scene.client.receives(Data(scene.victim, b"body"), response(scene.victim, TRAILERS, True))
    if SIBLING in scene.broken.streams_open():
        scene.broken.answers(SIBLING)
        finishes(scene.client, scene.sibling)
    scene.broken.answers(5)
    finishes(scene.other_client, scene.other_clients)
    scene.check_elsewhere()
    scene.world.nothing_is_left()


def test_nothing_a_server_says_after_its_fault_counts() -> None:
    """Section 5.4.1: one GOAWAY, and the rest of what it wrote is not read."""
    scene = Scene()
    scene.broken.sends(data(0, b"x"), headers(VICTIM, OK), data(0, b"x"), ping())
    told = [e for e in scene.broken.take() if not isinstance(e, Data)]
    assert len(told) == 1
    assert {e.stream for e in scene.client.take()} == {scene.victim, scene.sibling}  # type: ignore[union-attr]


def test_a_reset_is_not_answered_with_a_reset() -> None:
    """Section 5.4.2, so that two ends do not go round for ever."""
    scene = Scene()
    scene.broken.sends(rst(VICTIM), rst(VICTIM), window(VICTIM, 1))
    scene.broken.receives_nothing()
    scene.broken.still_works()


def test_a_goaway_that_takes_more_than_the_one_before() -> None:
    """Section 6.8. What the first one refused has gone elsewhere by then and is not asked for again."""
    scene = Scene()
    scene.broken.sends(goaway(1))
    assert scene.broken.streams_open() == [VICTIM]
    scene.broken.sends(goaway(3))
    scene.broken.is_told(PROTOCOL_ERROR)
    (event,) = scene.client.take()
    is_unavailable(event, "GOAWAY", False)
    for stream in scene.healthy.streams_open():
        scene.healthy.answers(stream)
    assert scene.client.outcome(scene.sibling) == scene.other_client.outcome(scene.other_clients) == ("0", "")
    scene.world.nothing_is_left()


def test_data_beyond_the_connections_window() -> None:
    """Section 6.9.1. 16 MiB of it: 513 streams with all their first windows in one write."""
    world = ready(1)
    client = world.client({INITIAL_WINDOW_SIZE: 0})
    streams = [client.opens(end=True) for _ in range(514)]
    backend = world.backend(1)
    backend.sends(*[headers(s, OK) for s in backend.streams_open()])
    client.take()
    backend.sends(*[data(s, bytes(RESPONSE_WINDOW)) for s in backend.streams_open()])
    backend.is_told(FLOW_CONTROL_ERROR)
    client.sends(*[window(s, 65535) for s in streams], window(0, 1 << 25))
    assert {client.outcome(s)[0] for s in streams} == {UNAVAILABLE}
    world.nothing_is_left()


def test_every_fault_is_counted_by_its_code() -> None:
    scene = Scene()
    scene.broken.sends(data(0, b"x"))
    assert scene.world.engine.totals.upstream_errors == {PROTOCOL_ERROR: 1}
    assert scene.world.engine.totals.downstream_errors == {}


def test_a_stream_error_too_many_ends_the_connection() -> None:
    """A server that breaks a rule on every stream is given up whole (RFC 9113 section 10.5)."""
    world = ready(1)
    client = world.client()
    backend = world.backend(1)
    for _ in range(150):
        client.opens(end=True)
        if backend.closed:
            break
        backend.sends(data(max(backend.streams_open()), b"before headers"))
    backend.is_told(ENHANCE_YOUR_CALM)
    assert not client.closed
