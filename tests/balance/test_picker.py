"""Least open streams by method: properties, and every pick against a naive oracle."""

from __future__ import annotations

import os
import random
import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pickoracle import Pair, in_order, members

from sidecar.balance.picker import MAX_METHODS, MAX_SLOTS, LeastOpenStreams, Member, Slot

CALL, WATCH = b"/greeter.Greeter/SayHello", b"/greeter.Greeter/Watch"
INTERPRETED = os.environ.get("EVENSTREAM_BUILD") == "interpreted"


def picker(number: int) -> tuple[LeastOpenStreams, list[Member]]:
    made, found = LeastOpenStreams(in_order), members(number)
    made.update(found)
    return made, found


def picked(made: LeastOpenStreams, method: bytes = CALL) -> Member:
    slot = made.pick(method)
    assert slot is not None
    assert slot.member is not None
    return slot.member


# --- against the oracle ------------------------------------------------------------------------------

Step = tuple[int, int, int]
STEPS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 7), st.integers(0, 7)), max_size=120)


def play(pair: Pair, step: Step, methods: int = 3) -> None:
    kind, one, two = step
    member = pair.all[one % len(pair.all)]
    if kind < 4:
        pair.pick(b"/m%d" % (two % methods))
    elif kind < 7:
        if pair.open:
            pair.release((one * 8 + two) % len(pair.open))
    elif kind == 7:
        pair.suspend(member)
    elif kind == 8:
        if member in pair.oracle.members:
            pair.resume(member)
    else:
        low = min(one, two)
        pair.update(pair.all[low : max(one, two) + 1])


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_every_pick_is_the_oracles(steps: list[Step]) -> None:
    pair = Pair(8)
    pair.update(pair.all[:4])
    for step in steps:
        play(pair, step)
    while pair.open:
        pair.release(0)


@pytest.mark.parametrize("seed", range(8))
def test_every_pick_is_the_oracles_for_long(seed: int) -> None:
    rng = random.Random(seed)
    pair = Pair(8)
    pair.update(pair.all[: rng.randrange(1, 9)])
    for _ in range(1500):
        play(pair, (rng.randrange(10), rng.randrange(8), rng.randrange(8)), methods=5)
    while pair.open:
        pair.release(rng.randrange(len(pair.open)))


@pytest.mark.parametrize("seed", range(3))
def test_every_pick_is_the_oracles_beyond_the_methods_limit(seed: int) -> None:
    rng = random.Random(seed)
    pair = Pair(4)
    pair.update(pair.all)
    for _ in range(1200):
        if rng.random() < 0.7:
            pair.pick(b"/m%d" % rng.randrange(3 * MAX_METHODS))
        elif pair.open:
            pair.release(rng.randrange(len(pair.open)))


# --- what it promises --------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 3, 7, 100])
def test_streams_that_stay_open_differ_by_one_at_most(number: int) -> None:
    made, found = picker(number)
    for total in range(1, 5 * number):
        picked(made)
        counts = [member.open_streams for member in found]
        assert max(counts) - min(counts) <= 1
        assert sum(counts) == total


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 6), st.lists(st.integers(0, 99), max_size=150))
def test_a_pick_never_passes_over_a_member_with_fewer(number: int, steps: list[int]) -> None:
    made, found = picker(number)
    open_slots: list[Slot] = []
    for step in steps:
        if step < 60 or not open_slots:
            before = {member: member.open_streams for member in found}
            slot = made.pick(CALL)
            assert slot is not None
            assert before[slot.member] == min(before.values())
            open_slots.append(slot)
        else:
            made.release(open_slots.pop(step % len(open_slots)))


def test_calls_one_after_another_go_round_in_turn() -> None:
    made, found = picker(3)
    order = []
    for _ in range(9):
        slot = made.pick(CALL)
        assert slot is not None
        order.append(slot.member)
        made.release(slot)
    assert order == found * 3


def test_methods_are_counted_apart() -> None:
    """60 long streams, then a member joins: it takes its share of calls, not all of them."""
    made, found = picker(8)
    made.update(found[:6])
    for _ in range(60):
        picked(made, WATCH)
    made.update(found)
    calls = Counter(picked(made, CALL) for _ in range(80))
    assert set(calls.values()) == {10}
    assert Counter(picked(made, WATCH) for _ in range(20)) == {found[6]: 10, found[7]: 10}


def test_a_member_that_joins_is_next_until_it_is_even() -> None:
    made, found = picker(4)
    made.update(found[:3])
    for _ in range(9):
        picked(made)
    made.update(found)
    assert [picked(made) for _ in range(3)] == [found[3]] * 3
    assert Counter(picked(made) for _ in range(4)) == dict.fromkeys(found, 1)


