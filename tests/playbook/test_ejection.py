"""Outlier ejection in the engine: what counts as failure, what rests, and that something always remains."""

from __future__ import annotations

import pytest
from rawhttp2 import CANCEL, INTERNAL_ERROR, NO_ERROR, OK, POST, REFUSED_STREAM, Headers, data, headers, rst
from transcript import SILENCE, BackendConnection, Client, World, host_name, ready

from sidecar.balance.outlier import Ejection

UNAVAILABLE = (("grpc-status", "14"),)
NOT_FOUND = (("grpc-status", "5"),)
RULES = Ejection(failures=3, seconds=30.0, share=50)


def world_of(*hosts: int, rules: Ejection | None = RULES) -> tuple[World, Client]:
    world = World()
    world.engine.eject_outliers(rules)
    world.endpoints(*hosts)
    return world, world.client()


def next_call(world: World, client: Client) -> tuple[BackendConnection, int]:
    """A call, and where it arrived: the connection and the stream's number there."""
    seen = {each: len(each.streams_open()) for each in world.connections()}
    world.advance(0.01)
    client.calls()
    (taken,) = [each for each in world.connections() if len(each.streams_open()) > seen.get(each, 0)]
    return taken, taken.streams_open()[-1]


def answer_all(
    world: World, client: Client, bad: set[str], calls: int, how: str = "unavailable"
) -> dict[str, int]:
    """So many calls; those at a bad host fail as told. How many each host got."""
    got: dict[str, int] = {}
    for _ in range(calls):
        connection, stream = next_call(world, client)
        got[connection.host] = got.get(connection.host, 0) + 1
        if connection.host not in bad:
            connection.answers(stream)
        elif how == "unavailable":
            connection.sends(headers(stream, (*OK, *UNAVAILABLE), end=True))
        elif how == "late":
            connection.sends(
                headers(stream, OK), data(stream, b"half"), headers(stream, UNAVAILABLE, end=True)
            )
        elif how == "reset":
            connection.sends(rst(stream, INTERNAL_ERROR))
        elif how == "lost":
            connection.leaves()
            world.advance(2.0)  # until it is connected again
        elif how == "not found":
            connection.sends(headers(stream, (*OK, *NOT_FOUND), end=True))
        elif how == "cancelled":
            connection.sends(rst(stream, CANCEL))
        elif how == "refused":
            connection.sends(rst(stream, REFUSED_STREAM))
            for each in world.connections():
                for left in each.streams_open():
                    each.answers(left)
    return got


def state_of(world: World, host: int) -> str:
    (service,) = world.engine.services.values()
    return service.backends[host_name(host), 50051].state()


def ejections(world: World) -> int:
    return sum(b.record.ejections for s in world.engine.services.values() for b in s.backends.values())


BAD = {host_name(1)}


@pytest.mark.parametrize("how", ["unavailable", "late", "reset", "lost"])
def test_an_endpoint_whose_calls_keep_failing_rests(how: str) -> None:
    world, client = world_of(1, 2, 3)
    got = answer_all(world, client, BAD, 12, how)
    assert got[host_name(1)] == 3
    assert state_of(world, 1) == "ejected"
    assert ejections(world) == 1
    got = answer_all(world, client, BAD, 20, how)
    assert host_name(1) not in got
    world.nothing_is_left()


@pytest.mark.parametrize("how", ["not found", "cancelled", "refused"])
def test_what_is_no_failure_of_the_endpoint_is_not_counted(how: str) -> None:
    world, client = world_of(1, 2, 3)
    answer_all(world, client, BAD, 40, how)
    assert state_of(world, 1) == "ready"
    assert ejections(world) == 0


def test_off_it_changes_nothing() -> None:
    world, client = world_of(1, 2, 3, rules=None)
    got = answer_all(world, client, BAD, 30)
    assert got == {host_name(n): 10 for n in (1, 2, 3)}


def test_a_success_begins_the_count_anew() -> None:
    world, client = world_of(1, 2)
    for _ in range(5):
        answer_all(world, client, BAD, 4)  # two of them at the bad one
        answer_all(world, client, set(), 2)
    assert ejections(world) == 0


