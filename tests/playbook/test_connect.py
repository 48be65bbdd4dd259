"""Where no backend can take a stream: queues, dials, backing off, endpoints that come and go."""

from __future__ import annotations

import itertools

import pytest
from rawhttp2 import (
    OK,
    POST,
    TRAILERS,
    Data,
    Goaway,
    Headers,
    Reset,
    data,
    goaway,
    headers,
    request,
    response,
    rst,
)
from transcript import GREETER, MUTE, ORDERS, REFUSE, SILENCE, World, ready

from sidecar.balance.endpoints import Endpoint, Snapshot
from sidecar.splice.service import QUEUE_TIMEOUT

# --- no endpoint ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", ["never", "empty", "gone"])
def test_without_endpoints_a_call_is_unavailable_within_three_seconds(known: str) -> None:
    world = World()
    if known == "empty":
        world.endpoints()
    elif known == "gone":
        world.endpoints(exists=False)
    client = world.client()
    stream = client.calls()
    world.advance(2.0)
    client.receives_nothing()
    world.advance(0.9)
    status, message = client.outcome(stream)
    assert status == "14"
    assert "greeter.default:50051" in message
    wanted = {"never": "not known yet", "empty": "no ready endpoint", "gone": "there is no Service"}
    assert wanted[known] in message
    world.nothing_is_left()


def test_the_unavailable_answer_is_a_whole_trailers_only_response() -> None:
    world = World()
    client = world.client()
    client.sends(headers(1, POST, end=True))
    world.advance(3.0)
    (event,) = client.take()
    assert isinstance(event, Headers)
    assert event.end
    assert event.fields[0] == (":status", "200")
    assert ("content-type", "application/grpc") in event.fields


def test_a_client_still_sending_is_stopped_after_the_answer() -> None:
    world = World()
    client = world.client()
    client.sends(headers(1, POST), data(1, b"part"))
    world.advance(3.0)
    answer, reset = client.take()
    assert isinstance(answer, Headers)
    assert reset == Reset(1, 0)
    client.sends(data(1, b"late"))
    client.still_works()
    world.nothing_is_left()


def test_endpoints_that_appear_take_what_waited() -> None:
    world = World()
    client = world.client()
    streams = [client.calls() for _ in range(6)]
    world.advance(1.0)
    world.endpoints(1, 2, 3)
    for host in (1, 2, 3):
        backend = world.backend(host)
        assert len(backend.streams_open()) == 2
        for stream in backend.streams_open():
            backend.answers(stream)
    for stream in streams:
        assert client.outcome(stream) == ("0", "")
    world.advance(10.0)
    world.nothing_is_left()


def test_what_is_cancelled_while_queued_reaches_nobody() -> None:
    world = World()
    client = world.client()
    client.calls()
    client.sends(rst(1))
    client.calls()
    world.endpoints(1)
    world.backend(1).receives(request(1), Data(1, b"request", True))
    world.backend(1).answers(1)
    assert client.outcome(3) == ("0", "")
    world.nothing_is_left()


def test_services_are_kept_apart() -> None:
    world = World()
    world.endpoints(1)
    world.endpoints(2, service=ORDERS)
    greeter, orders = world.client(), world.client(service=ORDERS)
    greeter.opens()
    orders.opens()
    assert world.backend(1).streams_open() == [1]
    assert world.backend(2).streams_open() == [1]
    assert world.backend(1).peer.backend.service.key == GREETER


# --- dialling ------------------------------------------------------------------------------------------


def test_connections_are_ready_before_the_first_call() -> None:
    world = ready(1, 2, 3)
    assert world.dials == 0
    world.client()
    assert world.dials == 3
    world.client()
    assert world.dials == 3


def test_a_refused_connection_sends_its_streams_elsewhere_at_once() -> None:
    world = World()
    world.manners["10.0.0.1"] = REFUSE
    world.endpoints(1, 2)
    client = world.client()
    for _ in range(4):
        client.opens()
    assert len(world.backend(2).streams_open()) == 4


def test_all_refused_names_an_endpoint_and_the_reason() -> None:
    world = World()
    world.manners["10.0.0.1"] = world.manners["10.0.0.2"] = REFUSE
    world.endpoints(1, 2)
    client = world.client()
    stream = client.calls()
    world.advance(3.0)
    status, message = client.outcome(stream)
    assert status == "14"
    assert "none of 2 endpoints of greeter.default:50051" in message
    assert "10.0.0.1:50051: refused the connection" in message
    world.nothing_is_left()


