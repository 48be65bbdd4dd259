"""The programs of the demo, each a process of its own: started, waited for, and always stopped."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

GREETER_DIR: Final = Path(__file__).resolve().parent.parent
REPOSITORY: Final = GREETER_DIR.parent.parent

START_LIMIT_S: Final = 20.0  # a cold Python with grpcio on a busy machine takes a few seconds
STOP_LIMIT_S: Final = 5.0  # what has not ended this long after SIGTERM is killed
HTTP_LIMIT_S: Final = 1.0  # a local admin port that needs longer is not ready
POLL_S: Final = 0.02
LOG_TAIL_LINES: Final = 15
# One report of the client is well under 2 KiB; asyncio's default of 64 KiB would do too.
LINE_LIMIT: Final = 1 << 20
# Below the range the kernel takes ports for outgoing connections from (32768 and up on Linux).
_SPARE_PORTS: Final = range(20000, 30000)
_TRIES: Final = 50


class DemoError(Exception):
    """The demo could not be run; the text says what went wrong, and with which program."""


def free_network(hosts: int, port: int, choice: random.Random) -> tuple[list[str], int]:
    """`hosts` loopback addresses of one random /24 and a port that is free on all of them.

    `port` if it can be had. Random, so that two demos at once do not meet. Raises DemoError.
    """
    for attempt in range(_TRIES):
        prefix = f"127.{choice.randrange(64, 255)}.{choice.randrange(1, 255)}"
        addresses = [f"{prefix}.{number}" for number in range(1, hosts + 1)]
        wanted = port if attempt < _TRIES // 2 else choice.choice(_SPARE_PORTS)
        if all(_is_free(address, wanted) for address in addresses):
            return addresses, wanted
    raise DemoError(f"no loopback addresses with a free port were found in {_TRIES} tries")


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def child_environment() -> dict[str, str]:
    """Ours without proxies (they are for the world outside) and with the repository importable."""
    environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    path = os.pathsep.join(part for part in (str(REPOSITORY), environment.get("PYTHONPATH", "")) if part)
    return {**environment, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


class Program:
    """One child process. Its standard output goes line by line to `on_line`, or to the log with the rest."""

    def __init__(self, name: str, logs: Path, on_line: Callable[[str], None] | None = None) -> None:
        self.name = name
        self.log = logs / f"{name}.log"
        self._on_line = on_line
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    async def start(self, arguments: Sequence[str]) -> None:
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE if self._on_line else log,
                stderr=log,
                env=child_environment(),
                cwd=REPOSITORY,
                # Ctrl-C goes to the terminal's foreground group: the demo alone shall get it, and then stop
                # the others in order.
                start_new_session=True,
                limit=LINE_LIMIT,
            )
        if self._on_line:
            self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        assert self._on_line is not None
        while line := await self._process.stdout.readline():
            self._on_line(line.decode(errors="replace").rstrip())

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    def send(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    async def kill(self) -> None:
        """SIGKILL, and return when it is gone."""
        assert self._process is not None
        self._signal(signal.SIGKILL)
        await self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.running:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def ended(self, limit: float) -> int:
        """Its exit status. Raises DemoError if it still runs after `limit` seconds."""
        assert self._process is not None
        try:
            status = await asyncio.wait_for(self._process.wait(), limit)
        except TimeoutError:
            raise self.error(f"did not end within {limit:g} s") from None
        if self._reading is not None:
            await self._reading
        return status

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL if that is not enough. No error: this is also how a failed demo cleans up."""
        if self._process is None:
            return
        self.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_LIMIT_S)
        except TimeoutError:
            self._signal(signal.SIGKILL)
            await self._process.wait()
        if self._reading is not None:
            self._reading.cancel()

    def error(self, what: str) -> DemoError:
        """A DemoError about this program, with the end of its log."""
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        tail = "".join(f"\n  {line}" for line in lines)
        return DemoError(f"{self.name} {what}" + (f"; its last lines:{tail}" if tail else ""))

    async def until_logged(self, text: str, limit: float) -> None:
        """Return when its log holds `text`. Raises DemoError as `until` does."""
        await self.until(
            lambda: text in self.log.read_text(errors="replace"), f"its log says {text!r}", limit
        )

    async def until(
        self, ready: Callable[[], bool] | Callable[[], Awaitable[bool]], what: str, limit: float
    ) -> None:
        """Return when `ready()` is true. Raises DemoError if the program ends before, or time is up."""
        deadline = asyncio.get_running_loop().time() + limit
        while True:
            answer = ready()
            if answer if isinstance(answer, bool) else await answer:
                return
            if not self.running:
                status = self._process.returncode if self._process else None
                raise self.error(f"ended with status {status} before {what}")
            if asyncio.get_running_loop().time() > deadline:
                raise self.error(f"took more than {limit:g} s: {what}")
            await asyncio.sleep(POLL_S)


def server_arguments(name: str, host: str, port: int, grace: float) -> list[str]:
    script = str(GREETER_DIR / "server.py")
    return [sys.executable, script, "--listen", f"{host}:{port}", "--name", name, "--grace", str(grace)]


async def http_status(host: str, port: int, path: str) -> tuple[int, bytes]:
    """Status and body of one GET; (0, b"") if nobody answers."""
    try:
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
            answer = await asyncio.wait_for(reader.read(), HTTP_LIMIT_S)
        finally:
            writer.close()
    except (OSError, TimeoutError):
        return 0, b""
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.split(maxsplit=2)
    return (int(words[1]), body) if len(words) > 1 and words[1].isdigit() else (0, b"")


class Report:
    """One line of the client's --json output."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.at: float = fields["at"]
        self.final: bool = fields["final"]
        self.calls: dict[str, int] = fields["calls"]
        self.open: dict[str, int] = fields["open"]
        self.opened: dict[str, int] = fields["opened"]
        self.ended_by_server: int = fields["ended_by_server"]
        self.failed: int = fields["failed"]
        self.errors: dict[str, int] = fields["errors"]
        self.first_reply: dict[str, float] = fields["first_reply"]


NOTHING_YET: Final = Report(
    {
        "at": 0.0,
        "final": False,
        "calls": {},
        "open": {},
        "opened": {},
        "ended_by_server": 0,
        "failed": 0,
        "errors": {},
        "first_reply": {},
    }
)


class Client(Program):
    """The greeter client in its `mix` mode, and the newest of its reports."""

    REPORT_S: Final = 0.05

    def __init__(self, name: str, logs: Path, on_report: Callable[[Report], None]) -> None:
        super().__init__(name, logs, self._line)
        self._on_report = on_report
        self.report = NOTHING_YET

    def _line(self, line: str) -> None:
        self.report = Report(json.loads(line))
        self._on_report(self.report)

    async def begin(self, target: str, rate: float, streams: int) -> None:
        script = str(GREETER_DIR / "client.py")
        options = ["--target", target, "--rate", str(rate), "--count", str(streams)]
        steering = ["--control", "--json", "--report", str(self.REPORT_S)]
        await self.start([sys.executable, script, "mix", *options, *steering])

    async def counted(self, calls: int, limit: float) -> dict[str, int]:
        """The calls per server of the next `calls` or a few more. Raises DemoError after `limit` seconds."""
        before = self.report.calls
        wanted = sum(before.values()) + calls
        await self.until(lambda: sum(self.report.calls.values()) >= wanted, f"{calls} calls", limit)
        return {server: count - before.get(server, 0) for server, count in self.report.calls.items()}

    async def finish(self) -> Report:
        """End it as a user would; its last report."""
        self.send("quit")
        await self.ended(STOP_LIMIT_S)
        return self.report
