"""What the command line does: many seeds over all cores, one seed, or one plan."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from simulator import plan as plans
from simulator import play, shrink
from simulator.play import Result

# Failures told in full; more would scroll the first ones away.
MAX_REPORTS = 3
# So many, and the rest will not say more.
MAX_FAILED = 20
FRESH_SEEDS = 10**9


def one(seed: int | None, path: Path | None) -> int:
    """One seed or one plan, with its transcript and, if it fails, the shortest plan that does too."""
    if path is not None:
        plan = shrink.parse(path.read_text())
    else:
        assert seed is not None
        plan = plans.make(seed)
    result, lines = play.trace(plan)
    print(shrink.listing(plan), *lines, sep="\n")
    if result.rule:
        print("", play.report(plan), sep="\n")
    return 1 if result.rule else 0


def fresh_seed() -> int:
    return random.SystemRandom().randrange(FRESH_SEEDS)


def many(count: int, first: int | None, jobs: int, until_found: bool) -> int:
    begun = time.perf_counter()
    start = fresh_seed() if first is None else first
    print(f"seeds {start} to {start + count - 1}", flush=True)
    counts: Counter[str] = Counter()
    failed: list[Result] = []
    for result in _results(range(start, start + count), jobs):
        counts.update(result.counts)
        if result.rule:
            failed.append(result)
            print(f"seed {result.seed}: {result.rule}: {result.detail[:300]}", flush=True)
            if until_found or len(failed) == MAX_FAILED:
                break
    seconds = time.perf_counter() - begun
    played = counts["runs"]
    if not until_found:
        _summary(counts)
    each = 1000 * seconds / max(1, played)
    print(f"{played} seeds in {seconds:.1f} s ({each:.1f} s per 1,000), {len(failed)} failed", flush=True)
    if not until_found:
        for result in failed[:MAX_REPORTS]:
            print("", play.report(result.seed), sep="\n", flush=True)
    return 1 if failed else 0


def _results(seeds: range, jobs: int) -> Iterable[Result]:
    if jobs == 1:
        yield from map(play.play_seed, seeds)
        return
    pool = ProcessPoolExecutor(jobs)
    try:
        yield from pool.map(play.play_seed, seeds, chunksize=20)
    finally:
        pool.shutdown(cancel_futures=True)


def _summary(counts: Counter[str]) -> None:
    """What was exercised, so that one can see what was not."""
    width = max(map(len, counts), default=0)
    for what, number in sorted(counts.items()):
        print(f"  {what:{width}} {number:>12,}")
