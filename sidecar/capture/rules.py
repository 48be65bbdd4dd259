"""Settings in, `iptables-restore` input out. Pure: nothing here runs a program or reads the machine.

One text per address family, each one transaction: either all its rules are in force or none. It is safe
to apply twice: the rules live in a chain of their own, which `iptables-restore --noflush` empties when
it reads the chain's declaration, and the caller says whether the jump to it is there already.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from typing import Final, Literal, NamedTuple

from contract import names

CHAIN: Final = "EVENSTREAM_OUTPUT"
# Only TCP leaves the built-in chain: DNS over UDP, QUIC and all else are never touched.
JUMP: Final = ("OUTPUT", "-p", "tcp", "-j", CHAIN)
# Resolvers fall back to TCP for large answers. It is never gRPC, and a pod without DNS can do nothing.
DNS_PORT: Final = 53
# Traffic to these never leaves the pod. `-o lo` covers the pod's own addresses as well; the networks are
# named too because a policy route could send them elsewhere.
LOOPBACK: Final = {4: "127.0.0.0/8", 6: "::1/128"}

Family = Literal[4, 6]


class Rules(NamedTuple):
    """What is redirected, and what is not."""

    to_port: int = names.CAPTURE_PORT
    exempt_uid: int = names.SIDECAR_UID
    excluded_ports: Sequence[int] = ()
    excluded_networks: Sequence[str] = ()  # CIDRs of either family; each goes into its own family's rules
    api_server: tuple[str, int] | None = None  # (IP address, port): the API server's Service


def restore_input(rules: Rules, family: Family, *, jump_present: bool) -> str:
    """The nat table's text for `iptables-restore --noflush` (family 4) or `ip6tables-restore` (6).

    `jump_present`: whether OUTPUT jumps to the chain already (a former run). Raises ValueError for a
    network or address that is none.
    """
    lines = ["*nat", f":{CHAIN} - [0:0]"]
    lines += [f"-A {CHAIN} {rule}" for rule in _chain(rules, family)]
    if not jump_present:
        lines.append(f"-A {' '.join(JUMP)}")
    lines.append("COMMIT")
    return "\n".join(lines) + "\n"


def _chain(rules: Rules, family: Family) -> Iterator[str]:
    yield "-o lo -j RETURN"
    yield f"-d {LOOPBACK[family]} -j RETURN"
    # The sidecar's own connections: redirecting them would send them back to itself for ever.
    yield f"-m owner --uid-owner {rules.exempt_uid} -j RETURN"
    yield f"-p tcp --dport {DNS_PORT} -j RETURN"
    if rules.api_server is not None:
        host, port = rules.api_server
        address = ipaddress.ip_address(host)
        if address.version == family:
            yield f"-d {address}/{address.max_prefixlen} -p tcp --dport {port} -j RETURN"
    for port in rules.excluded_ports:
        yield f"-p tcp --dport {port} -j RETURN"
    for text in rules.excluded_networks:
        network = ipaddress.ip_network(text)
        if network.version == family:
            yield f"-d {network} -j RETURN"
    yield f"-p tcp -j REDIRECT --to-ports {rules.to_port}"
