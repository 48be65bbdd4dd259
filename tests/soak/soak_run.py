"""A soak: mixed load through one sidecar for ten minutes, without a cluster, while servers come and go.

Real grpcio clients and servers make calls of all four kinds, of 0 bytes to 4 MB, with deadlines, cancellations,
half-closed streams and slow readers, beside a greeter's calls and long streams. Servers are started, drained, removed
and flap; in none of this a call may fail. It ends with a table, and with exit 0 only if no call failed, memory did
not drift, and streams, connections and open files are back to what they were. SIGTERM and Ctrl-C print what was seen
so far.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parents[1]
INTEROP: Final = HERE.parent / "interop"
sys.path[:0] = [str(HERE), str(INTEROP), str(ROOT / "examples" / "greeter"), str(ROOT)]

import interop_build  # noqa: E402 - the paths come first
import interop_stacks  # noqa: E402
import soak_watch  # noqa: E402
from demolib.processes import (  # noqa: E402
    Client,
    DemoError,
    Program,
    free_network,
    http_status,
    server_arguments,
)
from demolib.signals import Stop  # noqa: E402
from soak_pods import Objects, Pods  # noqa: E402
from soak_report import Result  # noqa: E402

SECONDS: Final = 600.0
ALLOWED_DRIFT: Final = 5.0
PERIOD_SECONDS: Final = 8.0  # between two things that happen to one Service's servers
FIRST_SERVERS: Final = 3
STREAMS: Final = 12
PROGRESS_LINES: Final = 10
SAMPLE_SECONDS: Final = 0.5
READY_SECONDS: Final = 60.0
# The longest case takes 2 s, and its timeout is a minute.
FINISH_SECONDS: Final = 90.0
QUIET_SECONDS: Final = 60.0
# What a kill may cost is over by then: calls under way, and those sent before the connection's end was seen.
KILL_SECONDS: Final = 3.0
GREETER_GRACE: Final = 2.0  # then its chats end with OK, and are opened again elsewhere
INTEROP_GRACE: Final = 50.0  # its calls end by themselves in 2 s, so nothing waits for so long
# One address of the /24 is the sidecar's, two are the Services'; the rest go round.
ADDRESSES: Final = 240
PORT: Final = 50051


class Options(NamedTuple):
    seconds: float
    seed: int
    rate: float
    period: float
    drift: float
    kills: bool


class Load(Program):
    """soak_load.py, and the newest of its reports."""

    def __init__(self, logs: Path) -> None:
        super().__init__("load", logs, self._line)
        self.told: dict[str, Any] = {"final": False, "cases": {}, "errors": {}}

    def _line(self, line: str) -> None:
        self.told = json.loads(line)

    @property
    def failed(self) -> int:
        return sum(self.told["errors"].values())

    async def finish(self) -> None:
        self.send("quit")
        await self.ended(FINISH_SECONDS)


class Soak:
    def __init__(self, options: Options, folder: Path, stubs: Path) -> None:
        self.result: Final = Result(options.seconds, options.drift, options.seed)
        self._options: Final = options
        self._folder: Final = folder
        self._rng: Final = random.Random(options.seed)
        (self._own, *addresses), port = free_network(ADDRESSES, PORT, random.Random())
        half = len(addresses) // 2
        objects = Objects(folder / "objects.json")
        self._objects: Final = objects

        def interop(name: str, host: str, port: int) -> list[str]:
            script = str(INTEROP / "python" / "server.py")
            return [*(sys.executable, script, f"--host={host}", f"--port={port}", f"--grace={INTEROP_GRACE}")]

        def greeter(name: str, host: str, port: int) -> list[str]:
            return server_arguments(name, host, port, GREETER_GRACE)

        self._interop: Final = Pods("interop", addresses[:half], port, interop, objects, folder)
        self._greeter: Final = Pods("greeter", addresses[half:], port, greeter, objects, folder)
        self._services: Final = (self._interop, self._greeter)
        self._sidecar: Final = Program("sidecar", folder)
        self._load: Final = Load(folder)
        self._client: Final = Client("client", folder, lambda _: None)
        self._pid = 0
        self._failed_seen = 0
        path = os.pathsep.join((str(stubs), str(INTEROP / "python"), os.environ.get("PYTHONPATH", "")))
        os.environ["PYTHONPATH"] = path

    async def run(self) -> None:
        """Raises DemoError if a program did not do what it should."""
        await asyncio.gather(*(pods.start() for pods in self._services for _ in range(FIRST_SERVERS)))
        await self._start_sidecar()
        self.result.files_before = soak_watch.take(self._pid, 0.0).files
        rate = self._options.rate
        await self._load.start(
            [
                *(sys.executable, str(HERE / "soak_load.py"), f"--target={self._own}:7000"),
                *(f"--rate={rate / 2}", f"--seed={self._options.seed}"),
            ]
        )
        await self._client.begin(f"{self._own}:7001", rate / 2, STREAMS)
        await self._soak()
        await self._finish()

    async def _start_sidecar(self) -> None:
        listeners = [
            f"{self._own}:{port}={pods.target}"
            for port, pods in zip((7000, 7001), self._services, strict=True)
        ]
        await self._sidecar.start(
            [
                *(sys.executable, "-m", "sidecar", "--source", f"file:{self._objects.path}"),
                *("--listen", listeners[0], "--listen", listeners[1], "--admin", f"{self._own}:7002"),
            ]
        )

        async def ready() -> bool:
            return (await http_status(self._own, 7002, "/readyz"))[0] == 200

        await self._sidecar.until(ready, "it is ready", READY_SECONDS)
        build = (await self._status())["build"]
        self._pid = build["pid"]
        self.result.build = f"{build['build']}, Python {build['python']}"

    async def _status(self) -> dict[str, Any]:
        code, body = await http_status(self._own, 7002, "/status")
        if code != 200:
            raise self._sidecar.error(f"answered /status with {code or 'nothing'}")
        return dict(json.loads(body))

    async def _soak(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        events = [
            asyncio.create_task(
                pods.follow(self._rng, self._options.period, kills=self._options.kills), name=pods.service
            )
            for pods in self._services
        ]
        try:
            told = 0
            while (at := loop.time() - began) < self._options.seconds:
                self._look(at)
                if (part := int(at / self._options.seconds * PROGRESS_LINES)) > told:
                    told = part
                    print(self.result.progress(), flush=True)
                for task in events:
                    if task.done():
                        task.result()
                await asyncio.sleep(SAMPLE_SECONDS)
        finally:
            for task in events:
                task.cancel()
            await asyncio.gather(*events, return_exceptions=True)

    def _look(self, at: float) -> None:
        for program in (self._sidecar, self._load, self._client):
            if not program.running:
                raise program.error("ended")
        self.result.seconds = at
        self.result.samples.append(soak_watch.take(self._pid, at))
        self._count()

    def _count(self) -> None:
        """What failed since the last look, and whether a kill explains it."""
        failed = self._load.failed + self._client.report.failed
        now = asyncio.get_running_loop().time()
        explained = any(now - at < KILL_SECONDS for pods in self._services for at in pods.killed_at)
        if explained:
            self.result.explained += failed - self._failed_seen
        self._failed_seen = failed
        self.result.failed = failed
        self.result.cases = self._load.told["cases"]
        self.result.errors = {**self._load.told["errors"], **self._client.report.errors}
        self.result.client = self._client.report
        self.result.events = self._interop.done + self._greeter.done

    async def _finish(self) -> None:
        """The load ends, then the endpoints; all that was opened must be closed."""
        await self._load.finish()
        await self._client.finish()
        self._count()
        await self._quiet("streams, connections and bytes held", self._idle)
        for pods in self._services:
            pods.leave_all()
        await self._quiet("connections to servers", self._alone)
        await self._quiet("open files", self._as_few_files)
        self._sidecar.terminate()
        status = await self._sidecar.ended(QUIET_SECONDS)
        if status:
            self.result.left.append(f"the sidecar ended with status {status}")
        if "Traceback" in self._sidecar.log.read_text(errors="replace"):
            self.result.left.append("the sidecar logged a traceback")
        self.result.whole = True

    async def _quiet(self, what: str, look: Any) -> None:
        deadline = asyncio.get_running_loop().time() + QUIET_SECONDS
        while seen := await look():
            if asyncio.get_running_loop().time() > deadline:
                self.result.left.append(f"{what}: not back to nothing within {QUIET_SECONDS:g} s: {seen}")
                return
            await asyncio.sleep(SAMPLE_SECONDS)

    async def _idle(self) -> str:
        status = await self._status()
        streams = sum(each["open_streams"] for service in status["services"] for each in service["endpoints"])
        queued = sum(service["queued_streams"] for service in status["services"])
        held, connections = status["engine"]["held_bytes"], status["connections"]["open"]
        self.result.protocol_errors = status["engine"]["protocol_errors"]
        seen = {"streams": streams + queued, "bytes held": held, "connections": connections}
        return ", ".join(f"{value} {name}" for name, value in seen.items() if value)

    async def _alone(self) -> str:
        services = (await self._status())["services"]
        left = sum(each["connections"] for service in services for each in service["endpoints"])
        return f"{left}" if left else ""

    async def _as_few_files(self) -> str:
        self.result.files_after = soak_watch.take(self._pid, 0.0).files
        before, after = self.result.files_before, self.result.files_after
        return f"{after}, at first {before}" if after > before else ""

    async def close(self) -> None:
        """Stop all: the clients first, the servers last."""
        if not self.result.whole:
            self._count()
        await asyncio.gather(self._load.stop(), self._client.stop())
        await self._sidecar.stop()
        await asyncio.gather(*(pods.stop() for pods in self._services))


async def run(options: Options, folder: Path, stubs: Path) -> int:
    """The whole soak; the exit status. A signal ends it early: 128 and the signal's number."""
    stop = Stop()
    soak = Soak(options, folder, stubs)
    print(f"soak: {options.seconds:g} s, seed {options.seed}, logs in {folder}", flush=True)
    try:
        await soak.run()
    except asyncio.CancelledError:
        if not stop.name:
            raise
        soak.result.left.append(f"stopped by {stop.name}")
    except DemoError as error:
        soak.result.left.append(str(error))
    finally:
        await soak.close()
    print("\n".join(soak.result.table()), flush=True)
    return stop.status or soak.result.status()


