"""A budget that refills with time, against exact arithmetic."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from sidecar.wire.budget import Budget


def test_it_starts_full_and_runs_out() -> None:
    budget = Budget(3, 1.0)
    assert [budget.spend(10.0) for _ in range(5)] == [True, True, True, False, False]


def test_it_refills_with_time_up_to_the_brim() -> None:
    budget = Budget(3, 2.0)
    for _ in range(3):
        assert budget.spend(0.0)
    assert not budget.spend(0.25)
    assert budget.spend(0.5)
    assert not budget.spend(0.5)
    assert [budget.spend(1000.0) for _ in range(4)] == [True, True, True, False]


def test_what_is_earned_never_overflows() -> None:
    budget = Budget(2, 0.0)
    budget.earn(100.0)
    assert [budget.spend(0.0) for _ in range(3)] == [True, True, False]
    budget.earn(1.0)
    assert budget.spend(0.0)
    assert not budget.spend(0.0)


def test_a_clock_that_goes_back_gives_nothing() -> None:
    budget = Budget(1, 1.0)
    assert budget.spend(100.0)
    assert not budget.spend(50.0)
    assert not budget.spend(50.5)
    assert budget.spend(52.0)


@given(
    st.integers(1, 50),
    st.integers(0, 8),
    st.lists(st.tuples(st.integers(0, 16), st.booleans()), max_size=80),
)
def test_against_exact_arithmetic(most: int, quarters: int, steps: list[tuple[int, bool]]) -> None:
    """Steps of a sixteenth second and rates of a quarter are exact in binary."""
    budget = Budget(most, quarters / 4)
    level, now, last = Fraction(most), Fraction(0), None
    for sixteenths, spend in steps:
        now += Fraction(sixteenths, 16)
        if not spend:
            budget.earn(0.5)
            level = min(Fraction(most), level + Fraction(1, 2))
            continue
        if last is not None:
            level = min(Fraction(most), level + (now - last) * Fraction(quarters, 4))
        last = now
        assert budget.spend(float(now)) == (level >= 1)
        if level >= 1:
            level -= 1
