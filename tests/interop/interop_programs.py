"""Real programs on free loopback ports: started, waited for, watched and stopped."""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

HOST: Final = "127.0.0.1"
SERVICE: Final = "interop"
NAMESPACE: Final = "default"
SERVICE_PORT: Final = 50051
ENDPOINTS: Final = 2
# A JVM on a busy machine takes seconds to listen.
START_TIMEOUT: Final = 40.0
STOP_TIMEOUT: Final = 10.0
POLL_INTERVAL: Final = 0.02
# Another program may take a port between the choice and its use; then the next is tried.
START_TRIES: Final = 3
# Below the range that Linux gives to outgoing connections, above the ports people choose.
PORTS: Final = (20000, 32000)
REPOSITORY: Final = Path(__file__).parents[2]


class Command(NamedTuple):
    """How a program is started: its arguments and what its environment has beyond ours."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = {}


class NotReadyError(Exception):
    """A program did not come up; the message holds its log."""


def free_port() -> int:
    """A port on which nothing listens now."""
    for _ in range(100):
        port = random.randrange(*PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port
    raise NotReadyError(f"no free port found in {PORTS}")


def wait_until(what: str, condition: Callable[[], bool], alive: Callable[[], bool]) -> None:
    """Waits for `condition`. Raises NotReadyError when `alive` ends first or START_TIMEOUT passes."""
    deadline = time.monotonic() + START_TIMEOUT
    while not condition():
        if not alive():
            raise NotReadyError(f"{what}: the program ended")
        if time.monotonic() > deadline:
            raise NotReadyError(f"{what}: not within {START_TIMEOUT} s")
        time.sleep(POLL_INTERVAL)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0


def environment(command: Command) -> dict[str, str]:
    """Ours, less what would send the program's calls through a web proxy, and the command's own."""
    proxies = ("http_proxy", "https_proxy", "grpc_proxy")
    return {**{name: text for name, text in os.environ.items() if name.lower() not in proxies}, **command.env}


class Program:
    """A running program whose output goes to a file."""

    def __init__(self, name: str, command: Command, log: Path) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command.argv,
                env=environment(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=REPOSITORY,
            )

    def alive(self) -> bool:
        return self._process.poll() is None

    def log_size(self) -> int:
        return self.log.stat().st_size

    def log_since(self, offset: int) -> str:
        with self.log.open("rb") as file:
            file.seek(offset)
            return file.read().decode(errors="replace")

    def stop(self) -> int:
        """Asks it to end and waits. The exit code; a program that does not end is killed."""
        if self.alive():
            self._process.terminate()
        try:
            return self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def start_listening(name: str, command: Callable[[int], Command], log: Path) -> tuple[Program, int]:
    """Starts a program that listens on the port it is given. The program and its port."""
    for remaining in reversed(range(START_TRIES)):
        port = free_port()
        program = Program(name, command(port), log)
        try:
            wait_until(f"{name} listening on {port}", functools.partial(listens, port), program.alive)
        except NotReadyError as error:
            program.stop()
            if remaining == 0:
                raise NotReadyError(f"{error}\n{program.log_since(0)}") from None
            continue
        return program, port
    raise AssertionError("unreachable")


def objects(ports: Sequence[int]) -> dict[str, Any]:
    """What `kubectl get svc,endpointslices -o json` prints of a Service with endpoints on these ports."""
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": SERVICE, "namespace": NAMESPACE},
        "spec": {
            "clusterIP": "10.96.0.50",
            "clusterIPs": ["10.96.0.50"],
            "ipFamilies": ["IPv4"],
            "ports": [{"name": "grpc", "port": SERVICE_PORT, "protocol": "TCP"}],
        },
    }
    # A slice has one number per port name, so servers on one address need a slice each.
    slices = [
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"{SERVICE}-{index}",
                "namespace": NAMESPACE,
                "labels": {"kubernetes.io/service-name": SERVICE},
            },
            "addressType": "IPv4",
            "ports": [{"name": "grpc", "port": port, "protocol": "TCP"}],
            "endpoints": [
                {
                    "addresses": [HOST],
                    "conditions": {"ready": True},
                    "targetRef": {"kind": "Pod", "name": f"{SERVICE}-{index}", "namespace": NAMESPACE},
                }
            ],
        }
        for index, port in enumerate(ports)
    ]
    return {"apiVersion": "v1", "kind": "List", "items": [service, *slices]}


def admin_get(port: int, path: str) -> tuple[int, bytes]:
    """GET from the admin port: status and body; (0, b"") if it does not answer yet."""
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


class Sidecar(NamedTuple):
    program: Program
    port: int  # dial this instead of a server
    admin: int

    def streams_per_endpoint(self) -> dict[str, int]:
        _, body = admin_get(self.admin, "/status")
        services = json.loads(body)["services"]
        return {e["address"]: e["streams_total"] for s in services for e in s["endpoints"]}


@contextlib.contextmanager
def sidecar(ports: Sequence[int], folder: Path) -> Iterator[Sidecar]:
    """The sidecar in front of the servers on these ports; it must end cleanly."""
    source = folder / "objects.json"
    source.write_text(json.dumps(objects(ports)))
    admin = free_port()

    def command(port: int) -> Command:
        listen = f"{HOST}:{port}={SERVICE}.{NAMESPACE}:{SERVICE_PORT}"
        flags = ("--source", f"file:{source}", "--listen", listen, "--admin", f"{HOST}:{admin}")
        return Command((sys.executable, "-m", "sidecar", *flags))

    program, port = start_listening("sidecar", command, folder / "sidecar.log")
    try:
        wait_until("sidecar's /readyz", lambda: admin_get(admin, "/readyz")[0] == 200, program.alive)
        yield Sidecar(program, port, admin)
    finally:
        code = program.stop()
    if code != 0:
        raise NotReadyError(f"the sidecar exited {code} on SIGTERM:\n{program.log_since(0)}")
