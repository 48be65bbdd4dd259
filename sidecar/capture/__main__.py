"""`python -m sidecar.capture`: put the redirect rules in force in this network namespace, then end.

Exit codes: 0 the rules are in force (or were printed, with --dry-run); 1 they could not be put in force;
2 a flag or its value is wrong. Every error is one line on standard error.
"""

from __future__ import annotations

import ipaddress
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from contract import names, values
from contract.arguments import OneLineParser, argument_type
from sidecar.capture.rules import CHAIN, JUMP, Family, Rules, restore_input

# nft first: it needs NET_ADMIN alone and is what current kernels have. legacy also asks for NET_RAW, so it
# works only where a cluster grants that; the plain name is what a distribution without the two links has.
BACKENDS: Final = ("-nft", "-legacy", "")
PROGRAM: Final[Mapping[Family, str]] = {4: "iptables", 6: "ip6tables"}
# How long to wait for another program that holds the legacy lock, and for the program itself.
LOCK_WAIT_SECONDS: Final = 5
RUN_TIMEOUT_SECONDS: Final = 15
# legacy insists on a lock file, and the container's root is read-only. /dev/shm is the pod's own memory.
LOCK_FILE: Final = "/dev/shm/evenstream-xtables.lock"  # noqa: S108 - named once, opened by iptables itself
# Linux lists the namespace's IPv6 addresses here: address, index, prefix length, scope, flags, device.
IPV6_ADDRESSES: Final = Path("/proc/net/if_inet6")
_SCOPE_GLOBAL: Final = "00"

EXIT_FAILED: Final = 1


class CaptureError(Exception):
    """The rules could not be put in force; the text is one line that says which program said what."""


def _uid(text: str) -> int:
    # The kernel's uid_t is 32 bits, and its last value means "none".
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) < 2**32 - 1):
        raise values.BadValueError("allowed: a user id from 0 to 4294967294")
    return int(text)


def parse_arguments(arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[Rules, bool, str]:
    """(rules, dry run, note for people or ""). The API server comes from the environment that the kubelet
    gives every container; a host name there (some clouds) cannot be a rule and is left to pass through."""
    parser = OneLineParser(prog="python -m sidecar.capture", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--to-port", type=argument_type(values.port), default=names.CAPTURE_PORT, help="the sidecar's port")
    add("--exempt-uid", type=argument_type(_uid), default=names.SIDECAR_UID, help="the sidecar's user id")
    add("--exclude-outbound-ports", type=argument_type(values.ports), default=(), help="PORT[,PORT...]")
    add("--exclude-outbound-cidrs", type=argument_type(values.cidrs), default=(), help="CIDR[,CIDR...]")
    add("--dry-run", action="store_true", help="print the rules, change nothing")
    given = parser.parse_args(arguments)
    api_server, note = None, ""
    host, port = (
        environment.get("KUBERNETES_SERVICE_HOST", ""),
        environment.get("KUBERNETES_SERVICE_PORT", "443"),
    )
    if host:
        try:
            api_server = (str(ipaddress.ip_address(host)), values.port(port))
        except ValueError:
            note = f"API server {host}:{port} is no IP address and port: not exempt, passes through"
    rules = Rules(
        to_port=given.to_port,
        exempt_uid=given.exempt_uid,
        excluded_ports=given.exclude_outbound_ports,
        excluded_networks=given.exclude_outbound_cidrs,
        api_server=api_server,
    )
    return rules, given.dry_run, note


def _run(command: Sequence[str], text: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "XTABLES_LOCKFILE": os.environ.get("XTABLES_LOCKFILE", LOCK_FILE)}
    return subprocess.run(
        command,
        input=text,
        env=environment,
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_SECONDS,
        check=False,
    )


def apply(rules: Rules, family: Family) -> str:
    """Put one family's rules in force with the first backend that works; its name is returned.

    Raises CaptureError naming each program that was tried and what it said.
    """
    tried: list[str] = []
    for backend in BACKENDS:
        program = PROGRAM[family] + backend
        try:
            check = _run([program, "--wait", str(LOCK_WAIT_SECONDS), "-t", "nat", "-C", *JUMP])
            text = restore_input(rules, family, jump_present=check.returncode == 0)
            done = _run([f"{program}-restore", "--noflush", "--wait", str(LOCK_WAIT_SECONDS)], text)
        except FileNotFoundError:
            tried.append(f"{program}: not installed")
            continue
        except subprocess.TimeoutExpired:
            tried.append(f"{program}: no answer in {RUN_TIMEOUT_SECONDS} s")
            continue
        if done.returncode == 0:
            return program
        said = " ".join((done.stderr or done.stdout).split()) or "no message"
        tried.append(f"{program}-restore: {said}")
    raise CaptureError("; ".join(tried))


def has_global_ipv6(listing: str) -> bool:
    """Whether the text of /proc/net/if_inet6 has an address that could reach another pod."""
    rows = (line.split() for line in listing.splitlines())
    return any(len(row) == 6 and row[3] == _SCOPE_GLOBAL for row in rows)


def apply_all(rules: Rules, report: Callable[[str], None]) -> None:
    """IPv4 always; IPv6 must succeed only where the pod has an address that connections could leave from."""
    done = f"outbound TCP goes to port {rules.to_port}, chain {CHAIN}, by"
    report(f"IPv4: {done} {apply(rules, 4)}")
    if not IPV6_ADDRESSES.exists():
        report("IPv6: not in this kernel, no rules needed")
        return
    try:
        report(f"IPv6: {done} {apply(rules, 6)}")
    except CaptureError as error:
        if has_global_ipv6(IPV6_ADDRESSES.read_text()):
            raise
        report(f"IPv6: no rules, and the pod has no address that would need them ({error})")


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    rules, dry_run, note = parse_arguments(arguments, environment)

    def report(line: str) -> None:
        print(f"evenstream capture: {line}", file=sys.stderr, flush=True)

    if note:
        report(note)
    if dry_run:
        both: tuple[Family, ...] = (4, 6)
        for family in both:
            sys.stdout.write(f"# {PROGRAM[family]}-restore --noflush\n")
            sys.stdout.write(restore_input(rules, family, jump_present=False))
        return 0
    try:
        apply_all(rules, report)
    except CaptureError as error:
        report(f"error: {error}; this container needs the NET_ADMIN capability and user 0")
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
