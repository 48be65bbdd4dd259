"""A seed is all it takes: the same plan, the same run, in any process and of either build."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from simulator import plan as plans
from simulator import play, shrink
from simulator.plan import Plan

HERE = Path(__file__).parent
SEEDS = (1, 17, 23, 200)
PROGRAM = """
import sys
sys.path[:0] = {paths!r}
from simulator import plan, play
print(*[play.fingerprint(plan.make(seed)) for seed in {seeds!r}])
"""


def fingerprints(**environ: str) -> list[str]:
    paths = [str(HERE), str(HERE.parent / "playbook"), str(HERE.parent / "discovery"), str(HERE.parents[1])]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(paths=paths, seeds=SEEDS)],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_a_seed_replays_exactly() -> None:
    here = [play.fingerprint(plans.make(seed)) for seed in SEEDS]
    assert here == [play.fingerprint(plans.make(seed)) for seed in SEEDS]
    assert len(set(here)) == len(SEEDS)
    assert here == fingerprints(PYTHONHASHSEED="1", EVENSTREAM_BUILD="interpreted")
    assert here == fingerprints(PYTHONHASHSEED="2", EVENSTREAM_BUILD="")


@pytest.mark.parametrize("seed", range(20))
def test_a_plan_comes_back_from_its_text(seed: int) -> None:
    plan = plans.make(seed)
    assert shrink.parse(shrink.listing(plan)) == plan


def test_shrinking_leaves_what_the_failure_needs() -> None:
    plan = next(p for p in map(plans.make, range(1000)) if _fails(p) and len(p.acts) > 20)
    small = shrink.shrink(plan, _fails)
    assert [act.what for act in small.acts].count("call") == 1
    assert len(small.acts) == 2
    assert len(small.scene.pods) == len(small.scene.applications) == 1


def _fails(plan: Plan) -> bool:
    """Stands for a bug that shows where there are a call in a stream and a crash."""
    kinds = {act.how[1].kind for act in plan.acts if act.what == "call"}
    return "bidi" in kinds and any(act.what == "crash" for act in plan.acts)
