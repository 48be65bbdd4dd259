"""Takes one sample: one case, one peer, one round, in processes of its own."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from bench import cases, install, peers
from bench.cases import Case, Load
from bench.procs import Group, Process, ProcessFailedError, machine_busy, resident_mb

DIRECT: Final = "direct"
START_SECONDS: Final = 20.0  # for the load program to bind or connect everything
HOLD_SECONDS: Final = 60.0  # to open 10,000 streams through the slowest peer
SETTLE_SECONDS: Final = 0.5  # before resident memory is read
HELD_CONNECTIONS: Final = 100
EVENTS: Final = 10  # new endpoints per round
EVENT_SECONDS: Final = 5.0
EVENT_SHARE: Final = 0.5  # seconds of load for each of them; ten times what one takes
EVENT_PAUSE: Final = 0.05  # so that each event is one of its own
AGE_REQUESTS: Final = 5
BUSY_SECONDS: Final = 0.2
STALL: Final = "5s"
# Of a whole run: at 1,000 calls a second 60 of them are beyond the 99th percentile.
LATENCY_SECONDS: Final = 6.0
TAIL_SECONDS: Final = 40.0  # after the window: calls still wanted (20 s, client.go) and those that stall


class Plan(NamedTuple):
    """Where and for how long."""

    proxy_core: int
    load_core: int
    warmup: float  # seconds
    window: float  # seconds
    whole: bool = True  # go on after the window until a case has its calls (not in a quick run)


class Sample(NamedTuple):
    """What one measurement found. `problem` is set when there is none."""

    case: str
    peer: str
    round: int
    values: dict[str, float]  # by row key
    calls: int = 0  # completed, warm-up included
    failed: int = 0
    stalled: int = 0
    errors: Mapping[str, int] = MappingProxyType({})
    detail: Mapping[str, Any] = MappingProxyType(
        {}
    )  # what else is known: rate, user and system time, latencies
    busy: float = 0.0  # share of the machine that others used just before
    problem: str = ""


class Bench:
    """One measurement's processes: backends, a proxy, clients."""

    def __init__(self, group: Group, plan: Plan, work: Path, program: str) -> None:
        self.group = group
        self.plan = plan
        self.work = work
        self.program = program

    def load(self, mode: str, *arguments: str) -> Process:
        return self.group.start([self.program, mode, *arguments], self.plan.load_core, self.work / "load.log")

    def backends(self, listen: str, *arguments: str) -> tuple[Process, list[peers.Address]]:
        server = self.load("serve", "--listen", listen, *arguments)
        addresses = server.read_json(START_SECONDS)["addresses"]
        return server, [(host, int(port)) for host, port in (text.rsplit(":", 1) for text in addresses)]

    def proxy(self, peer: str, backends: Sequence[peers.Address], prefix: Sequence[str] = ()) -> peers.Proxy:
        return peers.start(self.group, peer, self.plan.proxy_core, self.work, backends, prefix)

    def hold(self, target: str, conns: int, streams: int) -> Process:
        """Open conns x streams streams and keep them. Raises ProcessFailedError unless all are open."""
        holder = self.load("hold", "--target", target, "--conns", str(conns), "--streams", str(streams))
        opened = holder.read_json(HOLD_SECONDS)
        if opened["failed"]:
            raise ProcessFailedError(
                f"{opened['failed']} of {conns * streams} streams failed: {opened['error']}"
            )
        return holder

    def client(self, load: Load, target: str, pid: int, *, window: float | None = None) -> Process:
        arguments = ["--target", target, "--conns", str(load.conns), "--streams", str(load.streams)]
        arguments += ["--size", str(load.size), "--pid", str(pid), "--stall", STALL]
        arguments += ["--warmup", f"{self.plan.warmup}s", "--window", f"{window or self.plan.window}s"]
        if load.unique:
            arguments.append("--unique")
        if load.at_least and self.plan.whole:
            arguments += ["--calls", str(load.at_least)]
        if load.mode == "open":
            arguments += ["--rate", str(load.rate)]
        return self.load(load.mode, *arguments)

    def run(self, load: Load, target: str, pid: int, *, window: float | None = None) -> dict[str, Any]:
        wait = START_SECONDS + self.plan.warmup + (window or self.plan.window) + TAIL_SECONDS
        return self.client(load, target, pid, window=window).read_json(wait)


def listen_for(endpoints: int) -> str:
    """Addresses 127.1.0.1 and on with one port, as the pods of a Service have one port."""
    return f"127.1.0.1+{endpoints}"


def _counts(result: dict[str, Any]) -> dict[str, Any]:
    detail = {key: result[key] for key in ("seconds", "user_seconds", "system_seconds", "p50_us", "p99_us")}
    detail["rate"] = result["ok"] / result["seconds"]
    detail["core"] = result["cpu_seconds"] / result["seconds"]
    return {
        "calls": result["all_ok"],
        "failed": result["all_failed"],
        "stalled": result["all_stalled"],
        "errors": result.get("errors") or {},
        "detail": detail,
    }


