"""MAX_CONCURRENT_STREAMS of a backend: another connection or another endpoint, never an error while there is room."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import pytest
from rawhttp2 import (
    MAX_CONCURRENT_STREAMS,
    POST,
    REFUSED_STREAM,
    Data,
    Headers,
    headers,
    request,
    rst,
    settings,
)
from transcript import ACCEPT, MUTE, REFUSE, SILENCE, Client, World, host_name, ready

from sidecar.splice import engine

INTERPRETED = str(engine.__file__).endswith(".py")


def test_a_limit_on_streams_is_met_with_another_connection() -> None:
    world = ready(1, settings={MAX_CONCURRENT_STREAMS: 2})
    client = world.client()
    for _ in range(5):
        client.opens()
    connections = world.backends["10.0.0.1"]
    assert [len(c.streams_open()) for c in connections] == [2, 2, 1]
    client.receives_nothing()


def test_streams_wait_for_room_where_there_is_no_other_endpoint() -> None:
    world = ready(1, settings={MAX_CONCURRENT_STREAMS: 1})
    client = world.client()
    for _ in range(10):
        client.opens(end=True)
    connections = world.backends["10.0.0.1"]
    assert len(connections) == 8, "so many connections are opened to get round a limit"
    assert all(len(c.streams_open()) == 1 for c in connections)
    connections[0].answers(1)
    assert connections[0].streams_open() == [3]
    world.advance(3.0)
    statuses = [dict(e.fields).get("grpc-status") for e in client.take() if isinstance(e, Headers) and e.end]
    assert sorted(s for s in statuses if s) == ["0", "14"]


def test_streams_over_one_endpoints_limit_go_to_another() -> None:
    world = World()
    world.backend_settings["10.0.0.1"] = {MAX_CONCURRENT_STREAMS: 1}
    world.endpoints(1, 2)
    client = world.client()
    for _ in range(24):
        client.opens()
    world.advance(5.0)
    client.receives_nothing()
    assert sum(len(c.streams_open()) for c in world.connections()) == 24


@pytest.mark.parametrize("manner", [REFUSE, SILENCE, MUTE])
def test_streams_over_a_limit_look_elsewhere_where_no_further_connection_is_had(manner: str) -> None:
    """Found by the simulator: they waited for that one endpoint until they were UNAVAILABLE."""
    world = World()
    world.backend_settings["10.0.0.1"] = {MAX_CONCURRENT_STREAMS: 1}
    world.endpoints(1, 2)
    client = world.client()
    world.manners["10.0.0.1"] = manner
    for _ in range(6):
        client.opens(end=True)
        world.advance(0.1)
    world.advance(0.3)
    assert len(world.backend(2).streams_open()) == 5
    limited = world.backends["10.0.0.1"][0]
    assert limited.streams_open() == [1]
    world.advance(10.0)
    client.receives_nothing()
    limited.answers(1)
    for _ in range(2):
        client.opens(end=True)
    world.advance(0.3)
    assert limited.streams_open() == [3], "it takes streams again as soon as it has room"
    assert len(world.backend(2).streams_open()) == 6


def test_a_limit_of_zero_is_respected_until_it_is_lifted() -> None:
    world = ready(1, settings={MAX_CONCURRENT_STREAMS: 0})
    client = world.client()
    stream = client.calls()
    assert all(not c.streams_open() for c in world.connections())
    world.backend(1).sends(settings({MAX_CONCURRENT_STREAMS: 5}))
    backend = world.backend(1)
    backend.receives(request(1), Data(1, b"request", True))
    backend.answers(1)
    assert client.outcome(stream) == ("0", "")


def test_a_limit_lowered_below_what_is_open_stops_only_new_streams() -> None:
    world = ready(1)
    client = world.client()
    for _ in range(3):
        client.opens(end=True)
    first = world.backend(1)
    first.sends(settings({MAX_CONCURRENT_STREAMS: 1}))
    client.opens(end=True)
    assert len(first.streams_open()) == 3
    assert world.backend(1) is not first
    assert len(world.backend(1).streams_open()) == 1


def serves_all(world: World, client: Client, streams: list[int]) -> None:
    """Backends answer as fast as they may; every stream is answered by one of them."""
    for _ in range(100):
        for each in list(world.connections()):
            if not each.closed:
                for n in each.streams_open():
                    each.answers(n)
        world.advance(0.01)
    assert {client.outcome(s) for s in streams} == {("0", "")}
    world.nothing_is_left()


def test_a_second_connection_that_is_refused_sends_what_waits_to_another_endpoint_at_once() -> None:
    world = World()
    world.backend_settings[host_name(1)] = {MAX_CONCURRENT_STREAMS: 1}
    world.endpoints(1, 2)
    client = world.client()
    world.manners[host_name(1)] = REFUSE
    streams = [client.opens(end=True) for _ in range(10)]
    assert len(world.backend(1).streams_open()) == 1
    assert len(world.backend(2).streams_open()) == 9
    assert world.dials <= 3, "and the refused dial is not tried again for every stream"
    serves_all(world, client, streams)


def test_a_second_connection_that_takes_long_sends_what_waits_to_another_endpoint() -> None:
    world = World()
    world.backend_settings[host_name(1)] = {MAX_CONCURRENT_STREAMS: 1}
    world.endpoints(1, 2)
    client = world.client()
    world.manners[host_name(1)] = SILENCE
    streams = [client.opens(end=True) for _ in range(10)]
    world.advance(0.3)
    assert len(world.backend(1).streams_open()) == 1
    assert len(world.backend(2).streams_open()) == 9
    serves_all(world, client, streams)


def test_a_second_connection_that_is_refused_is_tried_again_later() -> None:
    world = World()
    world.backend_settings[host_name(1)] = {MAX_CONCURRENT_STREAMS: 1}
    world.endpoints(1)
    client = world.client()
    world.manners[host_name(1)] = REFUSE
    streams = [client.opens(end=True) for _ in range(3)]
    assert len(world.backend(1).streams_open()) == 1
    world.manners[host_name(1)] = ACCEPT
    world.advance(1.0)
    assert sum(len(c.streams_open()) for c in world.connections()) == 3
    serves_all(world, client, streams)


def test_an_only_endpoint_at_its_limit_takes_the_next_when_one_ends() -> None:
    world = World()
    world.backend_settings[host_name(1)] = {MAX_CONCURRENT_STREAMS: 2}
    world.endpoints(1)
    client = world.client()
    world.manners[host_name(1)] = REFUSE
    streams = [client.opens(end=True) for _ in range(50)]
    world.manners[host_name(1)] = REFUSE
    serves_all(world, client, streams)


def test_a_limit_lowered_and_raised_again_mid_connection() -> None:
    world = ready(1)
    client = world.client()
    backend = world.backend(1)
    streams = [client.opens(end=True) for _ in range(5)]
    world.manners[host_name(1)] = REFUSE  # no other connection to be had
    backend.sends(settings({MAX_CONCURRENT_STREAMS: 2}))
    streams += [client.opens(end=True) for _ in range(5)]
    assert len(backend.streams_open()) == 5
    for n in backend.streams_open()[:4]:
        backend.answers(n)
    assert len(backend.streams_open()) == 2
    backend.sends(settings({MAX_CONCURRENT_STREAMS: 100}))
    assert len(backend.streams_open()) == 6
    serves_all(world, client, streams)


def test_a_limit_of_zero_for_a_while() -> None:
    world = ready(1, 2)
    client = world.client()
    first, second = world.backend(1), world.backend(2)
    for each in (first, second):
        each.sends(settings({MAX_CONCURRENT_STREAMS: 0}))
    world.backend_settings[host_name(1)] = world.backend_settings[host_name(2)] = {MAX_CONCURRENT_STREAMS: 0}
    streams = [client.opens(end=True) for _ in range(6)]
    world.advance(1.0)
    client.receives_nothing()
    second.sends(settings({MAX_CONCURRENT_STREAMS: 3}))
    assert len(second.streams_open()) == 3
    first.sends(settings({MAX_CONCURRENT_STREAMS: 10}))
    serves_all(world, client, streams)


def test_every_endpoint_at_zero_for_good_is_unavailable_and_says_why() -> None:
    world = ready(1, 2, settings={MAX_CONCURRENT_STREAMS: 0})
    client = world.client()
    stream_id = client.opens(end=True)
    world.advance(2.6)
    status, message = client.outcome(stream_id)
    assert status == "14"
    assert "none of 2 endpoints of greeter.default:50051 can take the call" in message


def test_a_limit_below_what_waits_for_the_connection() -> None:
    """The burst that comes before SETTINGS is known is held to the limit they name."""
    world = World()
    world.backend_settings[host_name(1)] = {MAX_CONCURRENT_STREAMS: 3}
    world.manners[host_name(1)] = SILENCE
    world.endpoints(1)
    client = world.client()
    streams = [client.opens(end=True) for _ in range(20)]
    world.manners[host_name(1)] = ACCEPT
    world.accept_dial(world.dialling[0])
    world.settle()
    assert all(len(c.streams_open()) <= 3 for c in world.connections())
    serves_all(world, client, streams)


@pytest.mark.parametrize(
    "seed", range(6)
)  # in some, the limited endpoint is asked before that call and known to be full
def test_what_one_endpoint_refuses_and_the_other_has_no_room_for_goes_back_to_the_first(seed: int) -> None:
    world = World(seed)
    world.backend_settings[host_name(2)] = {MAX_CONCURRENT_STREAMS: 1}
    world.endpoints(1, 2)
    client = world.client()
    for _ in range(17):
        client.opens(end=True)
    free = world.backend(1)
    assert len(free.streams_open()) == 9
    refused = free.streams_open()[-1]
    free.take()
    free.sends(rst(refused, REFUSED_STREAM))
    free.receives(request(refused + 2, end=True))
    client.receives_nothing()


def test_a_further_connection_is_tried_again_when_its_time_has_come_though_no_stream_ends() -> None:
    """Dialled for a stream that found room meanwhile, and refused; then there was none again, too early to dial."""
    world = ready(1, settings={MAX_CONCURRENT_STREAMS: 2})
    client = world.client()
    world.manners[host_name(1)] = SILENCE
    for _ in range(3):
        client.opens(end=True)
    (further,) = world.dialling
    first = world.backend(1)
    first.answers(1)
    first.answers(3)
    assert first.streams_open() == [5]
    world.dialling.clear()
    world.engine.lost(further, "refused the connection", world.now)
    world.manners[host_name(1)] = ACCEPT
    for _ in range(3):
        client.opens(end=True)
    world.advance(1.0)
    assert [len(c.streams_open()) for c in world.connections()] == [2, 2]


def overloaded(waiting: int) -> tuple[World, Client]:
    """Two endpoints with all the streams they may have, and so many calls more."""
    world = ready(1, 2, settings={MAX_CONCURRENT_STREAMS: 2})
    client = world.client()
    for _ in range(32):
        client.opens(end=True)
    client.sends(*[headers(65 + 2 * at, POST, end=True) for at in range(waiting)])
    assert sum(len(c.streams_open()) for c in world.connections()) == 32
    for connection in world.connections():
        connection.take()
    return world, client


def test_calls_that_wait_for_room_are_served_in_their_order() -> None:
    world, _ = overloaded(40)
    (service,) = world.engine.services.values()
    connections = list(world.connections())
    order = list(service.waiting)
    for at in range(40):
        connection = connections[at % 16]
        connection.answers(connection.streams_open()[0])
        assert order[at].up is not None
        assert len(service.waiting) == 39 - at


@pytest.mark.skipif(not INTERPRETED, reason="counts calls of the interpreted build")
def test_an_answer_costs_the_same_however_many_calls_wait() -> None:
    work = {}
    for waiting in (20, 400):
        world, _ = overloaded(waiting)
        (connection, *_) = world.connections()
        count = 0

        def profile(frame: FrameType, event: str, arg: Any) -> None:
            nonlocal count
            count += event == "call" and "splice" in frame.f_code.co_filename

        sys.setprofile(profile)
        try:
            connection.answers(connection.streams_open()[0])
        finally:
            sys.setprofile(None)
        work[waiting] = count
    assert work[400] == work[20] > 10