def test_backoff_doubles_to_its_most_and_ends_when_the_backend_is_back() -> None:
    world = World()
    world.manners["10.0.0.1"] = REFUSE
    world.endpoints(1)
    client = world.client()
    dialled = []
    for _ in range(700):
        before = world.dials
        world.advance(0.1)
        dialled += [world.now] * (world.dials - before)
    gaps = [b - a for a, b in itertools.pairwise(dialled)]
    assert 28 <= len(dialled) <= 50
    assert gaps[0] < 0.4
    assert all(gap <= 2.5 for gap in gaps)
    assert gaps[-1] >= 1.5
    world.manners["10.0.0.1"] = "accept"
    world.advance(2.5)
    client.calls()
    assert world.backend(1).streams_open() == [1]


@pytest.mark.parametrize("seconds", [0.2, 1.0, 3.0, 10.0, 30.1, 60.7])
def test_a_call_sees_its_only_endpoint_come_back_however_long_it_was_away(seconds: float) -> None:
    world = World()
    world.manners["10.0.0.1"] = REFUSE
    world.endpoints(1)
    client = world.client()
    world.advance(seconds)
    world.manners["10.0.0.1"] = "accept"
    client.calls()
    world.advance(QUEUE_TIMEOUT - 0.01)
    assert world.backend(1).streams_open() == [1]


def test_a_slow_connection_is_waited_for_a_little_and_then_not() -> None:
    world = World()
    world.manners["10.0.0.1"] = SILENCE
    world.endpoints(1, 2)
    client = world.client()
    for _ in range(4):
        client.opens()
    assert len(world.backend(2).streams_open()) == 2
    world.advance(0.3)
    assert len(world.backend(2).streams_open()) == 4
    client.opens()
    assert len(world.backend(2).streams_open()) == 5
    slow = world.accept_dial(world.dialling[0])
    world.settle()
    client.opens()
    assert slow.streams_open() == [1], "once it is connected it has fewest"


@pytest.mark.parametrize(("manner", "said"), [(SILENCE, "did not accept"), (MUTE, "did not answer SETTINGS")])
def test_a_connection_that_gets_nowhere_is_given_up(manner: str, said: str) -> None:
    world = World()
    world.manners["10.0.0.1"] = manner
    world.endpoints(1)
    client = world.client()
    stream = client.calls()
    world.advance(2.6)
    assert client.outcome(stream)[0] == "14"
    world.advance(1.0)
    assert world.dials == 2, "given up after 3 s, dialled again after the backoff"
    if manner == MUTE:
        assert world.backends["10.0.0.1"][0].closed
    client.take()
    stream = client.calls()
    world.advance(2.6)
    assert said in client.outcome(stream)[1]
    world.nothing_is_left()


def test_a_connection_lost_when_idle_is_made_again() -> None:
    world = ready(1)
    client = world.client()
    world.advance(10.0)
    world.backend(1).leaves("closed the connection")
    assert world.dials == 2
    client.calls()
    assert world.backend(1).streams_open() == [1]


def test_a_backend_that_drops_every_connection_is_not_dialled_in_a_loop() -> None:
    world = World()
    world.after_dial = lambda backend: backend.leaves("closed the connection")
    world.endpoints(1)
    world.client()
    world.advance(10.0)
    assert world.dials < 12


def test_a_backend_that_sends_everyone_away_is_not_dialled_in_a_loop() -> None:
    world = World()
    world.after_dial = lambda backend: world.engine.received(backend.peer, goaway(0), world.now)
    world.endpoints(1)
    world.client()
    world.advance(10.0)
    assert world.dials < 12


@pytest.mark.parametrize("end", ["GOAWAY", "closed"])
def test_a_backend_that_ends_each_connection_after_so_many_requests_goes_on_at_once(end: str) -> None:
    """As nginx does (keepalive_requests), and Envoy (max_requests_per_connection). No time passes."""
    world = ready(1)
    client = world.client()
    for _ in range(30):
        backend = world.backend(1)
        for number in (1, 3):
            stream = client.calls()
            backend.answers(number)
            assert client.outcome(stream) == ("0", "")
        if end == "GOAWAY":
            backend.sends(goaway(3))
        backend.leaves("closed the connection")
    assert world.dials == 31
    world.nothing_is_left()


def test_a_goaway_with_the_only_request_a_connection_is_to_have() -> None:
    """It comes ahead of the answer: nginx says it as soon as it has the last request."""
    world = ready(1)
    client = world.client()
    for _ in range(10):
        backend = world.backend(1)
        stream = client.calls()
        backend.sends(goaway(1))
        backend.answers(1)
        assert client.outcome(stream) == ("0", "")
        assert backend.closed
    assert world.dials == 11
    world.nothing_is_left()


# --- endpoints come and go -----------------------------------------------------------------------------


