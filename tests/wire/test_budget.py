"""A budget that refills with time, against exact arithmetic."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from sidecar.wire.budget import Budget


def test_it_starts_full_and_runs_out() -> None:
    budget = Budget(3, 1.0, 3)
    assert [budget.spend(10.0) for _ in range(5)] == [True, True, True, False, False]


def test_it_refills_with_time_up_to_the_brim() -> None:
    budget = Budget(3, 2.0, 3)
    for _ in range(3):
        assert budget.spend(0.0)
    assert not budget.spend(0.25)
    assert budget.spend(0.5)
    assert not budget.spend(0.5)
    assert [budget.spend(1000.0) for _ in range(4)] == [True, True, True, False]


def test_what_is_earned_may_exceed_what_time_gives_up_to_the_most() -> None:
    budget = Budget(1, 1.0, 3)
    budget.earn(100.0)
    assert [budget.spend(0.0) for _ in range(4)] == [True, True, True, False]
    budget.earn(2.5)
    assert budget.spend(100.0), "time takes nothing away"
    assert budget.spend(100.0)
    assert not budget.spend(100.0)
    assert budget.spend(200.0)
    assert not budget.spend(200.0), "time fills it no further than it began"


def test_more_may_be_earned_than_time_gives() -> None:
    budget = Budget(2, 1.0, 5)
    assert [budget.spend(0.0) for _ in range(3)] == [True, True, False]
    budget.earn(100.0)
    assert [budget.spend(0.0) for _ in range(6)] == [True] * 5 + [False]
    assert [budget.spend(1000.0) for _ in range(3)] == [True, True, False], "time fills it to 2 only"
    budget.earn(4.0)
    assert [budget.spend(2000.0) for _ in range(5)] == [True] * 4 + [False], (
        "and takes nothing that was earned"
    )


def test_a_clock_that_goes_back_gives_nothing() -> None:
    budget = Budget(1, 1.0, 1)
    assert budget.spend(100.0)
    assert not budget.spend(50.0)
    assert not budget.spend(50.5)
    assert budget.spend(52.0)


@given(
    st.integers(1, 50),
    st.integers(0, 50),
    st.integers(0, 8),
    st.lists(st.tuples(st.integers(0, 16), st.booleans()), max_size=80),
)
def test_against_exact_arithmetic(full: int, more: int, quarters: int, steps: list[tuple[int, bool]]) -> None:
    """Steps of a sixteenth second and rates of a quarter are exact in binary."""
    budget = Budget(full, quarters / 4, full + more)
    level, now, last = Fraction(full), Fraction(0), None
    for sixteenths, spend in steps:
        now += Fraction(sixteenths, 16)
        if not spend:
            budget.earn(0.5)
            level = min(Fraction(full + more), level + Fraction(1, 2))
            continue
        if last is not None and level < full:
            level = min(Fraction(full), level + (now - last) * Fraction(quarters, 4))
        last = now
        assert budget.spend(float(now)) == (level >= 1)
        if level >= 1:
            level -= 1
