"""`make fuzz`: coverage-guided fuzzing with atheris, of the interpreted build, which it can see into.

    python tests/fuzz/fuzzrun.py                        # all targets, RUNS each
    python tests/fuzz/fuzzrun.py engine --runs 50000    # one
    python tests/fuzz/fuzzrun.py engine --shrink        # keep in tests/fuzz/corpus only what adds coverage
    python tests/fuzz/fuzzrun.py engine --again FILE    # one input, as found

What is found on the way is kept in .fuzz/ and is the start of the next run; an input that breaks something is written
there too, as crash-*, and ends the run with its traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import math
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
CORPUS: Final = HERE / "corpus"
FOUND: Final = ROOT / ".fuzz"
# Octets of input: enough for as many operations as a target takes, few enough to be mutated with effect.
TARGETS: Final = {"frames": 1500, "headers": 1000, "engine": 1000}
RUNS: Final = 340_000  # of each: a million and more in all
TIMEOUT: Final = 20  # seconds for one input; they take milliseconds


def fuzz(target: str, arguments: list[str]) -> None:
    """In this process, which libFuzzer ends."""
    os.environ["EVENSTREAM_BUILD"] = "interpreted"
    sys.path[:0] = [str(ROOT), str(HERE), str(HERE.parent / "playbook"), str(HERE.parent / "wire")]
    import atheris

    importlib.import_module("sidecar")  # its finder of sources must stand behind atheris'
    with atheris.instrument_imports(include=["sidecar"]):
        one = importlib.import_module(f"fuzz{target}").one
    # libFuzzer starts itself again by its first argument, through a shell, where it merges.
    again = FOUND / f"{target}.sh"
    again.write_text(f'#!/bin/sh\nexec {shlex.join(command(target))} "$@"\n')
    again.chmod(0o755)
    atheris.Setup([str(again), *arguments], one)
    atheris.Fuzz()


def command(target: str, *arguments: str) -> list[str]:
    return [sys.executable, str(Path(__file__)), "--inside", target, *arguments]


def run(target: str, runs: int, seed: int, jobs: int) -> int:
    """In `jobs` processes, which share the executions and see what the others find; the first to fail ends all."""
    found = FOUND / target
    found.mkdir(parents=True, exist_ok=True)
    options = [
        f"-runs={math.ceil(runs / jobs)}",
        f"-max_len={TARGETS[target]}",
        f"-timeout={TIMEOUT}",
        "-rss_limit_mb=2048",
        "-reload=10",
        "-print_final_stats=1",
        f"-artifact_prefix={FOUND}/{target}-",
        "-len_control=20",
    ]
    begun = time.monotonic()
    processes = [
        subprocess.Popen(
            command(target, *options, f"-seed={seed and seed + n}", str(found), str(CORPUS / target))
        )
        for n in range(jobs)
    ]
    code = 0
    while processes and not code:
        for each in list(processes):
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = each.wait(0.5) or code
                processes.remove(each)
    for each in processes:
        each.kill()
        each.wait()
    print(f"== {target}: exit code {code} after {time.monotonic() - begun:.0f} s", flush=True)
    return code


def shrink(target: str) -> int:
    """Merge what was found into the corpus, and keep of both the smallest inputs that reach everything they reach.

    How often a place is reached does not count: all of that is in .fuzz, and the corpus is run with each `make test`.
    """
    kept = FOUND / f"{target}-kept"
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    code = subprocess.run(
        command(target, "-merge=1", "-use_counters=0", str(kept), str(CORPUS / target), str(FOUND / target)),
        check=False,
    ).returncode
    if code == 0 and any(kept.iterdir()):
        shutil.rmtree(CORPUS / target)
        shutil.move(kept, CORPUS / target)
    return code


def main() -> int:
    if sys.argv[1:2] == ["--inside"]:
        fuzz(sys.argv[2], sys.argv[3:])
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--runs", type=int, default=RUNS, help="executions of each target")
    parser.add_argument("--seed", type=int, default=0, help="0: another one each time")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes that share a target")
    parser.add_argument("--shrink", action="store_true")
    parser.add_argument("--again", type=Path, metavar="FILE")
    chosen = parser.parse_args()
    unknown = set(chosen.targets) - set(TARGETS)
    if unknown:
        parser.error(f"unknown target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    code = 0
    for target in chosen.targets or TARGETS:
        if chosen.again is not None:
            code |= subprocess.run(command(target, str(chosen.again)), check=False).returncode
        elif chosen.shrink:
            code |= shrink(target)
        else:
            code |= run(target, chosen.runs, chosen.seed, max(1, chosen.jobs))
    return 1 if code else 0


if __name__ == "__main__":
    sys.exit(main())
