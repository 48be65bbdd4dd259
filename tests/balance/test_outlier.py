"""When an endpoint is to rest, for how long, and how many may: by examples and against a model."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.balance.outlier import CALM_SECONDS, MOST_SECONDS, Ejection, Record

RULES = Ejection(failures=3, seconds=30.0, share=50)


def fail(record: Record, times: int, now: float = 0.0) -> float:
    for _ in range(times):
        now += 0.001
        record.failed(now)
    return now


def test_failures_in_a_row_and_no_others_count() -> None:
    record = Record()
    now = fail(record, 2)
    assert not RULES.wanted(record)
    record.succeeded()
    now = fail(record, 2, now)
    assert not RULES.wanted(record)
    fail(record, 1, now)
    assert RULES.wanted(record)


def test_what_fails_at_one_moment_is_one_failure() -> None:
    record = Record()
    for _ in range(100):
        record.failed(7.0)
    assert record.in_a_row == 1


def test_it_is_not_wanted_twice() -> None:
    record = Record()
    fail(record, 3)
    record.eject(30.0, 1.0)
    fail(record, 9, 2.0)
    assert not RULES.wanted(record)
    record.back(31.0)
    assert not RULES.wanted(record)


def test_each_ejection_is_longer_than_the_one_before_up_to_a_most() -> None:
    record = Record()
    now, lengths = 0.0, []
    for _ in range(14):
        lengths.append(record.eject(30.0, now))
        now += lengths[-1]
        record.back(now)
    assert lengths == [30.0 * n for n in range(1, 11)] + [MOST_SECONDS] * 4
    assert record.ejections == 14


def test_calm_takes_earlier_ejections_back() -> None:
    record = Record()
    now = 0.0
    for _ in range(5):
        now += record.eject(30.0, now)
        record.back(now)
    assert record.eject(30.0, now + 2 * CALM_SECONDS + 1) == 30.0 * 4  # 5 before, 2 forgiven, this one
    record.back(now := record.until)
    assert record.eject(30.0, now + 1000.0) == 30.0


def test_a_base_longer_than_the_most_is_kept() -> None:
    record = Record()
    assert record.eject(600.0, 0.0) == 600.0
    record.back(600.0)
    assert record.eject(600.0, 600.0) == 600.0


def test_an_ejection_that_is_ended_early_counts_calm_from_then() -> None:
    record = Record()
    record.eject(30.0, 0.0)
    record.back(5.0)
    assert record.until == 5.0
    assert record.eject(30.0, 5.0 + CALM_SECONDS) == 30.0


@pytest.mark.parametrize(
    ("share", "endpoints", "most"),
    [
        (50, 1, 0),
        (50, 2, 1),
        (50, 3, 1),
        (50, 4, 2),
        (10, 9, 0),
        (10, 10, 1),
        (90, 10, 9),
        (33, 3, 0),
        (34, 3, 1),
    ],
)
def test_never_more_than_the_share(share: int, endpoints: int, most: int) -> None:
    rules = Ejection(1, 30.0, share)
    ejected = 0
    while ejected < endpoints and rules.allowed(endpoints - ejected, ejected):
        ejected += 1
    assert ejected == most


class Model:
    """The same in other words: a list of what happened, looked through each time."""

    def __init__(self) -> None:
        self.events: list[tuple[float, str]] = []
        self.level = 0
        self.back_at = 0.0

    def in_a_row(self) -> int:
        moments = set()
        for at, what in reversed(self.events):
            if what != "failed":
                break
            moments.add(at)
        return len(moments)

    def eject(self, now: float, base: float) -> float:
        forgiven = int((now - self.back_at) // CALM_SECONDS)
        self.level = max(0, self.level - forgiven) + 1
        self.events.append((now, "ejected"))
        return min(base * self.level, max(base, MOST_SECONDS))


@given(
    st.lists(
        st.tuples(st.sampled_from(["ok", "failed", "failed", "wait"]), st.sampled_from([0.0, 0.5, 7.0]))
    ),
    st.integers(1, 4),
    st.sampled_from([1.0, 30.0]),
)
@settings(max_examples=300, deadline=None)
def test_it_is_the_models(steps: list[tuple[str, float]], failures: int, base: float) -> None:
    rules, record, model, now = Ejection(failures, base, 50), Record(), Model(), 1.0
    for what, wait in steps:
        now += wait
        if what == "ok":
            record.succeeded()
            model.events.append((now, "ok"))
        elif what == "failed":
            record.failed(now)
            model.events.append((now, "failed"))
        assert record.in_a_row == model.in_a_row()
        assert rules.wanted(record) == (model.in_a_row() >= failures)
        if rules.wanted(record):
            seconds = record.eject(base, now)
            assert seconds == model.eject(now, base)
            now += seconds
            record.back(now)
            model.back_at = now
