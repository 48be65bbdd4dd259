"""Fresh seeds on each run. A failing one is printed with the shortest plan that fails in the same way."""

from __future__ import annotations

import os

import pytest
from simulator import command, play

# `make sim` plays 10,000; here so many that they take some ten seconds.
SEEDS = int(os.environ.get("EVENSTREAM_SIM_SEEDS", "240"))
PARTS = 4
# For shrinking, so that a failure is told in time.
RUNS = 150


@pytest.mark.parametrize("part", range(PARTS))
def test_everything_holds_whatever_happens(part: int) -> None:
    first = command.fresh_seed()
    seeds = range(first, first + SEEDS // PARTS)
    print(f"seeds {seeds.start} to {seeds.stop - 1}")
    for seed in seeds:
        if play.play_seed(seed).rule:
            pytest.fail(play.report(seed, RUNS), pytrace=False)
