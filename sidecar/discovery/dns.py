"""A Service's addresses by its name, for when nobody else can tell. Sans-IO, over TCP.

For a headless Service these are its pods', for any other its cluster IP: in both cases what the application
would connect to without us, at the Service's own port. The wire format is dnspython's, imported at the first
question: it costs 6 MB, and most sidecars never ask. Why TCP: docs/adr/0005.
"""

from __future__ import annotations

import math
import random as random_module
import socket
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sidecar.discovery.catalog import FaultLog
from sidecar.discovery.source import Dial, Transport

if TYPE_CHECKING:
    import dns.message

RESOLV_CONF: Final = "/etc/resolv.conf"
DNS_PORT: Final = 53
# For a whole round: connecting, asking, all answers. The cluster's DNS is a millisecond away.
ANSWER_SECONDS: Final = 2.0
# Names asked for in one round; the rest wait for the next.
MAX_NAMES: Final = 64
# The C library takes three (resolv.conf(5)).
MAX_SERVERS: Final = 3
MAX_RESOLV_CONF: Final = 64 * 1024
# Addresses of one name; 65,535 octets of an answer hold 4,000.
MAX_ADDRESSES: Final = 4096
# Where Pods look for Services if resolv.conf does not say: kubeadm's and most distributions' default.
DEFAULT_ZONE: Final = "svc.cluster.local"


class Name(NamedTuple):
    """A Service to be looked up."""

    namespace: str
    name: str


class Answer(NamedTuple):
    """The addresses of a Service: one or more, of one family, ordered."""

    name: Name
    addresses: tuple[str, ...]


class Config(NamedTuple):
    """What is needed of resolv.conf."""

    servers: tuple[str, ...]
    zone: str  # without the final dot: svc.cluster.local


def parse_config(text: str) -> Config:
    """Lines that say nothing usable are passed over, as the C library does."""
    servers: list[str] = []
    zone = DEFAULT_ZONE
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0].startswith(("#", ";")):
            continue
        if words[0] == "nameserver" and len(servers) < MAX_SERVERS and _is_ip(words[1]):
            servers.append(words[1])
        elif words[0] in ("search", "domain"):
            zones = [word.rstrip(".") for word in words[1:] if word.startswith("svc.")]
            zone = zones[0] if zones else zone
    return Config(tuple(servers), zone)


def _is_ip(text: str) -> bool:
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        socket.inet_pton(family, text)
    except (OSError, ValueError):
        return False
    return True


