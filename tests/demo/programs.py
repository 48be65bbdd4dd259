"""The greeter's programs as tests start them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

GREETER = Path(__file__).resolve().parents[2] / "examples" / "greeter"
REPOSITORY = GREETER.parents[1]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Ours without proxies and without what would name the server."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.lower().endswith("_proxy") and key not in ("POD_NAME", "GREETER_TARGET")
    }
    return {**kept, "PYTHONUNBUFFERED": "1", **(extra or {})}


def run_client(target: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the client to its end."""
    command = [sys.executable, str(GREETER / "client.py"), *arguments, "--target", target]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment(), check=False)


def start_client(target: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(GREETER / "client.py"), *arguments, "--target", target]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def line_of(program: subprocess.Popen[str]) -> str:
    """The next line of its standard output. An AssertionError if there is none any more."""
    assert program.stdout is not None
    line = program.stdout.readline()
    assert line, "the program ended"
    return line


class Server:
    """A greeter server; constructed, it listens."""

    def __init__(
        self, name: str, options: Sequence[str] = (), extra: Mapping[str, str] | None = None
    ) -> None:
        named = ["--name", name] if name else []
        command = [sys.executable, str(GREETER / "server.py"), "--listen", "127.0.0.1:0", *named, *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(extra))
        line = line_of(self.process)  # the timeout of the test ends this if nothing ever comes
        self.name, _, self.target = line.strip().partition(" listens on ")
        assert self.target, f"the server said {line!r}"

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        return self.process.wait(timeout=30)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def until(condition: Callable[[], object], what: str, limit: float = 20.0) -> None:
    """Return when `condition()` is true; an AssertionError that names `what` after `limit` seconds."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit:g} s: {what}"
        time.sleep(0.01)
