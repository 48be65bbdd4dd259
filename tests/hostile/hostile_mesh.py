"""The sidecar as a process, a real backend, a well-behaved caller, and what must hold of them under attack."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
from freeports import free_port
from hostile_peers import Attacker
from rawhttp2 import POST, data, headers

ROOT = Path(__file__).parents[2]
Address = tuple[str, int]
# Not through a proxy of the machine that runs the tests.
DIRECT = (("grpc.enable_http_proxy", 0),)
GRPC_CALL = b"\0" + bytes(4)  # the prefix of an empty message
# What an attack may cost in resident memory, at its worst moment.
GROWTH_LIMIT_KIB = 5 * 1024
CALLS_PER_SECOND = 20


def request_to(method: str) -> tuple[tuple[str, str], ...]:
    return tuple((name, f"/test.Hostile/{method}" if name == ":path" else value) for name, value in POST)


ECHO = request_to("Echo")


def environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    return {**kept, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}


def until(condition: Callable[[], object], what: str, limit: float = 20.0) -> None:
    """Return when `condition()` is true; an AssertionError that names `what` after `limit` seconds."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit:g} s: {what}"
        time.sleep(0.01)


class Backend:
    """`hostile_backend.py`; constructed, it listens."""

    def __init__(self) -> None:
        command = [sys.executable, str(Path(__file__).with_name("hostile_backend.py"))]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment())
        assert self.process.stdout is not None
        self.address: Address = ("127.0.0.1", int(self.process.stdout.readline()))

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Mesh:
    """One sidecar with a listener for each Service; each Service's endpoints are given."""

    def __init__(
        self,
        directory: Path,
        services: Mapping[str, Sequence[Address]],
        wrapper: Sequence[str] = (),
        options: Sequence[str] = (),
    ) -> None:
        self._file = directory / "endpoints.json"
        self.services = {name: list(addresses) for name, addresses in services.items()}
        self._log_path = directory / "sidecar.log"
        self._write()
        self.ports = {name: free_port() for name in services}
        self.admin_port = free_port()
        command = [*wrapper, sys.executable, "-m", "sidecar", "--source", f"file:{self._file}"]
        for name, port in self.ports.items():
            command += ["--listen", f"127.0.0.1:{port}={name}.default:50051"]
        command += ["--admin", f"127.0.0.1:{self.admin_port}", *options]
        self._log = self._log_path.open("wb")
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=self._log)
        until(self._ready, "the sidecar is ready")

    def _ready(self) -> bool:
        assert self.process.poll() is None, self.log()
        with contextlib.suppress(OSError):
            return bool(self.admin("/readyz"))
        return False

    def _write(self) -> None:
        beside = self._file.with_suffix(".new")
        items = [item for name, addresses in self.services.items() for item in _objects(name, addresses)]
        beside.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
        beside.replace(self._file)

    def set_endpoints(self, service: str, *addresses: Address) -> None:
        """Returns once the sidecar knows."""
        self.services[service] = list(addresses)
        self._write()
        wanted = len(set(addresses))
        until(
            lambda: len(self.endpoints(service)) == wanted and not self._draining(service),
            f"{service} has {wanted} endpoints",
        )

    def _draining(self, service: str) -> bool:
        return any(e["state"] == "draining" for e in self.endpoints(service))

    def endpoints(self, service: str) -> list[dict[str, Any]]:
        for found in self.status()["services"]:
            if found["name"] == service:
                return list(found["endpoints"])
        return []

    def status(self) -> Any:
        return json.loads(self.admin("/status"))

    def admin(self, path: str) -> bytes:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{self.admin_port}{path}", timeout=10) as answer:
            return bytes(answer.read())

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples with these labels."""
        total = 0.0
        for line in self.admin("/metrics").decode().splitlines():
            match = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
            if (
                match
                and match[1] == name
                and all(f'{k}="{v}"' in (match[2] or "") for k, v in labels.items())
            ):
                total += float(match[3])
        return total

    def target(self, service: str) -> str:
        return f"127.0.0.1:{self.ports[service]}"

    def log(self) -> str:
        return self._log_path.read_text()

    def _status_kib(self, key: str) -> int:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        match = re.search(rf"^{key}:\s+(\d+) kB", text, re.MULTILINE)
        assert match
        return int(match[1])

    def resident_kib(self) -> int:
        return self._status_kib("VmRSS")

    def forget_peak(self) -> None:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def peak_kib(self) -> int:
        """The most that was resident since `forget_peak`."""
        return self._status_kib("VmHWM")

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def alive(self) -> bool:
        return self.process.poll() is None

    def stop(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self._log.close()


def _objects(name: str, addresses: Sequence[Address]) -> list[dict[str, Any]]:
    """A Service, and an EndpointSlice for each target port."""
    metadata = {"name": name, "namespace": "default"}
    spec = {"clusterIP": "10.255.0.1", "ports": [{"name": "grpc", "port": 50051, "targetPort": "grpc"}]}
    found: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec},
    ]
    for port in sorted({port for _, port in addresses}):
        found.append(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": f"{name}-{port}",
                    "namespace": "default",
                    "labels": {"kubernetes.io/service-name": name},
                },
                "addressType": "IPv4",
                "ports": [{"name": "grpc", "port": port}],
                "endpoints": [
                    {"addresses": [host], "conditions": {"ready": True}} for host, p in addresses if p == port
                ],
            }
        )
    return found


class Caller:
    """A well-behaved caller: unary echoes at 20 a second on one channel, whatever happens."""

    def __init__(self, target: str) -> None:
        self.failures: list[str] = []
        self.seconds: list[float] = []
        self._stopping = threading.Event()
        self._channel = grpc.insecure_channel(target, options=DIRECT)
        self._echo = self._channel.unary_unary("/test.Hostile/Echo")
        assert self._echo(b"first", timeout=20) == b"first"
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                assert self._echo(b"x" * 64, timeout=30) == b"x" * 64
            except grpc.RpcError as error:
                self.failures.append(f"{error.code()}: {error.details()}")
            self.seconds.append(time.monotonic() - started)
            due += 1 / CALLS_PER_SECOND
            self._stopping.wait(max(0.0, due - time.monotonic()))

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()
        self._channel.close()

    def goes_on(self) -> None:
        """Calls made from now on succeed too."""
        before = len(self.seconds)
        until(lambda: len(self.seconds) >= before + 3, "the caller gets answers")

    def p99_ms(self) -> float:
        return sorted(self.seconds)[int(len(self.seconds) * 0.99)] * 1000


def warm_up(port: int) -> None:
    connection = Attacker(port)
    connection.send(*[headers(s, ECHO) + data(s, GRPC_CALL, True) for s in range(1, 401, 2)])
    connection.read_until(lambda: connection.answered() == 200, "answers")
    connection.close()


class Attack:
    """What every test here holds: the caller's calls, and what the process keeps, from before to after."""

    def __init__(self, mesh: Mesh, caller: Caller, report: Callable[[str, object], None]) -> None:
        self.mesh = mesh
        self.caller = caller
        self.port = mesh.ports["good"]
        self._report = report
        # Work of every kind first, so that what grows later is the attack's.
        for _ in range(3):
            warm_up(self.port)
        caller.goes_on()
        self._base = mesh.resident_kib()
        mesh.forget_peak()

    def is_survived(self, growth_kib: int = GROWTH_LIMIT_KIB) -> None:
        """No call has failed, new ones succeed, and no more was kept at any moment than `growth_kib`."""
        self.caller.goes_on()
        assert self.mesh.alive(), self.mesh.log()[-3000:]
        assert not self.caller.failures, self.caller.failures[:3]
        growth = self.mesh.peak_kib() - self._base
        self._report("growth_kib", growth)
        self._report("caller_p99_ms", round(self.caller.p99_ms(), 1))
        assert growth < growth_kib, f"{growth} KiB more are resident"