class Dns:
    """Asks round by round. Call `ask`, then `take` what came; `tick` no later than `deadline`."""

    def __init__(self, dial: Dial, random: random_module.Random, path: str = RESOLV_CONF) -> None:
        self._dial = dial
        self._random = random
        self._path = path
        self._round: _Round | None = None
        self._server = 0  # which one is asked
        self._answers: list[Answer] = []
        self._news = False  # a round has ended that `take` has not been told of
        self.faults = FaultLog()
        self.asked = 0  # names, ever

    def busy(self) -> bool:
        return self._round is not None

    def ask(self, names: Iterable[Name], now: float) -> None:
        """Look these up. Names without an address, or without an answer, come back in no Answer."""
        if self._round is not None:
            return
        wanted = list(names)[:MAX_NAMES]
        try:
            config = self._config()
        except OSError as error:
            self.faults.report(f"DNS: {self._path}: {error.strerror or error}")
            return
        if not config.servers:
            self.faults.report(f"DNS: {self._path} names no server")
            return
        self.asked += len(wanted)
        server = config.servers[self._server % len(config.servers)]
        self._round = _Round(self, server, config.zone, wanted, self._random, now)
        self._round.start(self._dial)

    def _config(self) -> Config:
        with open(self._path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - memory
            return parse_config(file.read(MAX_RESOLV_CONF))

    def take(self) -> Sequence[Answer]:
        answers, self._answers, self._news = self._answers, [], False
        return answers

    def tick(self, now: float) -> None:
        if self._round is not None and now >= self._round.answer_by:
            self._round.give_up(f"no answer within {ANSWER_SECONDS:g} s")

    def deadline(self) -> float:
        if self._news:
            return -math.inf
        return self._round.answer_by if self._round is not None else math.inf

    def close(self) -> None:
        if self._round is not None:
            self._round.close()
            self._round = None

    # From the round

    def over(self, answers: Iterable[Answer], fault: str) -> None:
        self._round = None
        self._answers += answers
        self._news = True
        if fault:
            self._server += 1  # the next round asks the next server
            self.faults.report(fault)
        else:
            self.faults.clear()


class _Round:
    """One connection to one server, all questions at once (RFC 7766 section 6.2.1.1). A Handler."""

    def __init__(
        self,
        owner: Dns,
        server: str,
        zone: str,
        names: list[Name],
        random: random_module.Random,
        now: float,
    ) -> None:
        import dns.message
        import dns.rdatatype

        self.answer_by = now + ANSWER_SECONDS
        self._owner = owner
        self._server = server
        self._transport: Transport | None = None
        self._over = False
        self._data = b""
        self._found: dict[Name, dict[str, tuple[str, ...]]] = {name: {} for name in names}
        self._refusals: set[str] = set()
        self._open: dict[int, tuple[Name, dns.message.Message]] = {}
        for name in names:
            for kind in (dns.rdatatype.A, dns.rdatatype.AAAA):
                number = random.randrange(1 << 16)
                while number in self._open:
                    number = random.randrange(1 << 16)
                query = dns.message.make_query(f"{name.name}.{name.namespace}.{zone}.", kind, id=number)
                self._open[number] = (name, query)

    def start(self, dial: Dial) -> None:
        queries = b""
        for _, query in self._open.values():
            wire = query.to_wire()
            queries += len(wire).to_bytes(2, "big") + wire  # RFC 7766 section 8
        transport = dial(self._server, DNS_PORT, self, None, "")
        if self._over:  # it was refused within the call
            transport.close()
            return
        self._transport = transport
        transport.write(queries)

    # What the transport says

    def connected(self, now: float) -> None:
        pass

    def received(self, data: bytes, now: float) -> None:
        if self._over:
            return
        self._data += data
        while len(self._data) >= 2 and not self._over:
            end = 2 + int.from_bytes(self._data[:2], "big")
            if len(self._data) < end:
                return
            message, self._data = self._data[2:end], self._data[end:]
            self._message(message)

    def lost(self, reason: str, now: float) -> None:
        self._transport = None
        self.give_up(reason)

    def _message(self, wire: bytes) -> None:
        import dns.exception
        import dns.message
        import dns.rcode

        try:
            message = dns.message.from_wire(wire)
        except (dns.exception.DNSException, ValueError) as error:
            self.give_up(f"a message that is no DNS: {type(error).__name__}")
            return
        name, query = self._open.get(message.id, (None, None))
        if name is None or query is None or not query.is_response(message):
            return
        del self._open[message.id]
        rcode = message.rcode()
        if rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            self._refusals.add(dns.rcode.to_text(rcode))
        self._take(name, message)
        if not self._open:
            self._end(f"answered {', '.join(sorted(self._refusals))}" if self._refusals else "")

    def _take(self, name: Name, message: Any) -> None:
        """All addresses of the answer: an alias comes with what it stands for."""
        import dns.rdatatype

        kind = message.question[0].rdtype
        texts = [rdata.address for rrset in message.answer if rrset.rdtype == kind for rdata in rrset]
        if texts:
            family = socket.AF_INET if kind == dns.rdatatype.A else socket.AF_INET6
            packed = sorted({socket.inet_pton(family, text) for text in texts})[:MAX_ADDRESSES]
            self._found[name]["6" if family == socket.AF_INET6 else "4"] = tuple(
                socket.inet_ntop(family, one) for one in packed
            )

    def give_up(self, reason: str) -> None:
        if not self._over:
            self._end(reason)

    def _end(self, fault: str) -> None:
        self.close()
        # The cluster's first family is the one its DNS has its address in.
        families = ("6", "4") if ":" in self._server else ("4", "6")
        answers = [
            Answer(name, found[family])
            for name, found in self._found.items()
            if (family := next((f for f in families if f in found), ""))
        ]
        self._owner.over(answers, f"DNS server {self._server}: {fault}" if fault else "")

    def close(self) -> None:
        self._over = True
        if self._transport is not None:
            self._transport.close()
            self._transport = None
