"""`python -m sidecar` as a process, and the file of endpoints it reads."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from demolib.objects import Pod, service_list
from freeports import free_port
from programs import until

ROOT: Final = Path(__file__).resolve().parents[2]
SERVICE: Final = "greeter.default:50051"
END_SECONDS: Final = 30.0  # a drain waits for nothing here; the rest is a busy machine


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Ours without what would reach the sidecar unasked, the build under test excepted."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("EVENSTREAM_", "KUBERNETES_")) or key == "EVENSTREAM_BUILD"
    }
    return {**kept, "PYTHONUNBUFFERED": "1", **variables}


def run(*arguments: str, seconds: float = 60.0, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(
        [sys.executable, "-m", "sidecar", *arguments],
        cwd=ROOT,
        env=environment(variables),
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


class EndpointsFile:
    """What `kubectl get svc,endpointslices -o json` prints, for the Service greeter in default."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._revision = 0

    @property
    def source(self) -> str:
        return f"file:{self.path}"

    def write(self, targets: Sequence[str]) -> None:
        """With these `host:port` as ready endpoints."""
        self._revision += 1
        pods = []
        for number, target in enumerate(targets, 1):
            host, _, port = target.rpartition(":")
            pods.append(Pod(f"greeter-{number}", host, int(port)))
        self.write_text(json.dumps(service_list("10.96.0.10", pods, self._revision)))

    def write_text(self, text: str) -> None:
        """Replace the file as a whole."""
        beside = self.path.with_suffix(".new")
        beside.write_text(text)
        beside.replace(self.path)


class Sidecar:
    """A running one. Its admin port is free_port()'s unless `arguments` say otherwise."""

    def __init__(self, arguments: Sequence[str], variables: Mapping[str, str]) -> None:
        self.admin = free_port()
        if "--admin" not in arguments and "EVENSTREAM_ADMIN" not in variables:
            arguments = [*arguments, "--admin", f"127.0.0.1:{self.admin}"]
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sidecar", *arguments],
            cwd=ROOT,
            env=environment(variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))

    def logged(self, pattern: str) -> list[str]:
        """The lines so far in which `pattern` is found."""
        return [line for line in list(self.lines) if re.search(pattern, line)]

    def until_logged(self, pattern: str) -> str:
        until(lambda: self.logged(pattern) or self.process.poll() is not None, f"a log line {pattern!r}")
        found = self.logged(pattern)
        assert found, f"it ended with {self.process.poll()}: {self.lines}"
        return found[0]

    def ask(self, path: str) -> tuple[int, str]:
        """Status and body of a GET of the admin port."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=20)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def until_ready(self) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, f"it ended with {self.process.poll()}: {self.lines}"
            try:
                return self.ask("/readyz")[0] == 200
            except OSError:
                return False

        until(ready, "/readyz says 200")

    def status(self) -> dict[str, Any]:
        return dict(json.loads(self.ask("/status")[1]))

    def metric(self, sample: str) -> float:
        """The value of a sample, named as the text has it, labels included. AssertionError if there is none."""
        for line in self.ask("/metrics")[1].splitlines():
            name, _, value = line.rpartition(" ")
            if name == sample:
                return float(value)
        raise AssertionError(f"no {sample} in /metrics")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Its exit code, once it has ended and all it said is in `lines`."""
        code = self.process.wait(timeout=END_SECONDS)
        self._reader.join(timeout=END_SECONDS)
        return code

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join(timeout=END_SECONDS)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
