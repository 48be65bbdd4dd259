"""How each proxy is configured, started and found ready."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import string
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench import cases, install
from bench.procs import Group, Process, ProcessFailedError

CONFIGS: Final = Path(__file__).resolve().parent / "configs"
READY_SECONDS: Final = 20.0
SLOWED: Final = 10.0  # times that, for one that starts under a tool such as valgrind
POLL_SECONDS: Final = 0.001
# Kubernetes writes at most 100 endpoints into a slice (--max-endpoints-per-slice).
SLICE_ENDPOINTS: Final = 100
SERVICE: Final = "bench.default:50051"

Address = tuple[str, int]


class Proxy(NamedTuple):
    """A running proxy."""

    process: Process
    target: str  # where clients call, HOST:PORT
    start_seconds: float  # from process start to ready
    admin: int  # ours: the admin port, else 0
    source: Path | None  # ours: the file source


class Launch(NamedTuple):
    """How to start a proxy that will listen on `port` of 127.0.0.1."""

    argv: list[str]
    env: dict[str, str]
    port: int
    admin: int = 0
    source: Path | None = None


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def render_haproxy(mode: str, port: int, backends: Sequence[Address]) -> str:
    """HAProxy's configuration; `mode` is tcp or h2."""
    suffix = " proto h2" if mode == "h2" else ""
    lines = [f"    server s{i} {host}:{number}{suffix}" for i, (host, number) in enumerate(backends)]
    return _fill(f"haproxy-{mode}.cfg.tmpl", port, lines)


def render_envoy(port: int, backends: Sequence[Address]) -> str:
    address = (
        "              - endpoint: {{ address: {{ socket_address: {{ address: {}, port_value: {} }} }} }}"
    )
    lines = [address.format(host, number) for host, number in backends]
    return _fill("envoy.yaml.tmpl", port, lines)


def _fill(template: str, port: int, endpoints: list[str]) -> str:
    text = (CONFIGS / template).read_text()
    return string.Template(text).substitute(port=port, endpoints="\n".join(endpoints))


def render_slices(backends: Sequence[Address]) -> str:
    """Service and EndpointSlices as `kubectl get svc,endpointslices -o json` prints them.

    All backends share one port, as the pods of a Service do.
    """
    port = backends[0][1]
    assert all(number == port for _, number in backends)
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "bench", "namespace": "default"},
        "spec": {
            "clusterIP": "10.96.0.50",
            "clusterIPs": ["10.96.0.50"],
            "type": "ClusterIP",
            "ports": [{"name": "grpc", "port": 50051, "protocol": "TCP", "targetPort": port}],
        },
    }
    items: list[dict[str, Any]] = [service]
    for start in range(0, len(backends), SLICE_ENDPOINTS):
        items.append(_slice(f"bench-{start}", backends[start : start + SLICE_ENDPOINTS], port))
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


def _slice(name: str, backends: Sequence[Address], port: int) -> dict[str, Any]:
    ready = {"ready": True, "serving": True, "terminating": False}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "bench"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "grpc", "port": port, "protocol": "TCP"}],
        "endpoints": [
            {
                "addresses": [host],
                "conditions": ready,
                "targetRef": {"kind": "Pod", "name": f"{name}-{i}", "namespace": "default"},
            }
            for i, (host, _) in enumerate(backends)
        ],
    }


def write_atomically(path: Path, text: str) -> None:
    """Replace the file as kubelet and kubectl users do: written beside, then renamed over."""
    beside = path.with_suffix(".new")
    beside.write_text(text)
    beside.replace(path)


def _haproxy(mode: str) -> Callable[[Path, Sequence[Address]], Launch]:
    def launch(work: Path, backends: Sequence[Address]) -> Launch:
        program = install.haproxy()
        port = free_port()
        config = work / "haproxy.cfg"
        config.write_text(render_haproxy(mode, port, backends))
        return Launch([program.path, "-q", "-f", str(config)], program.environment, port)

    return launch


def _envoy(work: Path, backends: Sequence[Address]) -> Launch:
    program = install.envoy()
    port = free_port()
    config = work / "envoy.yaml"
    config.write_text(render_envoy(port, backends))
    argv = [program.path, "-c", str(config), "--concurrency", "1", "--log-level", "error"]
    return Launch([*argv, "--disable-hot-restart"], program.environment, port)


def _ours(build: str) -> Callable[[Path, Sequence[Address]], Launch]:
    def launch(work: Path, backends: Sequence[Address]) -> Launch:
        source = work / "endpoints.json"
        write_atomically(source, render_slices(backends))
        port, admin = free_port(), free_port()
        argv = [sys.executable, "-m", "sidecar", "--source", f"file:{source}"]
        argv += ["--listen", f"127.0.0.1:{port}={SERVICE}", "--admin", f"127.0.0.1:{admin}"]
        return Launch(argv, {"EVENSTREAM_BUILD": build}, port, admin, source)

    return launch


LAUNCHES: Final[dict[str, Callable[[Path, Sequence[Address]], Launch]]] = {
    cases.HAPROXY_TCP: _haproxy("tcp"),
    cases.HAPROXY: _haproxy("h2"),
    cases.ENVOY: _envoy,
    cases.OURS: _ours("compiled"),
    cases.INTERPRETED: _ours("interpreted"),
}


def admin_get(port: int, path: str) -> tuple[int, bytes]:
    """Raises OSError or http.client.HTTPException when nothing answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _is_ready(launch: Launch) -> bool:
    with contextlib.suppress(OSError, http.client.HTTPException):
        if launch.admin:
            return admin_get(launch.admin, "/readyz")[0] == 200
        with socket.create_connection(("127.0.0.1", launch.port), timeout=1):
            return True
    return False


def start(
    group: Group, peer: str, core: int, work: Path, backends: Sequence[Address], prefix: Sequence[str] = ()
) -> Proxy:
    """Start a peer and wait until it is ready (ours: /readyz; others: the port accepts).

    `prefix` is put before its command (valgrind). Raises install.MissingError and ProcessFailedError.
    """
    launch = LAUNCHES[peer](work, backends)
    began = time.monotonic()
    limit = READY_SECONDS * (SLOWED if prefix else 1.0)
    process = group.start([*prefix, *launch.argv], core, work / f"{peer}.log", launch.env)
    while not _is_ready(launch):
        if not process.running():
            raise process.failed("ended at its start")
        if time.monotonic() - began > limit:
            raise process.failed(f"was not ready within {limit:.0f} s")
        time.sleep(POLL_SECONDS)
    took = time.monotonic() - began
    if peer in cases.OWN:
        _check_build(launch)
    return Proxy(process, f"127.0.0.1:{launch.port}", took, launch.admin, launch.source)


def _check_build(launch: Launch) -> None:
    """Figures of the wrong build would be worse than none."""
    status = json.loads(admin_get(launch.admin, "/status")[1])
    wanted, runs = launch.env["EVENSTREAM_BUILD"], status["build"]["build"]
    if wanted != runs:
        raise ProcessFailedError(f"it runs the {runs} build, not the {wanted} one (make build)")
