"""What is measured: each case with its load, its rows in the table and what Evenstream must reach."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

Kind = Literal["cpu", "latency", "memory", "start", "event"]

# Peers by the names --peers takes, in the table's order.
HAPROXY_TCP: Final = "haproxy-tcp"
HAPROXY: Final = "haproxy-h2"
ENVOY: Final = "envoy"
OURS: Final = "ours"
INTERPRETED: Final = "ours-interpreted"
PEERS: Final = (HAPROXY_TCP, HAPROXY, ENVOY, OURS, INTERPRETED)
OWN: Final = (OURS, INTERPRETED)

MIB: Final = 1 << 20


class Target(NamedTuple):
    """Ours over the row `row` of `peer` (the same row if empty) is to be `most` or less."""

    most: float
    peer: str
    row: str = ""


class Row(NamedTuple):
    """One figure: a line of the table."""

    key: str
    title: str
    unit: str
    targets: tuple[Target, ...] = ()
    limit: float | None = None  # what ours is to stay within, in the row's unit


class Load(NamedTuple):
    """What the load program is asked for."""

    mode: Literal["unary", "stream", "open"] = "unary"
    conns: int = 4
    streams: int = 32
    size: int = 64
    unique: bool = False
    rate: float = 0.0
    held: int = 0  # idle streams held open beside the load
    at_least: int = 0  # calls each round makes, after the window if it must: five rounds make 100,000


class Case(NamedTuple):
    """One thing to measure, in a proxy process of its own."""

    name: str
    kind: Kind
    rows: tuple[Row, ...]
    load: Load = Load()
    endpoints: int = 3
    peers: tuple[str, ...] = PEERS
    quick: bool = False


def _fifth_and_half() -> tuple[Target, ...]:
    return (Target(0.2, ENVOY), Target(0.5, HAPROXY))


def _cpu(
    name: str, title: str, targets: tuple[Target, ...], load: Load, *, endpoints: int = 3, quick: bool = False
) -> Case:
    unit = "us/MiB" if load.mode == "stream" else "us/call"
    return Case(name, "cpu", (Row(name, title, unit, targets),), load, endpoints, quick=quick)


_OWN_HEADERS: Final = (Target(0.25, ENVOY), Target(0.7, HAPROXY))
_NOT_ABOVE: Final = (Target(1.0, ENVOY), Target(1.0, HAPROXY))

CASES: Final[tuple[Case, ...]] = (
    _cpu("unary-4x32", "unary 64 B, 4 x 32", _fifth_and_half(), Load(), quick=True),
    _cpu("unary-32x8", "unary 64 B, 32 x 8", _fifth_and_half(), Load(conns=32, streams=8)),
    _cpu("unary-1x1", "unary 64 B, 1 x 1", _NOT_ABOVE, Load(conns=1, streams=1), quick=True),
    _cpu("own-4x32", "own headers 64 B, 4 x 32", _OWN_HEADERS, Load(unique=True), quick=True),
    _cpu("own-32x8", "own headers 64 B, 32 x 8", _OWN_HEADERS, Load(conns=32, streams=8, unique=True)),
    _cpu("own-1x1", "own headers 64 B, 1 x 1", _NOT_ABOVE, Load(conns=1, streams=1, unique=True)),
    _cpu(
        "call-16k",
        "unary 16 KiB, 4 x 32",
        (Target(0.5, ENVOY),),
        Load(size=16384, at_least=20_000),
        quick=True,
    ),
    _cpu(
        "stream-1m",
        "streams of 1 MiB messages, 4 x 2",
        (Target(0.5, ENVOY),),
        Load("stream", streams=2, size=MIB),
        quick=True,
    ),
    Case(
        "latency",
        "latency",
        (
            Row("latency-p50", "added latency p50, 1,000 calls/s", "us", _NOT_ABOVE),
            Row("latency-p99", "added latency p99, 1,000 calls/s", "us", _NOT_ABOVE),
        ),
        Load("open", streams=1, rate=1000.0),
    ),
    Case(
        "memory",
        "memory",
        (
            Row("memory-idle", "resident, idle", "MB", limit=25),
            Row("memory-1k", "resident, 1,000 streams on 100 connections", "MB", limit=40),
            Row("memory-10k", "resident, 10,000 idle streams", "MB", limit=60),
        ),
    ),
    Case("start", "start", (Row("start", "process start to ready", "ms", limit=300),), quick=True),
    Case(
        "event",
        "event",
        (
            Row("event-file", "file written to first stream on the new endpoint", "ms"),
            Row("event-snapshot", "snapshot to first stream on the new endpoint", "ms", limit=2),
        ),
        Load(conns=2, streams=4),
        peers=OWN,
    ),
    _cpu("endpoints-3", "unary 64 B, 4 x 8, 3 endpoints", (), Load(streams=8)),
    _cpu(
        "endpoints-1000",
        "unary 64 B, 4 x 8, 1,000 endpoints",
        (Target(1.2, OURS, "endpoints-3"),),
        Load(streams=8),
        endpoints=1000,
    ),
    _cpu("streams-10", "unary 64 B, 4 x 32, beside 10 open streams", (), Load(held=10)),
    _cpu(
        "streams-10000",
        "unary 64 B, 4 x 32, beside 10,000 open streams",
        (Target(1.2, OURS, "streams-10"),),
        Load(held=10_000),
    ),
)


class UnknownNameError(ValueError):
    """A case or peer that does not exist; the text names what does."""


def choose_cases(patterns: Sequence[str], *, quick: bool) -> list[Case]:
    """The cases whose name matches a pattern (shell style; a bare prefix such as `unary` counts).

    Without patterns: all, or the quick ones. Raises UnknownNameError for a pattern that matches none.
    """
    if not patterns:
        return [case for case in CASES if case.quick or not quick]
    for pattern in patterns:
        if not any(_matches(case, pattern) for case in CASES):
            known = ", ".join(case.name for case in CASES)
            raise UnknownNameError(f"--only {pattern!r} is not allowed; cases: {known}")
    return [case for case in CASES if any(_matches(case, pattern) for pattern in patterns)]


def _matches(case: Case, pattern: str) -> bool:
    return fnmatch.fnmatchcase(case.name, pattern) or case.name.startswith(pattern + "-")


def choose_peers(names: Sequence[str]) -> list[str]:
    """The peers asked for, in the table's order; all if none. Raises UnknownNameError."""
    for name in names:
        if name not in PEERS:
            raise UnknownNameError(f"--peers {name!r} is not allowed; peers: {', '.join(PEERS)}")
    return [name for name in PEERS if not names or name in names]
