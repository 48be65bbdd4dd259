"""Where the time goes: `python -m bench.profile --tool perf|strace|callgrind` runs ours under load.

perf samples the process within the window, strace counts its system calls (and slows it), callgrind counts
instructions from its start to its end (some fifty times slower). Each leaves a report in --output.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bench import cases, install
from bench.__main__ import ROOT, cores
from bench.measure import START_SECONDS, Bench, Plan, listen_for
from bench.procs import Group, ProcessFailedError

TOOLS: Final = {"perf": "linux-perf", "strace": "strace", "callgrind": "valgrind"}  # and Debian's packages
FREQUENCY: Final = 1999  # samples a second; off the beat of anything that runs every millisecond
CALLGRIND_SLOWER: Final = 60.0  # bounds the wait for a client of a proxy under valgrind
REPORT_LINES: Final = 45
# What mypyc calls the event loop: callgrind counts inside it only, so that imports do not drown the calls.
LOOP: Final = "CPyDef_loop___Loop___run"


def _report(argv: Sequence[str], path: Path) -> None:
    with path.open("w") as output:
        subprocess.run(argv, stdout=output, stderr=subprocess.STDOUT, check=False, timeout=300)


def _attach(tool: str, pid: int, seconds: float, output: Path, core: int) -> None:
    """Watch a running process for so long, on the core that is not its own."""
    pinned = ["taskset", "-c", str(core)]
    if tool == "strace":
        argv = ["timeout", "--signal=INT", str(seconds), "strace", "-c", "-f", "-p", str(pid)]
        _report([*pinned, *argv], output / "strace.txt")
        return
    data = str(output / "perf.data")
    # cpu-clock: virtual machines seldom have a hardware cycle counter.
    record = [
        "perf",
        "record",
        "-q",
        "-e",
        "cpu-clock",
        "-F",
        str(FREQUENCY),
        "-g",
        "-p",
        str(pid),
        "-o",
        data,
    ]
    subprocess.run([*pinned, *record, "--", "sleep", str(seconds)], check=False, capture_output=True)
    show = [
        "perf",
        "report",
        "-i",
        data,
        "--stdio",
        "--no-children",
        "-g",
        "none",
        "-q",
        "--percent-limit",
        "0.3",
    ]
    for sort, name in (("dso", "perf-objects.txt"), ("dso,symbol", "perf-symbols.txt")):
        _report([*pinned, *show, "--sort", sort], output / name)
    parts = [(output / name).read_text() for name in ("perf-objects.txt", "perf-symbols.txt")]
    (output / "perf.txt").write_text("".join(parts))


def profile(case: cases.Case, peer: str, tool: str, seconds: float, output: Path) -> dict[str, Any]:
    """Run the case with the tool on the proxy. The client's result; the report is in `output`."""
    proxy_core, load_core = cores()
    plan = Plan(proxy_core, load_core, 1.0, seconds + 1.0)
    prefix: list[str] = []
    if tool == "callgrind":
        prefix = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={output / 'callgrind.out'}"]
        if peer == cases.OURS:
            prefix.append(f"--toggle-collect={LOOP}")
    with tempfile.TemporaryDirectory(prefix="evenstream-profile-") as work, Group() as group:
        bench = Bench(group, plan, Path(work), install.load_program())
        _, backends = bench.backends(listen_for(case.endpoints))
        proxy = bench.proxy(peer, backends, prefix)
        client = bench.client(case.load, proxy.target, proxy.process.pid)
        if tool != "callgrind":
            _attach(tool, proxy.process.pid, seconds + plan.warmup, output, load_core)
        result = client.read_json(START_SECONDS + seconds * CALLGRIND_SLOWER)
        proxy.process.stop()  # callgrind writes its counts when the process ends
    if tool == "callgrind":
        for flag, name in (
            ("--inclusive=no", "callgrind.txt"),
            ("--inclusive=yes", "callgrind-inclusive.txt"),
        ):
            _report(["callgrind_annotate", flag, str(output / "callgrind.out")], output / name)
    return result


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__)
    result.add_argument("--tool", choices=sorted(TOOLS), default="perf")
    result.add_argument("--case", default="unary-4x32", help="a case that measures CPU time")
    result.add_argument("--peer", choices=cases.PEERS, default=cases.OURS)
    result.add_argument("--seconds", type=float, default=5.0)
    result.add_argument("--output", type=Path, help="a directory (in the cache by default)")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    given = parser()
    options = given.parse_args(arguments)
    chosen = [case for case in cases.CASES if case.name == options.case and case.kind == "cpu"]
    if not chosen:
        known = ", ".join(case.name for case in cases.CASES if case.kind == "cpu")
        given.error(f"--case {options.case!r} is not allowed; cases: {known}")
    program = {"callgrind": "valgrind"}.get(options.tool, options.tool)
    if shutil.which(program) is None:
        print(f"{program} is missing; Debian's package is {TOOLS[options.tool]}", file=sys.stderr)
        return 1
    output: Path = (options.output or install.cache() / "profile").resolve()
    output.mkdir(parents=True, exist_ok=True)
    os.chdir(ROOT)
    try:
        result = profile(chosen[0], options.peer, options.tool, options.seconds, output)
    except (ProcessFailedError, install.MissingError) as error:
        print(error, file=sys.stderr)
        return 1
    text = (output / f"{options.tool}.txt").read_text(errors="replace").splitlines()
    print("\n".join(text[:REPORT_LINES]))
    used = result["cpu_seconds"] / max(result["ok"], 1) * 1e6
    print(
        f"{result['ok']:,} calls in the window, {result['failed']} failed, "
        f"{used:.1f} us of CPU each under the tool"
    )
    print(f"whole report: {output / (options.tool + '.txt')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