def parse_arguments(argv: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(
        prog="soak_run.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of load (default: %(default)g)")
    parser.add_argument("--seed", type=int, help="of what is called and what happens; by default a fresh one")
    parser.add_argument(
        "--rate",
        type=float,
        default=100.0,
        help="calls a second, of all kinds together (default: %(default)g)",
    )
    parser.add_argument(
        "--period",
        type=float,
        default=PERIOD_SECONDS,
        metavar="SECONDS",
        help="something happens to each Service's servers so often (default: %(default)g)",
    )
    parser.add_argument(
        "--drift",
        type=float,
        default=ALLOWED_DRIFT,
        metavar="PERCENT",
        help="by how much resident memory may grow after the warm-up (default: %(default)g)",
    )
    parser.add_argument(
        "--kills",
        action="store_true",
        help=f"SIGKILL servers too; what fails within {KILL_SECONDS:g} s is theirs",
    )
    arguments = parser.parse_args(argv)
    for name in ("seconds", "rate", "period"):
        if getattr(arguments, name) <= 0:
            parser.error(f"--{name}: {getattr(arguments, name):g} is not allowed; allowed: more than 0")
    seed = random.randrange(1 << 32) if arguments.seed is None else arguments.seed
    return Options(
        arguments.seconds, seed, arguments.rate, arguments.period, arguments.drift, arguments.kills
    )


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_arguments(argv)
    try:
        stubs = interop_build.ensure(interop_stacks.PYTHON_RECIPE)
        with tempfile.TemporaryDirectory(prefix="evenstream-soak-") as folder:
            return asyncio.run(run(options, Path(folder), stubs))
    except (DemoError, interop_build.BuildFailedError) as error:
        print(f"soak_run.py: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
