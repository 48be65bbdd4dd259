"""The greeter client inside a pod, started by `kubectl exec`, steered and read from here."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from demolib.processes import NOTHING_YET, Report

from .kube import ROOT, KubeError, Namespace, wait_for
from .node import Container

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
    `inside`: the container to start it in without the API server's help.
    """

    def __init__(
        self,
        namespace: Namespace,
        pod: str,
        mode: str,
        *options: str,
        container: str = "client",
        inside: Container | None = None,
    ) -> None:
        self.seen: list[Seen] = []
        self._errors: list[str] = []
        words = (mode, "--json", "--control", "--report", str(REPORT_SECONDS), *options)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        if inside is not None:
            self._process = inside.start_client(words, **pipes)
        else:
            self._process = namespace.cluster.kubectl.start(
                *("--namespace", namespace.name, "exec", "-i", pod, "-c", container, "--"),
                *("python", "client.py", *words),
                **pipes,
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

    def since(self, begin: float, end: float = math.inf) -> dict[str, int]:
        """The calls per server in between, by our clock and to a report's precision (the reports inside)."""
        inside = [seen.report for seen in self.seen if begin <= self.here(seen.report.at) <= end]
        return since(inside[0].calls, inside[-1]) if inside else {}

    def failures(self) -> list[tuple[float, int]]:
        """When something failed, by our clock and to a report's precision, and how much."""
        found, before = [], 0
        for _, report in self.seen:
            if report.failed > before:
                found.append((self.here(report.at), report.failed - before))
                before = report.failed
        return found

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


def reaches(namespace: Namespace, pod: str, target: str, container: str = "client") -> bool:
    """Whether a TCP connection to `target`, host:port, can be made from the pod: its DNS and what kube-proxy has
    written have to know of it. Raises KubeError with the reason if not."""
    host, _, port = target.rpartition(":")
    connect = f"import socket; socket.create_connection(('{host}', {port}), 5)"
    namespace.execute(pod, container, "python", "-c", connect)
    return True


def max_over_mean(counts: Mapping[str, int], servers: int) -> float:
    """1.0 is even. `servers`: how many there were to choose from, idle ones too."""
    total = sum(counts.values())
    return max(counts.values()) * servers / total if total else 0.0


def manifest(name: str) -> list[dict[str, Any]]:
    """The objects in one file of examples/greeter."""
    import yaml

    text = Path(ROOT / "examples" / "greeter" / name).read_text()
    return [thing for thing in yaml.safe_load_all(text) if thing]


class Traffic:
    """The same mixed load in several pods at once: each one channel with unary calls and long streams."""

    def __init__(
        self, namespace: Namespace, pods: Sequence[str], rate: int, streams: int, *options: str
    ) -> None:
        """`rate` and `streams` of all of them together."""
        self._streams: Final = streams
        self._began: Final = time.monotonic()
        self._loads: Final[list[Load]] = []
        each = ("--rate", str(rate // len(pods)), "--count", str(streams // len(pods)), *options)
        with contextlib.ExitStack() as stack:
            for pod in pods:
                self._loads.append(stack.enter_context(Load(namespace, pod, "mix", *each)))
            self._stack: Final = stack.pop_all()

    def __enter__(self) -> Traffic:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def open(self) -> dict[str, int]:
        """Long streams per server, now."""
        return _summed(load.report.open for load in self._loads)

    def until_open(self, servers: Collection[str] | None, seconds: float) -> None:
        """Return when all streams are open, and on no others than `servers` (None: wherever)."""

        def look() -> bool:
            now = self.open()
            return sum(now.values()) == self._streams and (servers is None or set(now) <= set(servers))

        try:
            wait_for(f"{self._streams} open streams on {servers or 'any servers'}", look, seconds)
        except KubeError as error:
            raise KubeError(f"{error}; the clients say: {[load.told() for load in self._loads]}") from None

    def finish(self) -> Totals:
        seconds = time.monotonic() - self._began
        reports = [load.finish() for load in self._loads]
        return Totals(
            seconds,
            sum(sum(report.calls.values()) for report in reports),
            sum(report.failed for report in reports),
            [text for report in reports for text in report.errors],
            sum(report.ended_by_server for report in reports),
            _summed(report.open for report in reports),
        )


class Totals(NamedTuple):
    """What all clients of a Traffic came to."""

    seconds: float
    calls: int
    failed: int  # calls and long streams
    errors: list[str]
    ended_by_server: int  # long streams that a server ended with OK
    open: dict[str, int]

    @property
    def rate(self) -> float:
        """Calls a second; a client on a busy machine makes fewer than it was asked for."""
        return self.calls / self.seconds


def _summed(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(sorted(total.items()))
