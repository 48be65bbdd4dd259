"""A connection whose other end acknowledges nothing: avoided at once, given up by the kernel, taken up again."""

from __future__ import annotations

from rawhttp2 import MAX_CONCURRENT_STREAMS, Headers, Ping, ping
from transcript import REFUSE, SILENCE, BackendConnection, World, host_name, ready

from sidecar.splice import backend

DEAD = "did not answer in time"


def stall(world: World, host: int, stalled: bool = True, connection: BackendConnection | None = None) -> None:
    connection = connection or world.backend(host)
    world.engine.stalled(connection.peer, stalled, world.now)
    world.settle()


def started(world: World, host: int) -> int:
    """Streams the backend's connections have seen so far."""
    found = world.backends[host_name(host)]
    return sum(isinstance(event, Headers) for each in found for event in each.inbox)


def test_a_stalled_endpoint_gets_nothing_new_and_keeps_what_it_has() -> None:
    world = ready(1, 2, 3)
    client = world.client()
    for _ in range(3):
        client.calls()
    before = started(world, 1)
    world.manners[host_name(1)] = SILENCE  # its machine is gone: no new connection either
    stall(world, 1)
    for _ in range(20):
        client.calls()
        world.advance(0.1)
    assert started(world, 1) == before
    assert started(world, 2) + started(world, 3) == 22
    assert len(world.backend(1).streams_open()) == 1
    client.receives_nothing()


def test_its_calls_end_with_the_connection() -> None:
    world = ready(1, 2)
    client = world.client()
    client.calls()
    client.calls()
    world.manners[host_name(1)] = SILENCE
    stall(world, 1)
    world.advance(15)
    world.backend(1).leaves(DEAD)
    (ended,) = client.take()
    assert isinstance(ended, Headers)
    assert ("grpc-status", "14") in ended.fields
    assert "10.0.0.1:50051" in ended.fields[-1][1]
    assert DEAD in ended.fields[-1][1]


def test_a_machine_that_is_gone_is_dialled_with_backoff_and_not_in_a_loop() -> None:
    world = ready(1, 2)
    world.client()
    world.manners[host_name(1)] = SILENCE
    stall(world, 1)
    world.advance(15)
    world.backend(1).leaves(DEAD)
    before = world.dials
    world.advance(60)
    assert 5 <= world.dials - before <= 20  # 3 s a dial, then 5 s at most


def test_a_way_that_is_gone_is_replaced_by_another() -> None:
    """The pod is there, but this one connection's packets go nowhere: a lost entry of NAT, say."""
    world = ready(1)
    client = world.client()
    first = client.calls()
    old = world.backend(1)
    stall(world, 1)
    second = client.calls()
    new = world.backend(1)
    assert new is not old
    new.answers(1)
    assert client.outcome(second)[0] == "0"
    old.leaves(DEAD)
    assert client.outcome(first)[0] == "14"
    third = client.calls()
    new.answers(3)
    assert client.outcome(third)[0] == "0"
    world.nothing_is_left()


def test_what_acknowledges_again_is_used_again() -> None:
    world = ready(1, 2)
    client = world.client()
    world.manners[host_name(1)] = SILENCE
    old = world.backend(1)
    stall(world, 1)
    world.advance(2)
    for _ in range(4):
        client.calls()
    assert started(world, 1) == 0
    world.engine.stalled(old.peer, False, world.now)
    world.settle()
    for _ in range(4):
        client.calls()
    assert len(old.streams_open()) == 4  # it had fewest


def test_the_new_connection_that_came_to_nothing_does_not_take_the_old_one_along() -> None:
    world = ready(1)
    client = world.client()
    world.manners[host_name(1)] = SILENCE
    old = world.backend(1)
    stall(world, 1)
    world.advance(1)
    world.engine.stalled(old.peer, False, world.now)
    world.advance(60)
    stream = client.calls()
    old.answers(1)
    assert client.outcome(stream)[0] == "0"


def test_the_only_endpoint_stalled_is_unavailable_in_time_and_says_why() -> None:
    world = ready(1)
    client = world.client()
    world.manners[host_name(1)] = SILENCE
    stall(world, 1)
    stream = client.calls()
    world.advance(3.0)
    status, message = client.outcome(stream)
    assert status == "14"
    assert "10.0.0.1:50051" in message
    assert "acknowledges nothing" in message


