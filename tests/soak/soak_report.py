"""What a soak came to, as a table and a verdict."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import soak_watch
from demolib.processes import NOTHING_YET, Report

MB: Final = 1e6


class Result:
    """Filled in as the soak goes on, so that it can be told at any moment."""

    def __init__(self, wanted_seconds: float, allowed_drift: float, seed: int) -> None:
        self.wanted_seconds: Final = wanted_seconds
        self.allowed_drift: Final = allowed_drift
        self.seed: Final = seed
        self.build = ""
        self.seconds = 0.0
        self.samples: Final[list[soak_watch.Sample]] = []
        self.cases: dict[str, dict[str, Any]] = {}
        self.client: Report = NOTHING_YET
        self.errors: dict[str, int] = {}
        self.failed = 0
        self.explained = 0  # of those: by a kill
        self.events: Counter[str] = Counter()
        self.protocol_errors: dict[str, int] = {}
        self.files_before = self.files_after = 0
        self.left: Final[list[str]] = []  # what was not as it should be in the end
        self.whole = False  # it ran to its end

    @property
    def calls(self) -> int:
        own = sum(case["calls"] for case in self.cases.values())
        return own + sum(self.client.calls.values()) + sum(self.client.opened.values())

    def reasons(self) -> list[str]:
        """Why it is not good; empty if it is."""
        found = list(self.left)
        if not self.whole and not found:
            found.append("it did not run to its end")
        if unexplained := self.failed - self.explained:
            found.append(f"{unexplained} calls failed")
        # Cancelled streams are the client's to cancel; a fault of the protocol is ours or a library's.
        if faults := sum(self.protocol_errors.values()):
            found.append(f"{faults} protocol errors: {self.protocol_errors}")
        drift = soak_watch.drift(self.samples, self.wanted_seconds)
        if drift is not None and drift.percent > self.allowed_drift:
            found.append(f"resident memory grew by {drift.percent:.1f} %, allowed: {self.allowed_drift:g} %")
        if self.whole and not self.calls:
            found.append("no call was made")
        return found

    def progress(self) -> str:
        """One line on the way."""
        resident = self.samples[-1].resident / MB
        return f"{self.seconds:5.0f} s: {self.calls} calls, {self.failed} failed, {resident:.1f} MB resident"

    def status(self) -> int:
        return 1 if self.reasons() else 0

    def table(self) -> list[str]:
        reasons = self.reasons()
        but = " but those of the kills" if self.explained else ""
        return [
            f"{'case':<36} {'calls':>7} {'failed':>6} {'median':>9} {'slowest':>9}",
            *self._case_lines(),
            f"{'all':<36} {self.calls:>7} {self.failed:>6}",
            *(f"  {count} times: {text}" for text, count in sorted(self.errors.items())),
            "",
            *self._process_lines(),
            "",
            *(f"NOT GOOD: {reason}" for reason in reasons),
            *([] if reasons else [f"GOOD: no call failed{but}, nothing was left open, and memory stayed."]),
        ]

    def _case_lines(self) -> list[str]:
        lines = [
            f"{name:<36} {case['calls']:>7} {case['failed']:>6} "
            f"{case['median'] * 1000:>6.1f} ms {case['slowest'] * 1000:>6.0f} ms"
            for name, case in self.cases.items()
        ]
        calls, streams = sum(self.client.calls.values()), sum(self.client.opened.values())
        return [
            *lines,
            f"{'greeter: unary':<36} {calls:>7} {self.client.failed:>6}",
            f"{'greeter: long streams opened':<36} {streams:>7}",
        ]

    def _process_lines(self) -> list[str]:
        events = ", ".join(f"{count} {name}" for name, count in self.events.items())
        lines = [
            f"ran              {self.seconds:.0f} of {self.wanted_seconds:g} s, seed {self.seed}, {self.build}",
            f"servers          {events or 'none'}",
            f"long streams     {self.client.ended_by_server} ended by their own server with OK",
        ]
        if self.explained:
            lines.append(f"failed           {self.explained} that kills explain")
        if self.samples:
            memory = " ".join(f"{value / MB:.1f}" for value in soak_watch.course(self.samples))
            most = max(each.resident for each in self.samples)
            lines.append(f"resident memory  {memory} MB by tenths, at most {most / MB:.1f}")
            files = max(each.files for each in self.samples)
            lines.append(
                f"open files       {self.files_before} before, at most {files}, {self.files_after} after"
            )
        drift = soak_watch.drift(self.samples, self.wanted_seconds)
        if drift is not None:
            lines.append(
                f"drift            {drift.percent:+.1f} %: {drift.before / MB:.2f} MB after the warm-up, "
                f"{drift.after / MB:.2f} MB in the end (medians of "
                f"{soak_watch.WINDOW_SHARE * self.wanted_seconds:g} s; allowed: {self.allowed_drift:g} %)"
            )
        return lines
