"""Names to addresses over TCP, against a server with behaviour, and its faults."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import dns.rcode
import pytest
from ladderworld import LadderWorld

from sidecar.balance.endpoints import ServicePort, Snapshot
from sidecar.discovery import dns as client
from sidecar.discovery import ladder
from sidecar.discovery.dns import Config, parse_config

GREETER = ServicePort("default", "greeter", 50051)
NAME = "greeter.default.svc.cluster.local"


@pytest.fixture(params=[0, 1], ids=["whole", "by byte"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> LadderWorld:
    """No API server ever answers, and the first DNS server knows two pods."""
    made = LadderWorld(tmp_path, piece=request.param)
    made.server.up = False
    for server in made.dns.values():
        server.records[NAME] = ["10.0.0.8", "10.0.0.7"]
    made.watch(GREETER)
    return made


def hosts(world: LadderWorld, seconds: float = ladder.FALLBACK_SECONDS + 0.05) -> list[list[str]]:
    return [[e.host for e in each.endpoints] for each in world.advance(seconds) if isinstance(each, Snapshot)]


@pytest.mark.parametrize(
    ("records", "server", "expected"),
    [
        (["10.0.0.8", "10.0.0.7"], "10.96.0.53", ["10.0.0.7", "10.0.0.8"]),
        (["fd00::2", "10.0.0.7", "fd00::1"], "10.96.0.53", ["10.0.0.7"]),
        (["fd00::2", "fd00::1"], "10.96.0.53", ["fd00::1", "fd00::2"]),
        (["10.0.0.7", "10.0.0.7"], "10.96.0.53", ["10.0.0.7"]),
        (["fd00::2", "10.0.0.7"], "fd00::53", ["fd00::2"]),
    ],
)
def test_addresses_of_the_clusters_first_family(
    world: LadderWorld, records: list[str], server: str, expected: list[str]
) -> None:
    world.dns[server] = world.dns["10.96.0.53"]
    world.dns[server].records[NAME] = records
    (world.folder / "resolv.conf").write_text(f"search svc.cluster.local\nnameserver {server}\n")
    assert hosts(world) == [expected]


def test_a_thousand_pods_come_in_one_answer(world: LadderWorld) -> None:
    pods = [f"10.0.{n >> 8}.{n & 255}" for n in range(1000)]
    world.dns["10.96.0.53"].records[NAME] = pods
    assert hosts(world) == [pods]


def test_no_such_name_is_no_answer(world: LadderWorld) -> None:
    for server in world.dns.values():
        server.records.clear()
    assert hosts(world, 60) == []
    world.dns["10.96.0.53"].records[NAME] = ["10.0.0.7"]
    assert hosts(world, ladder.DNS_SECONDS) == [["10.0.0.7"]]


@pytest.mark.parametrize(
    "trouble", ["refused", "silent", "servfail", "garbage", "other question", "other id"]
)
def test_a_server_in_trouble_is_told_and_the_next_one_asked(world: LadderWorld, trouble: str) -> None:
    server = world.dns["10.96.0.53"]
    if trouble == "refused":
        server.up = False
    elif trouble == "silent":
        server.silent = True
    elif trouble == "servfail":
        server.rcode = dns.rcode.SERVFAIL
    elif trouble == "garbage":
        server.mangle = lambda wire: b"\xff" * len(wire)
    elif trouble == "other question":
        server.mangle = lambda wire: wire.replace(b"greeter", b"sneaker")
    else:
        server.mangle = lambda wire: bytes([wire[0] ^ 1, wire[1] ^ 1]) + wire[2:]
    assert hosts(world, ladder.FALLBACK_SECONDS + client.ANSWER_SECONDS + 0.1) == []
    assert "DNS server 10.96.0.53" in str(world.source._dns.faults.last)
    assert hosts(world, ladder.DNS_SECONDS) == [["10.0.0.7", "10.0.0.8"]]
    assert world.dns_dials == ["10.96.0.53", "10.96.0.54"]
    assert all(transport.closed for transport in world.dns_transports[1:])


def test_a_resolv_conf_that_names_nobody_is_told(world: LadderWorld) -> None:
    (world.folder / "resolv.conf").write_text("search svc.cluster.local\n")
    assert hosts(world, 10) == []
    assert "names no server" in world.source._dns.faults.last
    (world.folder / "resolv.conf").unlink()
    assert hosts(world, 10) == []
    assert "No such file" in world.source._dns.faults.last


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Config((), "svc.cluster.local")),
        (
            "nameserver 10.96.0.10\nsearch shop.svc.corp.test svc.corp.test corp.test\n",
            Config(("10.96.0.10",), "svc.corp.test"),
        ),
        ("search example.test\nnameserver fd00::10\n", Config(("fd00::10",), "svc.cluster.local")),
        (
            "# nameserver 1.1.1.1\n;nameserver 1.1.1.2\nnameserver nonsense\nnameserver\n\0\nnameserver 9.9.9.9",
            Config(("9.9.9.9",), "svc.cluster.local"),
        ),
        ("nameserver 1.0.0.1\n" * 5, Config(("1.0.0.1",) * 3, "svc.cluster.local")),
        ("search svc.a.test.\n", Config((), "svc.a.test")),
    ],
)
def test_what_is_taken_from_resolv_conf(text: str, expected: Config) -> None:
    assert parse_config(text) == expected


def test_the_wire_format_costs_nothing_until_it_is_needed() -> None:
    program = "import sys, sidecar.discovery.ladder; sys.exit(any(m.startswith('dns.') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
