"""Runs as root in a fresh network namespace (see test_in_a_namespace.py) and prints what it saw as JSON.

A veth pair is the pod's eth0. Nothing answers on its far end, so a connection that is not redirected does
not get anywhere: the test sees it leave as SYN_SENT, and as accepted by the sidecar's listener otherwise.
"""

import json
import os
import socket
import struct
import subprocess
import sys

SO_ORIGINAL_DST = 80  # linux/netfilter_ipv4.h, and IP6T_SO_ORIGINAL_DST for SOL_IPV6
CAPTURE_PORT, SIDECAR_UID = 15001, 15015
ANSWER_SECONDS = 5.0  # a redirected connection takes microseconds
SILENCE_SECONDS = 0.3  # none of the others can ever be accepted: this only bounds the look


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def set_up_network() -> None:
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "far")
    for device in ("eth0", "far"):
        run("ip", "link", "set", device, "up")
    run("ip", "addr", "add", "10.250.0.2/24", "dev", "eth0")
    run("ip", "-6", "addr", "add", "fd00:250::2/64", "dev", "eth0", "nodad")
    run("ip", "route", "add", "default", "via", "10.250.0.1")
    run("ip", "-6", "route", "add", "default", "via", "fd00:250::1")


def capture() -> str:
    environment = {
        **os.environ,
        "PATH": os.environ["EVENSTREAM_TEST_PROGRAMS"],
        "KUBERNETES_SERVICE_HOST": "10.250.0.43",
        "KUBERNETES_SERVICE_PORT": "443",
    }
    command = [sys.executable, "-m", "sidecar.capture", "--exclude-outbound-ports=5432"]
    command.append("--exclude-outbound-cidrs=10.251.0.0/16,fd00:251::/32")
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stderr


def rules() -> str:
    backend = next(name for name in ("nft", "legacy") if name in REPORTS)
    both = [run(f"{family}-{backend}-save", "-t", "nat") for family in ("iptables", "ip6tables")]
    lines = [line for text in both for line in text.splitlines()]
    return "\n".join(line for line in lines if line.startswith("-A"))


class Sidecar:
    """A listener where the redirected connections arrive."""

    def __init__(self, family: socket.AddressFamily) -> None:
        self.family = family
        self.listener = socket.create_server(
            ("::1" if family == socket.AF_INET6 else "127.0.0.1", CAPTURE_PORT), family=family
        )

    def sees(self, host: str, port: int, seconds: float, uid: int = 0) -> list | None:
        """The original destination of a connection to host:port, or None if it was not redirected."""
        os.seteuid(uid)  # a socket's owner is the user who opened it
        try:
            client = socket.socket(self.family, socket.SOCK_STREAM)
        finally:
            os.seteuid(0)
        with client:
            client.setblocking(False)
            client.connect_ex((host, port))
            self.listener.settimeout(seconds)
            try:
                taken, _ = self.listener.accept()
            except TimeoutError:
                return None
            with taken:
                return original_destination(taken)


def original_destination(taken: socket.socket) -> list:
    if taken.family == socket.AF_INET6:
        raw = taken.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28)
        return [socket.inet_ntop(socket.AF_INET6, raw[8:24]), struct.unpack("!H", raw[2:4])[0]]
    raw = taken.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
    return [socket.inet_ntoa(raw[4:8]), struct.unpack("!H", raw[2:4])[0]]


def reaches_itself(host: str) -> bool:
    """Whether a connection to one of the pod's own addresses gets to the pod's own listener."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        listener.settimeout(ANSWER_SECONDS)
        with socket.create_connection(listener.getsockname()[:2], timeout=ANSWER_SECONDS):
            taken, _ = listener.accept()
            taken.close()
    return True


set_up_network()
REPORTS = capture()
first = rules()
capture()
v4, v6 = Sidecar(socket.AF_INET), Sidecar(socket.AF_INET6)
not_redirected = {
    "port": v4.sees("10.250.0.9", 5432, SILENCE_SECONDS),
    "network": v4.sees("10.251.0.9", 50051, SILENCE_SECONDS),
    "network v6": v6.sees("fd00:251::9", 50051, SILENCE_SECONDS),
    "dns": v4.sees("10.250.0.9", 53, SILENCE_SECONDS),
    "api server": v4.sees("10.250.0.43", 443, SILENCE_SECONDS),
}
json.dump(
    {
        "reports": REPORTS,
        "first run": first,
        "second run": rules(),
        "v4": v4.sees("10.250.0.9", 50051, ANSWER_SECONDS),
        "v6": v6.sees("fd00:250::9", 50051, ANSWER_SECONDS),
        "api server, other port": v4.sees("10.250.0.43", 50051, ANSWER_SECONDS),
        "not redirected": {name: seen is None for name, seen in not_redirected.items()},
        "own user": {
            "v4": v4.sees("10.250.0.9", 50051, SILENCE_SECONDS, SIDECAR_UID) is None,
            "v6": v6.sees("fd00:250::9", 50051, SILENCE_SECONDS, SIDECAR_UID) is None,
        },
        "inside the pod": {
            host: reaches_itself(host) for host in ("127.0.0.1", "10.250.0.2", "::1", "fd00:250::2")
        },
    },
    sys.stdout,
)