def test_a_member_that_leaves_gets_nothing_more_and_its_streams_may_end() -> None:
    made, found = picker(3)
    slots = [made.pick(CALL) for _ in range(6)]
    made.update(found[1:])
    assert not found[0].in_rotation
    assert found[0] not in {picked(made) for _ in range(20)}
    for slot in slots:
        assert slot is not None
        made.release(slot)
    assert found[0].open_streams == 0


def test_a_suspended_member_keeps_its_count() -> None:
    made, found = picker(2)
    for _ in range(4):
        picked(made)
    made.suspend(found[0])
    made.suspend(found[0])
    assert [picked(made) for _ in range(3)] == [found[1]] * 3
    made.resume(found[0])
    made.resume(found[0])
    assert (found[0].open_streams, found[1].open_streams) == (2, 5)
    assert [picked(made) for _ in range(3)] == [found[0]] * 3


def test_nothing_in_rotation_gives_nothing() -> None:
    made, found = picker(2)
    assert LeastOpenStreams(in_order).pick(CALL) is None
    for member in found:
        made.suspend(member)
    assert made.pick(CALL) is None
    made.update([])
    assert made.pick(CALL) is None
    made.update(found)
    assert picked(made) in found


def test_an_update_to_the_same_members_changes_nothing() -> None:
    made, found = picker(3)
    made.suspend(found[1])
    picked(made)
    made.update(list(found))
    assert not found[1].in_rotation
    assert [picked(made) for _ in range(3)] == [found[2], found[0], found[2]]


def test_a_new_method_starts_where_least_was_picked_and_by_chance_among_equals() -> None:
    shuffled: list[list[Member]] = []

    def reverse(order: list[Member]) -> None:
        order.reverse()
        shuffled.append(list(order))

    made, found = LeastOpenStreams(reverse), members(4)
    made.update(found)
    assert [picked(made) for _ in range(2)] == [found[3], found[2]]
    assert [picked(made, WATCH) for _ in range(2)] == [found[1], found[0]]
    assert len(shuffled) == 2
    assert all(set(order) == set(found) for order in shuffled)


def test_many_sidecars_do_not_all_begin_with_the_same_endpoint() -> None:
    first: Counter[str] = Counter()
    for seed in range(300):
        made, found = LeastOpenStreams(random.Random(seed).shuffle), members(6)
        made.update(found)
        first[picked(made).endpoint.host] += 1
    assert len(first) == 6
    assert max(first.values()) < 2 * 300 / 6


# --- limits ------------------------------------------------------------------------------------------


def test_methods_beyond_the_limit_share_one_count() -> None:
    made, _ = picker(3)
    held = [made.pick(b"/m%d" % at) for at in range(MAX_METHODS)]
    shared = Counter(picked(made, b"/more%d" % at) for at in range(30))
    assert set(shared.values()) == {10}
    for slot in held:
        assert slot is not None
        made.release(slot)


def test_idle_methods_make_room() -> None:
    made, _ = picker(3)
    for at in range(10 * MAX_METHODS):
        slot = made.pick(b"/m%d" % at)
        assert slot is not None
        assert slot.method is not None
        assert slot.method.name == b"/m%d" % at
        made.release(slot)


def test_many_members_leave_room_for_fewer_methods() -> None:
    number = MAX_SLOTS // 4
    made, found = picker(number)
    names = set()
    for at in range(20):
        slot = made.pick(b"/m%d" % at)
        assert slot is not None
        assert slot.method is not None
        names.add(slot.method.name)
        if at < 4:
            assert len(slot.method.slots) == number
    assert len(names) <= 5
    assert sum(member.open_streams for member in found) == 20


# --- cost --------------------------------------------------------------------------------------------


def lines_run(action: Callable[[], object]) -> int:
    """Lines of the picker that one action executes: a measure of work that no busy machine changes."""
    count = 0

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count
        if "balance" not in frame.f_code.co_filename:
            return None
        if event == "line":
            count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.skipif(not INTERPRETED, reason="counts lines of the interpreted build")
def test_a_pick_costs_the_same_for_three_and_for_a_thousand() -> None:
    work = {}
    for number in (3, 1000):
        made, _ = picker(number)
        for _ in range(2 * number):
            picked(made)

        def calls(made: LeastOpenStreams = made) -> None:
            for _ in range(3000):
                slot = made.pick(CALL)
                assert slot is not None
                made.release(slot)

        work[number] = lines_run(calls)
    assert work[3] > 3000
    assert work[1000] <= work[3] * 1.05