def _cpu(bench: Bench, case: Case, peer: str) -> dict[str, Any]:
    _, backends = bench.backends(listen_for(case.endpoints))
    proxy = bench.proxy(peer, backends)
    held = case.load.held
    if held:
        conns = min(held, HELD_CONNECTIONS)
        bench.hold(proxy.target, conns, held // conns)
    result = bench.run(case.load, proxy.target, proxy.process.pid)
    counts = _counts(result)
    if not result["ok"]:
        return {"values": {}, "problem": "no call succeeded in the window", **counts}
    items = result["ok"] * (case.load.size / cases.MIB if case.load.mode == "stream" else 1)
    return {"values": {case.rows[0].key: result["cpu_seconds"] / items * 1e6}, **counts}


def _latency(bench: Bench, case: Case, peer: str) -> dict[str, Any]:
    """Added latency: through the proxy less straight to a backend, measured just before it."""
    _, backends = bench.backends(listen_for(case.endpoints))
    host, port = backends[0]
    window = max(bench.plan.window, LATENCY_SECONDS) if bench.plan.whole else None
    direct = bench.run(case.load, f"{host}:{port}", 0, window=window)
    proxy = bench.proxy(peer, backends)
    result = bench.run(case.load, proxy.target, proxy.process.pid, window=window)
    counts = _counts(result)
    counts["detail"] |= {"direct_p50_us": direct["p50_us"], "direct_p99_us": direct["p99_us"]}
    shares = ("p50_us", "p99_us")
    return {
        "values": {row.key: result[key] - direct[key] for row, key in zip(case.rows, shares, strict=True)},
        **counts,
    }


def _memory(bench: Bench, case: Case, peer: str) -> dict[str, Any]:
    _, backends = bench.backends(listen_for(case.endpoints))
    values: dict[str, float] = {}
    proxy = bench.proxy(peer, backends)
    time.sleep(SETTLE_SECONDS)
    values[case.rows[0].key] = resident_mb(proxy.process.pid)
    for row, streams in zip(case.rows[1:], (10, 100), strict=True):
        holder = bench.hold(proxy.target, HELD_CONNECTIONS, streams)
        time.sleep(SETTLE_SECONDS)
        values[row.key] = resident_mb(proxy.process.pid)
        holder.stop()
        proxy.process.stop()
        if row is not case.rows[-1]:
            proxy = bench.proxy(peer, backends)
    return {"values": values}


def _start(bench: Bench, case: Case, peer: str) -> dict[str, Any]:
    _, backends = bench.backends(listen_for(case.endpoints))
    return {"values": {case.rows[0].key: bench.proxy(peer, backends).start_seconds * 1e3}}


def _event(bench: Bench, case: Case, peer: str) -> dict[str, Any]:
    """Add one endpoint after another to the file while calls run; when does each get its first?"""
    server, backends = bench.backends(listen_for(case.endpoints + EVENTS), "--announce")
    steady = backends[: case.endpoints]
    proxy = bench.proxy(peer, steady)
    assert proxy.source is not None
    client = bench.client(case.load, proxy.target, proxy.process.pid, window=EVENTS * EVENT_SHARE)
    seen = {server.read_json(START_SECONDS)["address"] for _ in steady}
    assert seen == {f"{host}:{port}" for host, port in steady}
    from_file: list[float] = []
    from_snapshot: list[float] = []
    connecting: list[float] = []
    for fresh in backends[case.endpoints :]:
        text = peers.render_slices([*steady, fresh])
        written = time.monotonic_ns()
        peers.write_atomically(proxy.source, text)
        first = server.read_json(EVENT_SECONDS)
        from_file.append((first["first_stream_ns"] - written) / 1e6)
        connecting.append((first["first_stream_ns"] - first["first_connection_ns"]) / 1e6)
        taken = _snapshot_time(proxy.admin)
        if taken is not None:
            from_snapshot.append(first["first_stream_ns"] / 1e6 - taken * 1e3)
        time.sleep(EVENT_PAUSE)
    counts = _counts(client.read_json(EVENTS * EVENT_SECONDS))
    counts["detail"] |= {"file_ms": from_file, "snapshot_ms": from_snapshot, "after_accept_ms": connecting}
    values = {case.rows[0].key: statistics.median(from_file)}
    if from_snapshot:
        values[case.rows[1].key] = statistics.median(from_snapshot)
    return {"values": values, **counts}


def _snapshot_time(admin: int) -> float | None:
    """When the newest snapshot reached the engine (CLOCK_MONOTONIC seconds), from its age in /status.

    Each request bounds it: the age was taken between sending and answer. Several bound it closely.
    """
    earliest, latest = 0.0, float("inf")
    for _ in range(AGE_REQUESTS):
        before = time.monotonic()
        services = json.loads(peers.admin_get(admin, "/status")[1])["services"]
        after = time.monotonic()
        ages = [service["snapshot_age_seconds"] for service in services]
        if None in ages or not ages:
            return None
        earliest, latest = max(earliest, before - min(ages)), min(latest, after - min(ages))
    return (earliest + latest) / 2


_HOW: Final[dict[str, Callable[[Bench, Case, str], dict[str, Any]]]] = {
    "cpu": _cpu,
    "latency": _latency,
    "memory": _memory,
    "start": _start,
    "event": _event,
}


def sample(case: Case, peer: str, number: int, plan: Plan) -> Sample:
    """Measure once. What goes wrong is told in the sample's `problem`; nothing is raised for it."""
    busy = machine_busy(BUSY_SECONDS)
    try:
        program = install.load_program()
        with tempfile.TemporaryDirectory(prefix="evenstream-bench-") as work, Group() as group:
            found = _HOW[case.kind](Bench(group, plan, Path(work), program), case, peer)
    except (ProcessFailedError, install.MissingError, OSError, ValueError) as error:
        return Sample(case.name, peer, number, {}, busy=busy, problem=str(error))
    return Sample(case=case.name, peer=peer, round=number, busy=busy, **found)
