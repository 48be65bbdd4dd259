"""The greeter client inside a pod, started by `kubectl exec`, steered and read from here."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from demolib.processes import NOTHING_YET, Report

from .kube import ROOT, KubeError, Namespace, wait_for

REPORT_SECONDS: Final = 0.05
START_SECONDS: Final = 30.0  # exec, Python and grpcio on a busy node
END_SECONDS: Final = 30.0
# Two machines' monotonic clocks differ by how long each is up; one machine's containers share one.
SAME_CLOCK_SECONDS: Final = 5.0


class Seen(NamedTuple):
    at: float  # time.monotonic() here
    report: Report


class Load:
    """`python client.py MODE --json --control ...` in a pod: one channel, as any application has it.

    `seen` holds all its reports. Times of the client's clock go through `here` before they are compared.
    """

    def __init__(
        self,
        namespace: Namespace,
        pod: str,
        mode: str,
        *options: str,
        container: str = "client",
    ) -> None:
        self.seen: list[Seen] = []
        self._errors: list[str] = []
        self._process = namespace.cluster.kubectl.start(
            *("--namespace", namespace.name, "exec", "-i", pod, "-c", container, "--"),
            *("python", "client.py", mode, "--json", "--control", "--report", str(REPORT_SECONDS), *options),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._threads = [
            threading.Thread(target=self._read, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        self.until("the client's first report", lambda _: bool(self.seen), START_SECONDS)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.seen.append(Seen(time.monotonic(), Report(json.loads(line))))

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        self._errors.extend(self._process.stderr)

    @property
    def report(self) -> Report:
        return self.seen[-1].report if self.seen else NOTHING_YET

    def here(self, moment: float) -> float:
        """`moment` of the client's monotonic clock as one of ours."""
        offset = min(seen.at - seen.report.at for seen in self.seen)
        return moment if abs(offset) < SAME_CLOCK_SECONDS else moment + offset

    def first_reply(self, server: str) -> float:
        """When the server first answered, by our clock."""
        return self.here(self.report.first_reply[server])

    def until(self, what: str, condition: Callable[[Report], bool], seconds: float) -> Report:
        """The first report that fulfils it. Raises KubeError if there is none in time, or the client ends."""

        def look() -> bool:
            if condition(self.report):
                return True
            if self._process.poll() is not None:
                raise EOFError
            return False

        try:
            wait_for(f"{what}; the client said last: {self.told()}", look, seconds, every=0.01)
        except EOFError:
            raise KubeError(f"the client ended before {what}: {self.told()}") from None
        except KubeError as error:
            raise KubeError(f"{error}; it now says: {self.told()}") from None
        return self.report

    def told(self) -> str:
        if not self.seen:
            return "".join(self._errors).strip() or "nothing"
        report = self.report
        return (
            f"calls {report.calls}, open {report.open}, failed {report.failed} {report.errors or ''}".strip()
        )

    def send(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def counted(self, calls: int, seconds: float) -> dict[str, int]:
        """The calls per server of the next `calls` or a few more."""
        before = self.report.calls
        wanted = sum(before.values()) + calls
        report = self.until(f"{calls} calls", lambda now: sum(now.calls.values()) >= wanted, seconds)
        return since(before, report)

    def since(self, moment: float) -> dict[str, int]:
        """The calls per server since `moment` of our clock, to a report's precision."""
        before = [seen.report for seen in self.seen if seen.at <= moment]
        return since(before[-1].calls if before else {}, self.report)

    def finish(self) -> Report:
        """End it as its user would; the last report."""
        if self._process.poll() is None:
            self.send("quit")
        try:
            self._process.wait(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise KubeError(f"the client did not end within {END_SECONDS:g} s: {self.told()}") from None
        for thread in self._threads:
            thread.join(timeout=END_SECONDS)
        if not self.report.final:
            raise KubeError(
                f"the client ended without its last report: {self.told()} {''.join(self._errors)}"
            )
        return self.report

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *error: object) -> None:
        if self._process.poll() is None:
            assert self._process.stdin is not None
            self._process.stdin.close()  # its end means quit
            try:
                self._process.wait(timeout=END_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()


def since(before: Mapping[str, int], report: Report) -> dict[str, int]:
    counts = {server: count - before.get(server, 0) for server, count in report.calls.items()}
    return {server: count for server, count in counts.items() if count}


def run_client(namespace: Namespace, pod: str, *words: str, container: str = "client") -> Report:
    """Run the client to its end; its last report. Raises KubeError if a call failed."""
    out = namespace.execute(pod, container, "python", "client.py", *words, "--json")
    return Report(json.loads(out.splitlines()[-1]))


def max_over_mean(counts: Mapping[str, int], servers: int) -> float:
    """1.0 is even. `servers`: how many there were to choose from, idle ones too."""
    total = sum(counts.values())
    return max(counts.values()) * servers / total if total else 0.0


def manifest(name: str) -> list[dict[str, Any]]:
    """The objects in one file of examples/greeter."""
    import yaml

    text = Path(ROOT / "examples" / "greeter" / name).read_text()
    return [thing for thing in yaml.safe_load_all(text) if thing]