def test_it_is_back_in_time_and_rests_longer_the_next_time() -> None:
    world, client = world_of(1, 2, 3)
    answer_all(world, client, BAD, 12)
    world.advance(29.0)
    assert state_of(world, 1) == "ejected"
    world.advance(1.0)
    assert state_of(world, 1) == "ready"
    got = answer_all(world, client, BAD, 12)
    assert got[host_name(1)] == 3
    world.advance(59.0)
    assert state_of(world, 1) == "ejected"
    world.advance(1.0)
    assert state_of(world, 1) == "ready"


def test_what_it_has_goes_on() -> None:
    world, client = world_of(1, 2)
    first, stream = next_call(world, client)
    if first.host != host_name(1):
        first, stream = next_call(world, client)
    answer_all(world, client, BAD, 12)
    assert state_of(world, 1) == "ejected"
    client.take()
    first.answers(stream)
    assert [e.end for e in client.take() if isinstance(e, Headers)] == [False, True]


def test_no_more_than_the_share_rests() -> None:
    world, client = world_of(1, 2, 3, 4)
    bad = {host_name(n) for n in (1, 2, 3, 4)}
    got = answer_all(world, client, bad, 100)
    resting = [n for n in (1, 2, 3, 4) if state_of(world, n) == "ejected"]
    assert len(resting) == 2
    # Those that remain take all there is, evenly, though each of their calls fails too.
    left = sorted(count for host, count in got.items() if int(host[-1]) not in resting)
    assert left[1] - left[0] <= 6
    assert ejections(world) == 2


def test_a_single_endpoint_never_rests() -> None:
    world, client = world_of(1)
    answer_all(world, client, BAD, 50)
    assert state_of(world, 1) == "ready"


def test_one_that_was_to_rest_is_better_than_none() -> None:
    world, client = world_of(1, 2)
    answer_all(world, client, BAD, 12)
    assert state_of(world, 1) == "ejected"
    world.manners[host_name(2)] = SILENCE
    world.backend(2).leaves()
    world.advance(1.0)
    connection, stream = next_call(world, client)
    assert connection.host == host_name(1)
    connection.answers(stream)
    assert state_of(world, 1) == "ready"


def test_one_that_was_to_rest_and_is_gone_is_not_waited_for() -> None:
    world, client = world_of(1, 2)
    answer_all(world, client, BAD, 12)
    for number in (1, 2):
        world.manners[host_name(number)] = SILENCE
        world.backend(number).leaves()
    client.take()
    stream = client.calls()
    world.advance(3.0)
    assert client.outcome(stream)[0] == "14"
    world.nothing_is_left()


def test_a_lost_connection_is_one_failure_however_many_calls_it_had() -> None:
    world, client = world_of(1, 2)
    for _ in range(20):
        client.calls()
    world.backend(1).leaves()
    assert ejections(world) == 0


def test_an_endpoint_that_left_takes_its_record_along() -> None:
    world, client = world_of(1, 2, 3)
    answer_all(world, client, BAD, 12)
    assert state_of(world, 1) == "ejected"
    world.endpoints(2, 3)
    world.advance(1.0)
    world.endpoints(1, 2, 3)
    assert state_of(world, 1) == "ready"
    world.advance(60.0)  # the timer of before finds nothing to do
    assert state_of(world, 1) == "ready"


def test_an_answer_before_the_request_has_ended_is_judged_too() -> None:
    """A server that refuses early ends its side and then resets with NO_ERROR."""
    world, client = world_of(1, 2, 3)
    for _ in range(12):
        world.advance(0.01)
        seen = {each: len(each.streams_open()) for each in world.connections()}
        client.opens(POST)
        (taken,) = [each for each in world.connections() if len(each.streams_open()) > seen.get(each, 0)]
        stream = taken.streams_open()[-1]
        status = UNAVAILABLE if taken.host == host_name(1) else (("grpc-status", "0"),)
        taken.sends(headers(stream, (*OK, *status), end=True), rst(stream, NO_ERROR))
    assert state_of(world, 1) == "ejected"


def test_status_says_why() -> None:
    world, client = world_of(1, 2, 3)
    answer_all(world, client, BAD, 12)
    (service,) = world.engine.services.values()
    assert service.backends[host_name(1), 50051].last_error == "ejected for 30 s: 3 failures in a row"


def test_without_rules_nothing_is_remembered() -> None:
    world = ready(1)
    client = world.client()
    answer_all(world, client, BAD, 10)
    (service,) = world.engine.services.values()
    assert service.backends[host_name(1), 50051].record.in_a_row == 0
