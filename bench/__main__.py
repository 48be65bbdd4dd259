"""`python -m bench`: measure the cases with every peer in alternating rounds and print the table."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from bench import cases, install, report
from bench.measure import Plan, Sample, sample

ROOT: Final = Path(__file__).resolve().parent.parent
DOCS: Final = ROOT / "docs" / "performance.md"
MIN_SECONDS: Final = 0.2  # less is the scheduler's noise
MAX_SECONDS: Final = 300.0
MAX_ROUNDS: Final = 50  # some hours; more is a mistyped number


def parser() -> argparse.ArgumentParser:
    names = ", ".join(case.name for case in cases.CASES)
    result = argparse.ArgumentParser(prog="python -m bench", description=__doc__, epilog=f"Cases: {names}.")
    result.add_argument("--rounds", type=int, help="alternating rounds (5; with --quick 1)")
    result.add_argument("--quick", action="store_true", help="short windows, one round, fewer cases")
    result.add_argument(
        "--only", type=_names, default=[], help="cases, by commas; unary, unary-4x32, 'own-*'"
    )
    result.add_argument("--peers", type=_names, default=[], help="by commas: " + ", ".join(cases.PEERS))
    result.add_argument("--seconds", type=float, help="the window (3; with --quick 1.5)")
    result.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    result.add_argument("--write-docs", action="store_true", help="put the table into docs/performance.md")
    return result


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def cores() -> tuple[int, int]:
    """One for the proxy, one for all else; the same if there is only one."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[1] if len(allowed) > 1 else allowed[0]


def order(peers: Sequence[str], number: int) -> list[str]:
    """The peers of a round: each round begins with another, so that none always follows the same one."""
    start = number % len(peers)
    return [*peers[start:], *peers[:start]]


def measurements(
    chosen: Sequence[cases.Case], peers: Sequence[str], rounds: int
) -> Iterator[tuple[int, Any, str]]:
    for number in range(rounds):
        for case in chosen:
            for peer in order(peers, number):
                if peer in case.peers:
                    yield number, case, peer


def run(chosen: Sequence[cases.Case], peers: Sequence[str], rounds: int, plan: Plan) -> list[Sample]:
    samples: list[Sample] = []
    todo = list(measurements(chosen, peers, rounds))
    for done, (number, case, peer) in enumerate(todo, 1):
        taken = sample(case, peer, number, plan)
        samples.append(taken)
        shown = ", ".join(f"{key} {report.number(value)}" for key, value in taken.values.items())
        if taken.values and "rate" in taken.detail:
            shown += f" ({taken.detail['rate']:,.0f}/s, core {taken.detail['core']:.0%})"
        bad = f", {taken.failed} failed, {taken.stalled} stalled" if taken.failed or taken.stalled else ""
        line = f"[{done}/{len(todo)}] {peer}: {shown or case.name + ': ' + taken.problem}{bad}"
        print(line, file=sys.stderr, flush=True)
    return samples


def about(plan: Plan, rounds: int, core_count: int, peers: Sequence[str]) -> dict[str, Any]:
    """The machine and the versions, without any name or path of it."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    known: dict[str, Any] = {
        "cpu": model,
        "cores": core_count,
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
        "rounds": rounds,
        "window_seconds": plan.window,
    }
    programs = {"HAProxy": (install.haproxy, "haproxy"), "Envoy": (install.envoy, "envoy")}
    for title, (find, prefix) in programs.items():
        if any(peer.startswith(prefix) for peer in peers):
            try:
                known[title] = find().version
            except install.MissingError:
                known[title] = "missing"  # the table's notes say why
    return known


def sentence(known: dict[str, Any]) -> str:
    versions = "".join(f", {name} {known[name]}" for name in ("HAProxy", "Envoy") if name in known)
    return (
        f"{known['cpu']}, {known['cores']} cores, Linux {known['kernel']}, Python {known['python']}{versions}; "
        f"medians of {known['rounds']} rounds, windows of "
        f"{known['window_seconds']:g} s. `!`: calls failed, see below."
    )


def ours_failed(samples: Sequence[Sample]) -> bool:
    return any(s.peer in cases.OWN and (s.failed or s.stalled or s.problem) for s in samples)


def _terminated(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt  # so that SIGTERM stops the children as Ctrl-C does


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    rounds = (1 if options.quick else 5) if options.rounds is None else options.rounds
    seconds = (1.5 if options.quick else 3.0) if options.seconds is None else options.seconds
    try:
        if not 1 <= rounds <= MAX_ROUNDS:
            print(f"--rounds {rounds} is not allowed; 1 to {MAX_ROUNDS}", file=sys.stderr)
            return 2
        if not MIN_SECONDS <= seconds <= MAX_SECONDS:
            print(f"--seconds {seconds:g} is not allowed; {MIN_SECONDS} to {MAX_SECONDS}", file=sys.stderr)
            return 2
        chosen = cases.choose_cases(options.only, quick=options.quick)
        peers = cases.choose_peers(options.peers)
    except cases.UnknownNameError as error:
        print(error, file=sys.stderr)
        return 2
    if options.write_docs and (options.quick or options.only or options.peers):
        print(
            "--write-docs is not allowed with --quick, --only or --peers; it wants the whole table",
            file=sys.stderr,
        )
        return 2
    known_cores = len(os.sched_getaffinity(0))
    proxy_core, load_core = cores()
    plan = Plan(proxy_core, load_core, 0.5 if options.quick else 1.0, seconds, whole=not options.quick)
    os.sched_setaffinity(0, {load_core})
    report_file = options.json.resolve() if options.json else None
    os.chdir(ROOT)  # `python -m sidecar` of this tree is what is measured
    signal.signal(signal.SIGTERM, _terminated)
    try:
        install.load_program()
        known = about(plan, rounds, known_cores, peers)
        samples = run(chosen, peers, rounds, plan)
    except install.MissingError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; every process it started has ended", file=sys.stderr)
        return 130
    lines = report.table(chosen, peers, samples)
    remarks = report.notes(samples)
    print("CPU time of the proxy process on a core of its own; " + sentence(known))
    print(report.plain(lines))
    print("\n".join(remarks))
    if report_file:
        report_file.write_text(json.dumps(report.as_json(samples, known), indent=1) + "\n")
    if options.write_docs:
        report.write_docs(DOCS, lines, remarks, sentence(known))
    return 1 if ours_failed(samples) else 0


if __name__ == "__main__":
    sys.exit(main())
