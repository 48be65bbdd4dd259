"""Play one plan, and tell what came of it."""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter
from typing import NamedTuple

from simulator import plan as plans
from simulator import shrink
from simulator.clock import Violation
from simulator.plan import Plan
from simulator.world import World


class Result(NamedTuple):
    seed: int
    rule: str  # "" if everything held
    detail: str
    counts: Counter[str]
    seconds: float


def play(plan: Plan) -> Result:
    result, _ = _play(plan, False)
    return result


def trace(plan: Plan) -> tuple[Result, list[str]]:
    """With a line for everything that happened."""
    return _play(plan, True)


def fingerprint(plan: Plan) -> str:
    """Of all that happened: equal for equal runs."""
    _, lines = _play(plan, True)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _play(plan: Plan, tracing: bool) -> tuple[Result, list[str]]:
    logging.disable(logging.WARNING)  # discovery reports each fault, and here are many
    world = World(plan, tracing)
    begun = time.perf_counter()
    rule = detail = ""
    try:
        world.run()
    except Violation as violation:
        rule, detail = violation.rule, violation.detail
    finally:
        logging.disable(logging.NOTSET)
    world.count("runs")
    world.counts["events"] += world.clock.events
    lines = world.trace or []
    if rule and tracing:
        world.log("! %s: %s", rule, detail)
    return Result(plan.seed, rule, detail, world.counts, time.perf_counter() - begun), lines


def play_seed(seed: int) -> Result:
    return play(plans.make(seed))


def report(seed_or_plan: int | Plan, runs: int = shrink.MAX_RUNS) -> str:
    """The failure of a plan in full: shrunk, with the transcript of the shrunk one. Empty if it does not fail."""
    plan = plans.make(seed_or_plan) if isinstance(seed_or_plan, int) else seed_or_plan
    first = play(plan)
    if not first.rule:
        return ""
    small = shrink.shrink(plan, lambda candidate: play(candidate).rule == first.rule, runs)
    result, lines = trace(small)
    return "\n".join(
        [
            f"seed {plan.seed}: {first.rule}: {first.detail}",
            f"shrunk from {len(plan.acts)} acts to {len(small.acts)}: {result.rule}: {result.detail}",
            shrink.listing(small),
            *lines,
            f"again: python tests/sim/run.py --seed {plan.seed}",
        ]
    )