def test_a_removed_endpoint_keeps_its_streams_and_gets_no_new_one() -> None:
    world = ready(1, 2)
    client = world.client()
    for _ in range(4):
        client.opens()
    leaving = world.backend(1)
    world.endpoints(2)
    assert len(leaving.streams_open()) == 2
    for _ in range(4):
        client.opens()
    assert len(leaving.streams_open()) == 2
    assert len(world.backend(2).streams_open()) == 6
    for stream in leaving.streams_open():
        leaving.sends(headers(stream, OK), data(stream, b"still here"))
    assert sum(1 for e in client.take() if isinstance(e, Data) and e.payload == b"still here") == 2
    for stream in leaving.streams_open():
        leaving.sends(headers(stream, TRAILERS, end=True), rst(stream, 0))
    assert leaving.closed
    assert [e.code for e in leaving.take() if isinstance(e, Goaway)] == [0]


def test_a_removed_idle_endpoint_is_left_at_once() -> None:
    world = ready(1, 2)
    world.client()
    leaving = world.backend(1)
    world.endpoints(2)
    assert leaving.closed
    service = world.engine.services[GREETER]
    assert not service.retiring


def test_streams_that_wait_for_a_removed_endpoint_go_to_another() -> None:
    world = World()
    world.manners["10.0.0.1"] = SILENCE
    world.endpoints(1)
    client = world.client()
    for _ in range(3):
        client.calls()
    world.endpoints(2)
    assert len(world.backend(2).streams_open()) == 3
    for stream in world.backend(2).streams_open():
        world.backend(2).answers(stream)
    world.advance(10.0)
    world.nothing_is_left()
    assert not world.dialling


def test_an_endpoint_that_returns_while_draining_takes_new_streams() -> None:
    world = ready(1)
    client = world.client()
    client.opens()
    old = world.backend(1)
    world.endpoints()
    world.endpoints(1)
    client.opens()
    new = world.backend(1)
    assert new is not old
    assert old.streams_open() == new.streams_open() == [1]


def test_an_endpoint_that_returns_has_the_streams_it_has_kept() -> None:
    """A readiness that flaps: what goes on there counts, or the next streams would all go to the one that has most."""
    world = ready(1, 2)
    client = world.client()
    for _ in range(8):
        client.opens()
    old = world.backend(1)
    world.endpoints(2)
    world.endpoints(1, 2)
    for _ in range(8):
        client.opens()
    new = world.backend(1)
    assert new is not old
    assert len(old.streams_open()) == len(new.streams_open()) == 4
    assert len(world.backend(2).streams_open()) == 8
    for each in (old, new):
        for stream in each.streams_open():
            each.sends(headers(stream, (*OK, *TRAILERS), end=True), rst(stream, 0))
    assert old.closed
    assert not new.closed
    for stream in world.backend(2).streams_open():
        world.backend(2).sends(headers(stream, (*OK, *TRAILERS), end=True), rst(stream, 0))
    world.nothing_is_left()


def test_a_new_endpoint_takes_the_next_streams() -> None:
    world = ready(1, 2)
    client = world.client()
    for _ in range(6):
        client.opens()
    world.endpoints(1, 2, 3)
    for _ in range(3):
        client.opens()
    assert len(world.backend(3).streams_open()) == 3


def test_the_same_endpoint_listed_twice_is_one() -> None:
    world = World()
    world.endpoints(1, 1, 2)
    client = world.client()
    for _ in range(4):
        client.opens()
    assert world.dials == 2
    assert len(world.backend(1).streams_open()) == 2


def test_all_endpoints_gone_and_back_in_the_same_second() -> None:
    world = ready(1, 2)
    client = world.client()
    world.endpoints()
    stream = client.calls()
    world.endpoints(3)
    world.backend(3).answers(1)
    client.receives(response(stream, OK), Data(stream, b"response"), response(stream, TRAILERS, True))
    world.advance(5.0)
    world.nothing_is_left()


@pytest.mark.parametrize(
    ("before", "after", "moved"),
    [
        ("greeter-a", "greeter-b", True),
        ("greeter-a", "greeter-a", False),
        ("greeter-a", "", False),
        ("", "greeter-b", False),
    ],
)
def test_an_address_that_is_another_pods_now_is_dialled_anew(before: str, after: str, moved: bool) -> None:
    """The old connections are to a pod that is gone; a source that does not name pods says nothing of that."""

    def told(pod: str) -> None:
        endpoints = (Endpoint("10.0.0.1", 50051, pod), Endpoint("10.0.0.2", 50051, "greeter-z"))
        world.engine.update(Snapshot(GREETER, endpoints, "file", world.now), world.now)
        world.settle()

    world = World()
    told(before)
    client = world.client()
    client.opens(end=True)
    client.opens(end=True)
    old = world.backend(1)
    told(after)
    assert len(world.backends["10.0.0.1"]) == (2 if moved else 1)
    assert len(world.backends["10.0.0.2"]) == 1
    assert not old.closed, "what it has goes on"
    client.opens(end=True)
    client.opens(end=True)
    assert len(world.backend(2).streams_open()) in ((1, 2) if moved else (2,))
    if moved:
        assert old.streams_open() == [1]
        assert len(world.backend(1).streams_open()) >= 1
        old.answers(1)
        assert old.closed
