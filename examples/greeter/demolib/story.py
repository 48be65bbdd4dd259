"""What happens in the demo, in order, and what is counted on the way."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from demolib.clusterip import ClusterIP
from demolib.objects import NAMESPACE, SERVICE, SERVICE_PORT, ObjectsFile, Pod
from demolib.panel import Panel, over, total
from demolib.processes import (
    START_LIMIT_S,
    Client,
    Program,
    Report,
    free_network,
    http_status,
    server_arguments,
)
from demolib.screen import Screen
from demolib.verdict import Outcome, Phase

NAMES: Final = tuple(f"{SERVICE}-{number}" for number in range(1, 6))
FIRST: Final = NAMES[:3]
ADDED: Final = NAMES[3:]
LEAVING: Final = NAMES[1]
# Divisible by the servers they are spread over: 12 over 3, 20 over 5 and over 4.
STREAMS: Final = 12
STREAMS_AFTER: Final = 20
SIDECAR_PORT: Final = 7000
ADMIN_PORT: Final = 15020
WAIT_LIMIT_S: Final = 10.0  # nothing the demo waits for takes a healthy system a tenth of this


class Pace(NamedTuple):
    """How fast the story goes. Slow enough to watch, or quick for a test."""

    rate: float  # calls a second
    calls: int  # counted in each phase
    look: float  # seconds to look at something before the next thing happens
    grace: float  # the servers' grace, seconds


WATCH: Final = Pace(rate=100.0, calls=360, look=1.5, grace=1.5)
QUICK: Final = Pace(rate=250.0, calls=120, look=0.2, grace=0.3)


class Story:
    """One run. `run` tells it, `close` stops everything, whatever happened."""

    def __init__(self, screen: Screen, directory: Path, pace: Pace, sidecar: list[str]) -> None:
        self._screen = screen
        self._directory = directory
        self._pace = pace
        self._sidecar_command = sidecar
        self._programs: list[Program] = []
        self._servers: dict[str, Program] = {}
        self._relay: ClusterIP | None = None
        self._panel = Panel(screen)
        self._failed_seen = 0  # of the running client, in phases that are over
        self._phases: list[Phase] = []
        self._first_stream: dict[str, float] = {}
        self._new_streams: dict[str, int] = {}
        self._late_calls = 0
        hosts, self._port = free_network(2 + len(NAMES), SERVICE_PORT, random.Random())
        self._cluster_ip, self._local, *rest = hosts
        self._pods = {name: Pod(name, host, self._port) for name, host in zip(NAMES, rest, strict=True)}
        self._objects = ObjectsFile(directory / "objects.json", self._cluster_ip)

    async def run(self) -> None:
        """Raises DemoError if a program did not do what the story needs; `outcome` is then of what was."""
        self._screen.event(f"three greeter servers on grpcio start: {', '.join(FIRST)}")
        await self._start_servers(FIRST)
        await self._direct()
        client = await self._start_sidecar()
        await self._fixed(client)
        await self._join(client)
        await self._leave(client)
        report = await client.finish()
        # What failed after the last phase was counted is a failure too.
        self._phases[-1] = self._phases[-1]._replace(
            failed=self._phases[-1].failed + self._newly_failed(report)
        )
        for text, count in report.errors.items():
            self._screen.event(f"failed {count} times: {text}")

    def outcome(self) -> Outcome:
        """All that was counted, so far."""
        return Outcome(self._phases, self._first_stream, self._new_streams, self._late_calls)

    async def close(self) -> None:
        """Stop all: the client first, the servers last, so that nobody sees an error at the end."""
        clients = [program for program in self._programs if isinstance(program, Client)]
        others = [program for program in self._programs if program not in clients]
        await asyncio.gather(*(program.stop() for program in clients))
        if self._relay is not None:
            await self._relay.close()
        await asyncio.gather(*(program.stop() for program in others))

    async def _start_servers(self, names: tuple[str, ...]) -> None:
        for name in names:
            program = self._servers[name] = Program(name, self._directory)
            self._programs.append(program)
            pod = self._pods[name]
            await program.start(server_arguments(name, pod.host, pod.port, self._pace.grace))
        for name in names:
            await self._servers[name].until_logged("listens on", START_LIMIT_S)

    # One phase each

    async def _direct(self) -> None:
        self._panel.states = dict.fromkeys(FIRST, "")
        self._panel.phase(
            "1 of 4  Direct: one gRPC channel to a ClusterIP",
            f"A ClusterIP picks a server per TCP connection ({self._cluster_ip}:{self._port} stands in for "
            "kube-proxy here), and a gRPC channel keeps one connection.",
            {},
        )
        backends = [(self._pods[name].host, self._pods[name].port) for name in FIRST]
        self._relay = ClusterIP(backends, random.Random())
        await self._relay.start(self._cluster_ip, self._port)
        client = await self._start_client("client-direct", f"{self._cluster_ip}:{self._port}")
        counted = await client.counted(self._pace.calls, self._calls_limit())
        streams = client.report.open
        report = await client.finish()
        await self._relay.close()
        self._panel.client_ended(report.failed)
        self._screen.event(
            f"all {sum(counted.values())} calls and {sum(streams.values())} long streams came over "
            f"{self._relay.connections} connection, to {_listed(sorted(counted))}"
        )
        calls, streams = over(FIRST, counted), over(FIRST, streams)
        self._phases.append(Phase("direct", calls, streams, report.failed, through_sidecar=False))

    async def _start_sidecar(self) -> Client:
        self._objects.write([self._pods[name] for name in FIRST])
        sidecar = Program("sidecar", self._directory)
        self._programs.append(sidecar)
        target = f"{self._local}:{SIDECAR_PORT}"
        listen = f"{target}={SERVICE}.{NAMESPACE}:{SERVICE_PORT}"
        options = ["--source", f"file:{self._objects.path}", "--listen", listen]
        await sidecar.start([*self._sidecar_command, *options, "--admin", f"{self._local}:{ADMIN_PORT}"])
        await self._until_ready(sidecar)
        self._panel.states = dict.fromkeys(FIRST, "")
        self._panel.phase(
            "2 of 4  Through the sidecar: the same client, one channel",
            "It reads the Service and its EndpointSlice, as kubectl prints them, from a file it watches.",
            {},
        )
        return await self._start_client("client", target)

    async def _until_ready(self, sidecar: Program) -> None:
        async def answers() -> bool:
            return (await http_status(self._local, ADMIN_PORT, "/readyz"))[0] == 200

        await sidecar.until(answers, "/readyz says that it is ready", WAIT_LIMIT_S)
        _, body = await http_status(self._local, ADMIN_PORT, "/status")
        try:
            build = f" ({json.loads(body)['build']['build']})"
        except (ValueError, LookupError, TypeError):
            build = ""  # nice to know, and no reason to stop
        self._screen.event(f"the sidecar is ready{build}")

    async def _fixed(self, client: Client) -> None:
        await client.until(lambda: total(client.report.open) == STREAMS, f"{STREAMS} streams", WAIT_LIMIT_S)
        counted = await client.counted(self._pace.calls, self._calls_limit())
        self._note(client, "sidecar", FIRST, counted)

    async def _join(self, client: Client) -> None:
        self._panel.states.update(dict.fromkeys(ADDED, "new"))
        self._panel.phase(
            "3 of 4  Two servers join",
            "The next stream goes to the server with the fewest open streams: to the new ones, until they "
            "hold as many as the others.",
            client.report.calls,
        )
        await self._start_servers(ADDED)
        written = self._objects.write(list(self._pods.values()))
        self._screen.event(f"{_listed(ADDED)} stand in the EndpointSlice now")
        await client.until(
            lambda: all(name in client.report.first_reply for name in ADDED),
            "a stream on each new server",
            WAIT_LIMIT_S,
        )
        self._first_stream = {name: client.report.first_reply[name] - written for name in ADDED}
        waits = ", ".join(f"{name} after {wait * 1000:.0f} ms" for name, wait in self._first_stream.items())
        self._screen.event(f"first stream: {waits}")
        await asyncio.sleep(self._pace.look)
        opened = client.report.opened
        client.send(f"streams {STREAMS_AFTER}")
        await client.until(
            lambda: total(client.report.open) == STREAMS_AFTER, "the new streams", WAIT_LIMIT_S
        )
        new = {name: count - opened.get(name, 0) for name, count in client.report.opened.items()}
        self._new_streams = {name: count for name, count in new.items() if count}
        where = ", ".join(f"{count} to {name}" for name, count in self._new_streams.items())
        self._screen.event(f"{STREAMS_AFTER - STREAMS} more long streams were opened: {where}")
        counted = await client.counted(self._pace.calls, self._calls_limit())
        self._note(client, "two joined", NAMES, counted)

    async def _leave(self, client: Client) -> None:
        stay = tuple(name for name in NAMES if name != LEAVING)
        self._panel.states.update({**dict.fromkeys(NAMES, ""), LEAVING: "leaving"})
        self._panel.phase(
            f"4 of 4  {LEAVING} leaves",
            "It gets nothing new, finishes what it has, is stopped; its long streams open again elsewhere.",
            client.report.calls,
        )
        pods = [self._pods[name]._replace(terminating=name == LEAVING) for name in NAMES]
        self._objects.write(pods)
        self._screen.event(f"{LEAVING} is terminating in the EndpointSlice: no new streams")
        await asyncio.sleep(max(self._pace.look, 0.5))
        before = client.report.calls.get(LEAVING, 0)
        ended = client.report.ended_by_server
        server = self._servers[LEAVING]
        server.terminate()
        self._screen.event(f"{LEAVING} got SIGTERM: GOAWAY, {self._pace.grace:g} s of grace for its streams")
        status = await server.ended(self._pace.grace + WAIT_LIMIT_S)
        if status:
            raise server.error(f"ended with status {status}")
        self._objects.write([self._pods[name] for name in stay])
        self._panel.states[LEAVING] = "stopped"
        await client.until(
            lambda: _settled(client.report, stay), "streams opened again elsewhere", WAIT_LIMIT_S
        )
        moved = client.report.ended_by_server - ended
        self._screen.event(
            f"{LEAVING} has stopped; it ended {moved} long streams with OK, open again elsewhere"
        )
        counted = await client.counted(self._pace.calls, self._calls_limit())
        self._late_calls = client.report.calls.get(LEAVING, 0) - before
        self._note(client, "one left", stay, counted)

    def _note(self, client: Client, name: str, servers: tuple[str, ...], counted: Mapping[str, int]) -> None:
        """Keep what a phase through the sidecar came to."""
        streams = over(servers, client.report.open)
        failed = self._newly_failed(client.report)
        self._phases.append(Phase(name, over(servers, counted), streams, failed))

    def _newly_failed(self, report: Report) -> int:
        failed, self._failed_seen = report.failed - self._failed_seen, report.failed
        return failed

    # The client and the panel

    async def _start_client(self, name: str, target: str) -> Client:
        client = Client(name, self._directory, self._panel.show)
        self._programs.append(client)
        await client.begin(target, self._pace.rate, STREAMS)
        return client

    def _calls_limit(self) -> float:
        """Far more than the calls need, so that only a stop in the traffic is an error."""
        return WAIT_LIMIT_S + 10 * self._pace.calls / self._pace.rate


def _settled(report: Report, servers: tuple[str, ...]) -> bool:
    return total(report.open) == STREAMS_AFTER and set(report.open) <= set(servers)


def _listed(names: tuple[str, ...] | list[str]) -> str:
    return " and ".join(names)


def default_sidecar() -> list[str]:
    return [sys.executable, "-m", "sidecar"]
