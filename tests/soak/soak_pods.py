"""Servers that come and go on a schedule, as pods do: each new one has an address nobody had before."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from demolib.objects import NAMESPACE, SERVICE_PORT, Pod, service_list
from demolib.processes import START_LIMIT_S, Program

LEAST, MOST = 2, 5
# As a preStop hook: between being terminating in the EndpointSlice and SIGTERM.
PRE_STOP_SECONDS: Final = 1.0
FLAP_SECONDS: Final = 1.0
# Beyond a server's own grace; a machine that others share.
END_SECONDS: Final = 60.0
START_SECONDS: Final = 3 * START_LIMIT_S


class Objects:
    """The file that the sidecar follows: several Services, replaced as a whole at each change."""

    def __init__(self, path: Path) -> None:
        self.path: Final = path
        self._pods: Final[dict[str, tuple[str, list[Pod]]]] = {}
        self._revision = 0

    def write(self, service: str, cluster_ip: str, pods: Sequence[Pod]) -> None:
        self._revision += 1
        self._pods[service] = (cluster_ip, list(pods))
        items: list[dict[str, Any]] = []
        for name, (address, listed) in self._pods.items():
            items += service_list(address, listed, self._revision, name)["items"]
        beside = self.path.with_suffix(".new")
        beside.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
        beside.replace(self.path)


class Pods:
    """One Service's servers. `done` counts what happened to them."""

    def __init__(
        self,
        service: str,
        addresses: Sequence[str],
        port: int,
        command: Callable[[str, str, int], list[str]],
        objects: Objects,
        logs: Path,
    ) -> None:
        """`addresses`: the first is the Service's own. `command` of name, host and port."""
        self.service: Final = service
        self.target: Final = f"{service}.{NAMESPACE}:{SERVICE_PORT}"
        self.done: Final[Counter[str]] = Counter()
        self.killed_at: Final[list[float]] = []
        self._cluster_ip, *self._addresses = addresses
        self._port: Final = port
        self._command: Final = command
        self._objects: Final = objects
        self._logs: Final = logs
        self._listed: Final[dict[str, Pod]] = {}
        self._running: Final[dict[str, Program]] = {}

    def _write(self) -> None:
        self._objects.write(self.service, self._cluster_ip, list(self._listed.values()))

    async def start(self) -> None:
        """One more, and into the EndpointSlice when it listens. Raises DemoError."""
        number = self.done["started"]
        self.done["started"] += 1
        name = f"{self.service}-{number}"
        pod = Pod(name, self._addresses[number % len(self._addresses)], self._port)
        program = self._running[name] = Program(name, self._logs)
        await program.start(self._command(name, pod.host, pod.port))
        await program.until_logged("listens on", START_SECONDS)
        self._listed[name] = pod
        self._write()

    async def _leave(self, name: str, shown: bool) -> None:
        if shown:
            self._listed[name] = self._listed[name]._replace(terminating=True)
        else:
            del self._listed[name]
        self._write()
        await asyncio.sleep(PRE_STOP_SECONDS)
        program = self._running[name]
        program.terminate()
        status = await program.ended(END_SECONDS)
        if status:
            raise program.error(f"ended with status {status}")
        del self._running[name]
        if self._listed.pop(name, None):
            self._write()

    async def drain(self, rng: random.Random) -> None:
        """As the control plane does it: terminating, SIGTERM, gone."""
        await self._leave(rng.choice(list(self._listed)), shown=True)
        self.done["drained"] += 1

    async def remove(self, rng: random.Random) -> None:
        """Out of the EndpointSlice at once, as when its labels change; then it ends."""
        await self._leave(rng.choice(list(self._listed)), shown=False)
        self.done["removed"] += 1

    async def replace(self, rng: random.Random) -> None:
        """One step of a rolling update."""
        await self.start()
        await self.drain(rng)

    async def flap(self, rng: random.Random) -> None:
        """Away and back again, while it goes on running."""
        name = rng.choice(list(self._listed))
        pod = self._listed.pop(name)
        self._write()
        await asyncio.sleep(FLAP_SECONDS)
        self._listed[name] = pod
        self._write()
        self.done["flapped"] += 1

    async def kill(self, rng: random.Random) -> None:
        """SIGKILL, and the EndpointSlice learns of it a second later."""
        name = rng.choice(list(self._listed))
        self.killed_at.append(asyncio.get_running_loop().time())
        await self._running.pop(name).kill()
        await asyncio.sleep(1.0)
        del self._listed[name]
        self._write()
        self.done["killed"] += 1

    async def follow(self, rng: random.Random, period: float, *, kills: bool) -> None:
        """Something happens every `period` seconds or so, until it is cancelled. Raises DemoError."""
        while True:
            await asyncio.sleep(rng.uniform(0.5, 1.5) * period)
            choices = [self.flap, self.replace]
            if len(self._listed) < MOST:
                choices += [lambda _: self.start()] * 2
            if len(self._listed) > LEAST:
                choices += [self.drain, self.remove, *([self.kill] if kills else [])]
            await rng.choice(choices)(rng)

    def leave_all(self) -> None:
        """None stands in the EndpointSlice any more."""
        self._listed.clear()
        self._write()

    async def stop(self) -> None:
        await asyncio.gather(*(program.stop() for program in self._running.values()))
