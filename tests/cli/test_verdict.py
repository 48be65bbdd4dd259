"""The verdict against tables, exact counts, and picks that are known to be even, random or wrong."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from injector.cli.verdict import UNLIKELY, binomial_tail, chance_of, chi_square_tail, judge

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("value", "degrees", "tail"),
    [  # NIST/SEMATECH e-Handbook of Statistical Methods, table 1.3.6.7.4
        (2.706, 1, 0.10),
        (3.841, 1, 0.05),
        (5.991, 2, 0.05),
        (9.210, 2, 0.01),
        (11.345, 3, 0.01),
        (16.266, 3, 0.001),
        (18.307, 10, 0.05),
        (37.566, 20, 0.01),
        (124.342, 100, 0.05),
    ],
)
def test_chi_square_is_what_the_tables_say(value: float, degrees: int, tail: float):
    assert chi_square_tail(value, degrees) == pytest.approx(tail, rel=0.005)


def test_chi_square_at_its_ends():
    assert chi_square_tail(0.0, 5) == 1.0
    assert chi_square_tail(1e6, 5) == 0.0
    assert 0.4 < chi_square_tail(1000.0, 1000) < 0.6


def test_the_binomial_tail_is_exact():
    throws = list(itertools.product((0, 1), repeat=8))
    for least in range(9):
        share = sum(sum(throw) >= least for throw in throws) / len(throws)
        assert binomial_tail(least, 8, 0.5) == pytest.approx(share)


@pytest.mark.parametrize(
    ("calls", "open_streams", "word"),
    [
        ([], [], "no endpoint"),
        ([100], [1], "one endpoint"),
        ([3, 0, 0], [0, 0, 0], "too few"),
        ([1000, 1000, 1000], [1, 1, 1], "even"),
        ([1000, 1050, 1080], [0, 0, 0], "even"),  # within a tenth
        ([5, 5, 6], [0, 0, 0], "even"),  # sixteen streams cannot be spread better
        ([30, 21, 27], [0, 0, 0], "as random picks"),
        ([900, 0, 0], [1, 0, 0], "uneven"),
        ([1000, 1000, 1500], [0, 0, 0], "uneven"),
        ([0, 0, 0, 0], [10, 10, 10, 10], "even"),  # long streams: no calls in the window
        ([0, 0, 0, 0], [1, 1, 1, 2], "even"),
        ([0, 0, 0, 0], [40, 0, 0, 0], "uneven"),
        ([0, 0, 0, 0], [4, 0, 0, 0], "as random picks"),
        ([0, 0, 0, 0], [16, 0, 0, 0], "uneven"),
        ([2000, 1000], [10.2, 9.8], "even"),  # the slower endpoint has as many open as the other
        ([2000, 1000], [10.2, 4.8], "uneven"),
        ([2000, 1000], [0.4, 0.4], "uneven"),  # too few open to tell
    ],
)
def test_words(calls: list[int], open_streams: list[float], word: str):
    found = judge(calls, open_streams)
    assert found.word == word, found
    assert found.uneven == (word == "uneven")
    assert found.why


def test_random_picks_are_seldom_called_uneven():
    """At a threshold of one in a hundred, about one window in a hundred of random picks is; never one in twenty."""
    dice = random.Random(20261124)
    wrong = 0
    for _ in range(1000):
        counts = Counter(dice.choices(range(8), k=400))
        wrong += judge([counts[each] for each in range(8)], [0] * 8).uneven
    assert wrong < 50


def test_an_endpoint_given_twice_its_share_is_found_out():
    dice = random.Random(20261124)
    found = 0
    for _ in range(100):
        counts = Counter(dice.choices(range(8), weights=[2, *[1] * 7], k=800))
        found += judge([counts[each] for each in range(8)], [0] * 8).uneven
    assert found >= 99


@given(st.lists(st.integers(0, 10_000), min_size=2, max_size=50).filter(any))
def test_the_chance_is_a_probability_and_order_does_not_matter(counts: list[int]):
    chance = chance_of(counts)
    assert 0.0 <= chance <= 1.0
    assert chance_of(sorted(counts)) == pytest.approx(chance)


@given(st.integers(2, 40), st.integers(0, 2000))
def test_as_even_as_can_be_is_even(endpoints: int, total: int):
    """What least-open-streams gives: no two differ by more than one."""
    counts = [total // endpoints + (each < total % endpoints) for each in range(endpoints)]
    assert judge(counts, [0.0] * endpoints).word in ("even", "too few")
    assert judge([0] * endpoints, [float(count) for count in counts]).word in ("even", "too few")


def test_what_is_said_tells_the_numbers():
    found = judge([900, 0, 0], [0, 0, 0])
    assert (
        found.why == "max/mean 3.00 over 900 calls: random picks give this in fewer than 1 of 1,000,000 cases"
    )
    assert found.chance is not None
    assert found.chance < UNLIKELY
