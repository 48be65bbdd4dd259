"""Child processes on a core each, all of which end with this one, whatever ends it."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

_PR_SET_PDEATHSIG: Final = 1  # prctl(2): the signal a child gets when its parent dies
STOP_SECONDS: Final = 5.0  # from SIGTERM to SIGKILL
LOG_LINES: Final = 3  # of a failed process's log that are shown
_libc: Final = ctypes.CDLL(None, use_errno=True)


class ProcessFailedError(RuntimeError):
    """A process did not do what it was started for; the text has the end of its log."""


class Process:
    """One child. Its standard input stays open for as long as it should run."""

    def __init__(
        self, argv: Sequence[str], core: int, log: Path, env: Mapping[str, str] | None = None
    ) -> None:
        def pinned() -> None:  # in the child, before exec
            os.sched_setaffinity(0, {core})
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

        self.name = Path(argv[0]).name
        self.log = log
        with log.open("ab") as stderr:
            self._popen = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, **(env or {})},
                preexec_fn=pinned,
                start_new_session=True,  # Ctrl-C reaches only us; we stop the children
            )
        self._pending = b""

    @property
    def pid(self) -> int:
        return self._popen.pid

    def running(self) -> bool:
        return self._popen.poll() is None

    def failed(self, what: str) -> ProcessFailedError:
        try:
            text = self.log.read_text(errors="replace")
        except OSError:
            text = ""
        lines = [line.strip() for line in text.splitlines() if line.strip(" ^~")]  # no carets of a traceback
        return ProcessFailedError(f"{self.name} {what}: " + (" | ".join(lines[-LOG_LINES:]) or "no output"))

    def read_json(self, seconds: float) -> dict[str, Any]:
        """The next line of its output. Raises ProcessFailedError when it ends or none comes in time."""
        assert self._popen.stdout is not None
        deadline = time.monotonic() + seconds
        while b"\n" not in self._pending:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._popen.stdout], [], [], left)[0]:
                raise self.failed(f"printed nothing within {seconds:.0f} s")
            data = os.read(self._popen.stdout.fileno(), 65536)
            if not data:
                self._popen.wait(STOP_SECONDS)
                raise self.failed(f"ended with {self._popen.returncode}")
            self._pending += data
        line, self._pending = self._pending.split(b"\n", 1)
        value: dict[str, Any] = json.loads(line)
        return value

    def stop(self) -> None:
        popen = self._popen
        if popen.poll() is None:
            popen.terminate()
            try:
                popen.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                popen.kill()
                popen.wait()
        for pipe in (popen.stdin, popen.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


class Group:
    """Processes that are stopped together, last started first, when the block ends."""

    def __init__(self) -> None:
        self._processes: list[Process] = []

    def __enter__(self) -> Group:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in reversed(self._processes):
            process.stop()

    def start(
        self, argv: Sequence[str], core: int, log: Path, env: Mapping[str, str] | None = None
    ) -> Process:
        process = Process(argv, core, log, env)
        self._processes.append(process)
        return process


def resident_mb(pid: int) -> float:
    """VmRSS of a process in MB (10^6 bytes)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ProcessFailedError(f"process {pid} has no memory")


def parse_busy(before: str, after: str) -> float:
    """The share of all cores' time that was not idle between two readings of /proc/stat."""

    def totals(text: str) -> tuple[int, int]:
        fields = [int(field) for field in text.splitlines()[0].split()[1:9]]
        return sum(fields), fields[3] + fields[4]  # idle and iowait

    (all_before, idle_before), (all_after, idle_after) = totals(before), totals(after)
    passed = all_after - all_before
    return 0.0 if passed <= 0 else 1.0 - (idle_after - idle_before) / passed


def machine_busy(seconds: float) -> float:
    """How busy the machine is with what is not ours, when nothing of ours runs: 0 to 1."""
    stat = Path("/proc/stat")
    before = stat.read_text()
    time.sleep(seconds)
    return parse_busy(before, stat.read_text())
