"""A connection whose other end acknowledges nothing: avoided at once, given up by the kernel, taken up again."""

from __future__ import annotations

from transcript import REFUSE, SILENCE, Headers, World, host_name, ready

DEAD = "did not answer in time"


def stall(world: World, host: int, stalled: bool = True) -> None:
    connection = world.backend(host)
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