def test_calls_that_wait_go_out_when_it_acknowledges_again() -> None:
    world = ready(1)
    client = world.client()
    world.manners[host_name(1)] = REFUSE
    old = world.backend(1)
    stall(world, 1)
    stream = client.calls()
    world.advance(1.0)
    client.receives_nothing()
    world.engine.stalled(old.peer, False, world.now)
    world.settle()
    old.answers(1)
    assert client.outcome(stream)[0] == "0"
    world.nothing_is_left()


def test_a_removed_endpoint_that_stalls_is_not_dialled() -> None:
    world = ready(1, 2)
    client = world.client()
    client.calls()
    client.calls()
    world.endpoints(2)
    before = world.dials
    stall(world, 1)
    world.advance(10)
    assert world.dials == before
    world.backend(1).leaves(DEAD)
    assert world.dials == before


def test_stalling_twice_counts_once() -> None:
    world = ready(1)
    world.client()
    world.manners[host_name(1)] = SILENCE
    for _ in range(3):
        stall(world, 1)
    assert world.engine.totals.stalled == 1
    assert world.dials == 2


# --- its other connections -----------------------------------------------------------------------

QUESTION = b"evenwell"


def two_connections(world: World) -> tuple[BackendConnection, BackendConnection]:
    """To a backend that takes one stream on each: the first has a call, the second has had one."""
    client = world.client()
    client.calls()
    second_call = client.calls()
    first, second = world.backends[host_name(1)]
    second.answers(1)
    assert client.outcome(second_call)[0] == "0"
    client.take()
    return first, second


def questions(connection: BackendConnection) -> int:
    return connection.housekeeping.count(Ping(QUESTION, False))


def test_its_other_connections_are_asked_and_take_nothing_until_they_answer() -> None:
    """Found by the simulator: an idle one took a call for a pod that was known to be gone."""
    world = ready(1, settings={MAX_CONCURRENT_STREAMS: 1})
    first, second = two_connections(world)
    world.manners[host_name(1)] = SILENCE
    stall(world, 1, connection=first)
    assert questions(second) == 1
    assert questions(first) == 0
    before = started(world, 1)
    client = world.client()
    client.calls()
    world.advance(2.0)
    assert started(world, 1) == before
    second.sends(ping(QUESTION, True))
    assert started(world, 1) == before + 1
    assert second.streams_open() == [3]


def test_one_whose_kernel_has_acknowledged_the_question_is_used_again() -> None:
    world = ready(1, settings={MAX_CONCURRENT_STREAMS: 1})
    first, second = two_connections(world)
    world.manners[host_name(1)] = SILENCE
    stall(world, 1, connection=first)
    world.advance(1.0)
    client = world.client()
    client.calls()
    assert second.streams_open() == []
    world.advance(backend.DOUBT_TIMEOUT)
    assert second.streams_open() == [3]


def test_one_that_stalls_too_stays_out_after_the_doubt() -> None:
    world = ready(1, settings={MAX_CONCURRENT_STREAMS: 1})
    first, second = two_connections(world)
    world.manners[host_name(1)] = SILENCE
    stall(world, 1, connection=first)
    world.advance(1.5)
    stall(world, 1, connection=second)
    before = started(world, 1)
    client = world.client()
    stream = client.calls()
    world.advance(10.0)
    assert started(world, 1) == before
    assert client.outcome(stream)[0] == "14"


def test_it_is_not_asked_more_often_than_servers_allow() -> None:
    """gRFC A8: servers end connections with PINGs more often than every five minutes."""
    world = ready(1, settings={MAX_CONCURRENT_STREAMS: 1})
    first, second = two_connections(world)
    for _ in range(20):
        stall(world, 1, connection=first)
        world.advance(4.0)
        stall(world, 1, False, first)
        world.advance(4.0)
    assert questions(second) == 1
    world.advance(300.0)
    stall(world, 1, connection=first)
    assert questions(second) == 2


def test_an_answer_nobody_asked_for_changes_nothing() -> None:
    world = ready(1)
    client = world.client()
    world.backend(1).sends(ping(QUESTION, True))
    stream = client.calls()
    world.backend(1).answers(1)
    assert client.outcome(stream)[0] == "0"
    world.nothing_is_left()


def test_a_retired_backend_in_doubt_keeps_its_streams_and_nothing_else() -> None:
    world = ready(1, 2, settings={MAX_CONCURRENT_STREAMS: 1})
    client = world.client()
    for _ in range(4):
        client.calls()
    first, second = world.backends[host_name(1)]
    stall(world, 1, connection=first)
    world.endpoints(2)
    second.sends(ping(QUESTION, True))
    world.advance(backend.DOUBT_TIMEOUT)
    for connection in (first, second):
        connection.answers(1)
        assert connection.closed
