"""Plays seeds: `run.py --seeds 1000`, one of them again: `run.py --seed 17`, a plan: `run.py --plan FILE`."""

import argparse
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [
    str(HERE),
    str(HERE.parent / "playbook"),
    str(HERE.parent / "discovery"),
    str(HERE.parents[1]),
]

from simulator import planted  # noqa: E402 - the paths come first


def main() -> int:
    parser = argparse.ArgumentParser(prog="run.py", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10_000, help="how many")
    parser.add_argument("--first", type=int, help="the first of them; by default a fresh one")
    parser.add_argument("--seed", type=int, help="this one only, with its transcript")
    parser.add_argument("--plan", type=Path, help="a plan in a file, as a report prints it")
    parser.add_argument("--plant", choices=sorted(planted.BUGS), help="with this bug in the code")
    parser.add_argument("--until-found", action="store_true", help="stop at the first failure")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    chosen = parser.parse_args()
    if chosen.plant:
        planted.plant(chosen.plant)
    from simulator import command  # imports the engine, so bugs are planted before

    if chosen.seed is not None or chosen.plan is not None:
        return command.one(chosen.seed, chosen.plan)
    return command.many(chosen.seeds, chosen.first, chosen.jobs, chosen.until_found)


if __name__ == "__main__":
    sys.exit(main())
