"""Is it even? A judgement on how many streams each endpoint was given, with its reason.

Two questions. Is the fullest endpoint close to the mean? Then it is even, whatever the cause. If not: is the
spread what chance alone gives, as if each stream were thrown at an endpoint by dice? Pearson's chi-square
tells: the sum over endpoints of (count - mean)^2 / mean, against the chi-square distribution with one degree of
freedom less than there are endpoints. A spread that dice would give in fewer than one window in a hundred is no
chance: it is uneven.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

Word = Literal["even", "as random picks", "uneven", "too few", "one endpoint", "no endpoint"]

# max/mean up to here is even to the eye and to the endpoints' CPUs.
EVEN_RATIO: Final = 1.1
# The chance that dice give a spread this bad, below which we no longer believe in dice.
UNLIKELY: Final = 0.01
# Cochran's rule: below this mean the chi-square distribution is not what it should be.
MIN_MEAN: Final = 5
# Open streams an endpoint, on average, from which their evenness says that the load is even.
MIN_OPEN: Final = 2


class Verdict(NamedTuple):
    word: Word
    why: str  # one sentence
    counted: str = ""  # "calls" or "open streams"
    ratio: float | None = None  # max / mean
    chance: float | None = None  # how often dice would give this or worse

    @property
    def uneven(self) -> bool:
        return self.word == "uneven"


def judge(calls: Sequence[int], open_streams: Sequence[float]) -> Verdict:
    """`calls`: streams begun in the window, by endpoint; `open_streams`: open at a time, averaged over it. Of
    endpoints that took streams in all of the window, in the same order.

    Short calls are judged by their number. Where there are few, as with long streams, by those that are open.
    """
    endpoints = len(calls)
    if endpoints < 2:
        one = endpoints == 1
        return Verdict(
            "one endpoint" if one else "no endpoint", "nothing to spread" if one else "none takes streams"
        )
    if sum(calls) >= MIN_MEAN * endpoints:
        found = _judge(calls, "calls")
        if found.uneven and _balanced(open_streams):
            ratio = f"max/mean of calls is {found.ratio:.2f}"
            why = f"open streams are even; {ratio} because endpoints answer at different speeds"
            return found._replace(word="even", why=why)
        return found
    rounded = [round(count) for count in open_streams]
    if sum(rounded) >= endpoints:
        return _judge(rounded, "open streams")
    return Verdict("too few", f"{sum(calls)} calls and {sum(rounded)} open streams are too few to judge")


def _balanced(open_streams: Sequence[float]) -> bool:
    mean = sum(open_streams) / len(open_streams)
    return mean >= MIN_OPEN and max(open_streams) <= max(EVEN_RATIO * mean, mean + 1)


def _judge(counts: Sequence[int], counted: str) -> Verdict:
    mean = sum(counts) / len(counts)
    ratio = max(counts) / mean
    chance = chance_of(counts)
    told = f"max/mean {ratio:.2f} over {sum(counts):,} {counted}"
    if ratio <= EVEN_RATIO or max(counts) <= math.ceil(mean):
        return Verdict("even", told, counted, ratio, chance)
    if chance >= UNLIKELY:
        why = f"{told}: random picks give this or worse {_often(chance)}"
        return Verdict("as random picks", why, counted, ratio, chance)
    return Verdict("uneven", f"{told}: random picks give this {_often(chance)}", counted, ratio, chance)


def chance_of(counts: Sequence[int]) -> float:
    """How often random picks would spread this many streams as badly or worse, from 0 to 1."""
    total, endpoints = sum(counts), len(counts)
    mean = total / endpoints
    if mean >= MIN_MEAN:
        return chi_square_tail(sum((count - mean) ** 2 / mean for count in counts), endpoints - 1)
    # Too few for chi-square: that any one endpoint has this maximum, by Bonferroni's bound.
    return min(1.0, endpoints * binomial_tail(max(counts), total, 1 / endpoints))


def chi_square_tail(value: float, degrees: int) -> float:
    """P(X >= value) for a chi-square X. Exact: the upper incomplete gamma function of a half-integer."""
    half = value / 2
    if half <= 0:
        return 1.0
    if degrees % 2:
        total, term_power = math.erfc(math.sqrt(half)), 0.5
    else:
        total, term_power = 0.0, 0.0
    while term_power < degrees / 2:
        total += math.exp(term_power * math.log(half) - half - math.lgamma(term_power + 1))
        term_power += 1
    return min(1.0, total)


def binomial_tail(least: int, total: int, share: float) -> float:
    """P(X >= least) of `total` throws that hit with probability `share`."""
    return sum(
        math.comb(total, hits) * share**hits * (1 - share) ** (total - hits)
        for hits in range(least, total + 1)
    )


def _often(chance: float) -> str:
    if chance >= UNLIKELY:
        return f"in {chance:.0%} of cases"
    return "in fewer than 1 of 1,000,000 cases" if chance < 1e-6 else f"in 1 of {round(1 / chance):,} cases"
