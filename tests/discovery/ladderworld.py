"""The API server in memory, a DNS server beside it, a state volume and a wall clock: what the ladder stands on."""

from __future__ import annotations

import random
import ssl
from collections.abc import Callable
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
from fakeapi import Transport, World

from sidecar.balance.endpoints import ServicePort, Snapshot
from sidecar.discovery.dns import Dns
from sidecar.discovery.ladder import Ladder
from sidecar.discovery.saved import StateFile
from sidecar.discovery.source import Handler, Resolution, Source, Standing

RESOLV_CONF = """# as the kubelet writes it
search default.svc.cluster.local svc.cluster.local cluster.local example.test
nameserver 10.96.0.53
nameserver 10.96.0.54
options ndots:5
"""


class FakeDns:
    """One DNS server over TCP. `records`: a name without its last dot -> addresses."""

    def __init__(self, world: LadderWorld) -> None:
        self.world = world
        self.records: dict[str, list[str]] = {}
        self.asked: list[tuple[str, str]] = []  # name, type
        self.up = True
        self.silent = False
        self.rcode = dns.rcode.NOERROR
        self.mangle: Callable[[bytes], bytes] = lambda wire: wire

    def answer(self, wire: bytes) -> bytes:
        query = dns.message.from_wire(wire)
        (question,) = query.question
        name, kind = question.name.to_text().rstrip("."), dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, kind))
        reply = dns.message.make_response(query)
        reply.flags |= dns.flags.AA
        known = self.records.get(name)
        reply.set_rcode(self.rcode if known is not None or self.rcode else dns.rcode.NXDOMAIN)
        texts = [a for a in known or [] if (":" in a) == (kind == "AAAA")]
        if texts and not self.rcode:
            reply.answer.append(dns.rrset.from_text(question.name, 5, "IN", kind, *texts))
        data = self.mangle(reply.to_wire())
        return len(data).to_bytes(2, "big") + data


class DnsTransport:
    def __init__(self, server: FakeDns, handler: Handler) -> None:
        self.server, self.handler = server, handler
        self.closed = False
        self._data = b""

    def write(self, data: bytes) -> None:
        assert not self.closed, "written after close"
        self._data += data
        while len(self._data) >= 2 and len(self._data) >= 2 + int.from_bytes(self._data[:2], "big"):
            end = 2 + int.from_bytes(self._data[:2], "big")
            message, self._data = self._data[2:end], self._data[end:]
            if not self.server.silent:
                self._send(self.server.answer(message))

    def _send(self, data: bytes) -> None:
        size = self.server.world.piece or len(data)
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            self.server.world.later(lambda piece=piece: self._arrive(piece))  # type: ignore[misc]

    def _arrive(self, data: bytes) -> None:
        if not self.closed:
            self.handler.received(data, self.server.world.now)

    def close(self) -> None:
        assert not self.closed, "closed twice"
        self.closed = True


class LadderWorld(World):
    """`source` is a Ladder, which `restart` replaces as a new process would."""

    source: Ladder  # type: ignore[assignment]

    def __init__(self, folder: Path, *, seed: int = 1, piece: int = 0, state: bool = True) -> None:
        super().__init__(folder / "token", seed=seed, piece=piece)
        self.folder = folder
        self.wall_ahead = 1.7e9  # of the monotonic clock; jumps are a test's to make
        self.dns = {host: FakeDns(self) for host in ("10.96.0.53", "10.96.0.54")}
        self.dns_dials: list[str] = []
        self.dns_transports: list[DnsTransport] = []
        (folder / "resolv.conf").write_text(RESOLV_CONF)
        self.state = StateFile(str(folder)) if state else None
        self._live: Source = self.source  # the one World made
        self._rng = random.Random(seed)
        self.source = self._ladder(self._live)

    def _ladder(self, live: Source) -> Ladder:
        dns_client = Dns(self.dial, self._rng, str(self.folder / "resolv.conf"))
        return Ladder(live, dns_client, self.state, now=self.now, wall=lambda: self.now + self.wall_ahead)

    def restart(self, *, killed: bool = False) -> None:
        """Another process takes this one's place."""
        if killed:
            for transport in self.transports:
                transport.closed = True
            self.server.connections.clear()
            self.server.watches.clear()
        else:
            self.source.close(self.now)
        self._queue.clear()
        self.events.clear()
        self.source = self._ladder(self.make_live())

    def dial(
        self, host: str, port: int, handler: Handler, tls: ssl.SSLContext | None, server_name: str
    ) -> Transport:
        if port != 53:
            return super().dial(host, port, handler, tls, server_name)
        self.dns_dials.append(host)
        transport = DnsTransport(self.dns[host], handler)
        self.dns_transports.append(transport)
        if self.dns[host].up:
            self.later(lambda: handler.connected(self.now))
        else:
            self.later(lambda: handler.lost("refused the connection", self.now))
        return transport  # type: ignore[return-value]

    def settle(self) -> list[Snapshot | Resolution]:
        """As the sidecar's loop: after each turn `tick` if it is due, then the events."""
        found = super().settle()
        for _ in range(1000):
            if self.source.deadline() > self.now:
                return found
            self.source.tick(self.now)
            found += super().settle()
        raise AssertionError("the source never comes to rest")

    def resolves(self, host: str, port: int, within: float = 0.6) -> Resolution:
        """The one answer to the question."""
        found = [e for e in self.resolve(host, port) + self.advance(within) if isinstance(e, Resolution)]
        assert len(found) == 1, found
        return found[0]

    def standing(self, service: ServicePort) -> Standing:
        return self.source.standing(service, self.now)

    def rung(self, service: ServicePort) -> str:
        return self.standing(service).rung
