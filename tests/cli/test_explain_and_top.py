"""`explain` and `top` against an API server in memory, whose port-forward leads to real admin ports."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import pytest
from admin_browser import Loop
from admin_fakes import FakeView, call, change, service
from cli_cluster import FakeCluster, Listener
from cli_run import Done, inside
from net_scene import EndpointsFile, SidecarProcess

from contract.names import ADMIN_PORT
from injector.cli.clients import Clients
from injector.cli.top import _live
from injector.cli.traffic import Look
from sidecar.admin.server import AdminServer

pytestmark = pytest.mark.once

FAST = ("--for", "0.3", "--interval", "0.1")


class Calling(FakeView):
    """An engine that makes `weights` calls each time it is looked at, on top of those before."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[int] = []

    def status(self, now: float) -> Any:
        for index, times in enumerate(self.weights):
            call(self.services[0], index, times=times)
        return super().status(now)


class World:
    """A cluster with client pods, each with an admin port."""

    def __init__(self, cluster: FakeCluster, stack: ExitStack) -> None:
        self.cluster = cluster
        self._stack = stack

    def client(self, name: str, namespace: str = "shop") -> Calling:
        view = Calling()
        loop = Loop(AdminServer(view, on_drain=None), lambda: None)
        self._stack.callback(loop.stop)
        self.cluster.pod(name, namespace, inject="enabled")
        port = int(loop.url.rpartition(":")[2])
        self.cluster.serve(namespace, name, ADMIN_PORT, ("127.0.0.1", port))
        return view

    def run(self, *arguments: str) -> Done:
        return inside(*arguments, KUBECONFIG=str(self.cluster.kubeconfig))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with FakeCluster(tmp_path) as cluster, ExitStack() as stack:
        cluster.put("/api/v1/namespaces/shop", {})
        yield World(cluster, stack)


# explain


def test_explain_shows_services_endpoints_and_what_is_passed_through(world: World):
    view = world.client("web")
    greeter = service("greeter", 3)
    view.services.append(greeter)
    call(greeter, 0, times=1000)
    change(
        greeter["endpoints"][2], state="backoff", connect_failures_total=4, last_error="connection refused"
    )
    view.held["connections"]["passthrough_reasons"] = {"tls": 7, "not_a_service": 2}
    view.held["connections"]["passthrough"] = [
        {"destination": "10.96.0.7:443", "service": "pay.shop:443", "reason": "tls", "connections": 7}
    ]
    ports = [{"name": "grpc", "port": 50051}]
    world.cluster.put("/api/v1/namespaces/default/services/greeter", {"spec": {"ports": ports}})
    starting = {
        "addresses": ["10.9.9.9"],
        "conditions": {"ready": False},
        "targetRef": {"name": "greeter-new"},
    }
    one = {"addressType": "IPv4", "ports": ports, "endpoints": [starting]}
    labels = {"kubernetes.io/service-name": "greeter"}
    path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/greeter-1"
    world.cluster.put(path, one)["metadata"]["labels"] = labels

    done = world.run("explain", "web")
    assert (done.code, done.err) == (0, "")
    for text in (
        "Pod shop/web: injected: evenstream-sidecar:dev, version 0.1.0, capture: iptables",
        "container evenstream: running, ready",
        "container evenstream-init: terminated, exit code 0, Completed",
        "endpoints from: kubernetes, watching, last heard of 1.2 s ago",
        "greeter.default:50051  3 endpoints, told by kubernetes 12 s ago, 1,000 calls",
        "backing off: it could not be connected (connection refused)",
        "left out: greeter-new (10.9.9.9:50051): not ready: its readiness probe fails, or it is still starting",
        "TLS",
        "the application encrypts",
        "dial the Service's clusterIP",
        "10.96.0.7:443",
        "pay.shop:443",
    ):
        assert text in done.out, done.out

    told = world.run("explain", "web", "-o", "json").json
    assert told["injected"] is True
    assert told["services"][0]["left_out"][0]["pod"] == "greeter-new"
    assert told["connections"]["passthrough_reasons"] == {"tls": 7, "not_a_service": 2}
    assert told["sidecar"]["source"]["kind"] == "kubernetes"


def test_explain_and_top_of_a_real_sidecar(world: World, tmp_path: Path):
    """What `python -m sidecar` itself tells, nothing left out that is looked for."""
    endpoints = EndpointsFile(tmp_path, 7)  # no such server: a call makes the endpoint back off
    endpoints.write(["127.77.1.1", "127.77.1.2"])
    sidecar = SidecarProcess(tmp_path, "--source", f"file:{endpoints.path}").ready()
    try:
        world.cluster.pod("web", inject="enabled")
        world.cluster.serve("shop", "web", ADMIN_PORT, ("127.0.0.1", sidecar.admin))
        done = world.run("explain", "web")
        assert (done.code, done.err) == (0, "")
        assert "greeter.default:50051  2 endpoints, told by file " in done.out
        assert "127.77.1.2:7" in done.out
        told = world.run("top", "-o", "json", *FAST).json
        (one,) = told["services"]
        assert one["service"] == "greeter.default:50051"
        assert [each["states"] for each in one["endpoints"]] == [{"idle": 1}] * 2
        assert one["verdict"]["word"] == "too few"
    finally:
        assert sidecar.end() == 0


def test_explain_says_that_endpoints_are_not_up_to_date(world: World):
    view = world.client("web")
    view.services.append(service("greeter", 2))
    view.services[0]["rung"], view.services[0]["rung_age_seconds"] = "memory", 180.0
    view.services[0]["queued_streams"] = 4
    done = world.run("explain", "web")
    assert "known from memory 3 min ago, 4 streams wait for an endpoint" in done.out


def test_explain_tells_what_is_excluded(world: World):
    world.client("web")
    pod = world.cluster.objects["/api/v1/namespaces/shop/pods/web"]
    pod["metadata"]["annotations"]["evenstream.dev/exclude-outbound-ports"] = "5432,6379"
    done = world.run("explain", "pod/web")
    assert "exclude-outbound-ports: 5432,6379 (never redirected" in done.out


def test_explain_a_pod_that_did_not_ask(world: World):
    world.cluster.pod("plain")
    done = world.run("explain", "plain")
    assert done.code == 0
    assert "it has no annotation evenstream.dev/inject" in done.out
    assert "  -> put evenstream.dev/inject" in done.out


def test_explain_looks_at_the_deployment_behind_the_pod(world: World):
    pod = world.cluster.pod("plain")
    owner = {"controller": True, "kind": "ReplicaSet", "name": "web-1"}
    pod["metadata"]["ownerReferences"] = [owner]
    replicas = world.cluster.put("/apis/apps/v1/namespaces/shop/replicasets/web-1", {})
    replicas["metadata"]["ownerReferences"] = [{"controller": True, "kind": "Deployment", "name": "web"}]
    deployment = world.cluster.put("/apis/apps/v1/namespaces/shop/deployments/web", {})
    deployment["metadata"]["annotations"] = {"evenstream.dev/inject": "enabled"}
    done = world.run("explain", "plain")
    assert done.code == 1
    assert "the annotation stands on Deployment web itself, where it does nothing" in done.out


def test_explain_a_sidecar_that_does_not_answer(world: World):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        nowhere = probe.getsockname()
    pod = world.cluster.pod("web", inject="enabled")
    crashed = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}
    pod["status"]["initContainerStatuses"] = [
        {"name": "evenstream", "ready": False, "restartCount": 3, "state": waiting, "lastState": crashed}
    ]
    world.cluster.serve("shop", "web", ADMIN_PORT, nowhere)
    done = world.run("explain", "web")
    assert done.code == 1
    assert "waiting, CrashLoopBackOff, back-off 10s, 3 restarts, the last for OOMKilled" in done.out
    assert "could not look: the sidecar of pod shop/web does not answer" in done.out


def test_explain_without_the_right_to_port_forward(world: World):
    world.client("web")
    world.cluster.forbidden = {"portforward"}
    done = world.run("explain", "web")
    assert done.code == 1
    assert "no port-forward to pod shop/web" in done.out
    assert "this needs the right to create pods/portforward" in done.out


def test_explain_a_pod_that_is_not_there(world: World):
    done = world.run("explain", "nobody", "-n", "shop")
    assert (done.code, done.out) == (2, "")
    assert done.err == "evenstream: there is no pod nobody in namespace shop; see kubectl get pods -n shop\n"


# top


def test_top_adds_up_all_client_pods(world: World):
    for name, namespace in (("a", "shop"), ("b", "shop"), ("c", "other")):
        view = world.client(name, namespace)
        view.services.append(service("greeter", 4))
        for each in view.services[0]["endpoints"]:
            each["open_streams"] = 2
        view.weights = [10, 10, 10, 10]
    done = world.run("top", "greeter", "-n", "default", "-o", "json", *FAST)
    assert done.code == 0, done.err
    (one,) = done.json["services"]
    assert one["clients"] == 3
    assert [each["open_streams"] for each in one["endpoints"]] == [6] * 4
    counts = {each["calls"] for each in one["endpoints"]}
    assert len(counts) == 1
    assert one["calls"] == 4 * counts.pop() >= 3 * 4 * 10 * 2
    assert one["verdict"]["word"] == "even"
    assert one["verdict"]["ratio"] == 1.0
    assert 0.001 < one["p50_seconds"] < 0.01


def test_top_ends_with_3_when_it_is_uneven(world: World):
    view = world.client("a")
    view.services.append(service("greeter", 3))
    view.weights = [100, 1, 1]
    done = world.run("top", "greeter.default:50051", *FAST)
    assert done.code == 3
    assert "uneven: max/mean 2.94 over " in done.out
    assert "random picks give this in fewer than 1 of 1,000,000 cases" in done.out


def test_top_judges_only_endpoints_that_could_be_given_streams(world: World):
    view = world.client("a")
    view.services.append(service("greeter", 4))
    change(view.services[0]["endpoints"][3], state="backoff")
    view.weights = [30, 30, 30]
    done = world.run("top", "greeter.default", "-o", "json", *FAST)
    assert done.code == 0
    endpoints = done.json["services"][0]["endpoints"]
    assert [each["judged"] for each in endpoints] == [True, True, True, False]


def test_top_lists_all_services(world: World):
    view = world.client("a")
    view.services += [service("greeter", 3), service("orders", 1)]
    view.weights = [50, 50, 50]
    done = world.run("top", *FAST)
    assert done.code == 0
    heads, greeter, orders = done.out.splitlines()
    assert heads.split()[:4] == ["SERVICE", "CLIENTS", "ENDPOINTS", "OPEN"]
    assert greeter.startswith("greeter.default:50051")
    assert greeter.split()[-1] == "even"
    assert orders.split()[-2:] == ["one", "endpoint"]


def test_top_counts_from_0_when_a_sidecar_was_restarted(world: World):
    """Totals that are smaller than before are those of a new process, not of minus so many calls."""
    view = world.client("a")
    view.services.append(service("greeter", 2))
    call(view.services[0], 0, times=1_000_000)
    call(view.services[0], 1, times=1_000_000)
    timer = threading.Timer(0.5, lambda: view.services.__setitem__(0, service("greeter", 2)))
    timer.start()
    view.weights = [10, 10]
    done = world.run("top", "greeter.default", "-o", "json", "--for", "1.5", "--interval", "0.1")
    timer.join()
    assert done.code == 0, done.err
    (one,) = done.json["services"]
    assert 0 < one["calls"] < 1000
    assert all(each["calls"] >= 0 for each in one["endpoints"])


def test_top_goes_on_without_a_pod_that_does_not_answer(world: World):
    view = world.client("a")
    view.services.append(service("greeter", 2))
    view.weights = [20, 20]
    world.cluster.pod("dead", inject="enabled")
    done = world.run("top", *FAST)
    assert done.code == 0
    assert "not counted: the sidecar of pod shop/dead does not answer" in done.out


def test_top_stays_within_a_namespace_where_it_may_not_see_all(world: World):
    view = world.client("a")
    view.services.append(service("greeter", 2))
    world.cluster.forbidden = {"/api/v1/pods"}
    assert world.run("top", *FAST).code == 0


@pytest.mark.parametrize(
    ("clients", "arguments", "code", "says"),
    [
        (0, (), 4, "no running pod has the sidecar; see evenstream check"),
        (1, (), 4, "none of 1 pods with the sidecar has called a Service; evenstream explain POD says why"),
        (1, ("greeter",), 4, "has called Service greeter; evenstream top lists all"),
        (1, ("greeter:http",), 2, "'greeter:http' is no Service; allowed: NAME, NAME.NAMESPACE"),
        (1, ("--interval", "0"), 2, "0.0 is not in the range"),
    ],
)
def test_top_with_nothing_to_show(
    world: World, clients: int, arguments: tuple[str, ...], code: int, says: str
):
    for number in range(clients):
        world.client(f"c-{number}")
    done = world.run("top", *FAST, *arguments)
    assert (done.code, done.out) == (code, "")
    assert done.err.count("\n") == 1
    assert says in done.err


def test_top_is_live_on_a_terminal_and_ends_with_ctrl_c(world: World):
    view = world.client("a")
    view.services.append(service("greeter", 3))
    view.weights = [100, 1, 1]
    ours, theirs = pty.openpty()
    environment = {
        **os.environ,
        "KUBECONFIG": str(world.cluster.kubeconfig),
        "TERM": "xterm",
        "COLUMNS": "120",
    }
    command = [sys.executable, "-m", "injector.cli", "top", "greeter.default", "--interval", "0.1"]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    seen = b""
    until = time.monotonic() + 60
    while seen.count(b"ENDPOINT") < 3 and time.monotonic() < until:
        seen += os.read(ours, 65536)
    assert seen.count(b"ENDPOINT") >= 3, "it is drawn again and again"
    process.send_signal(signal.SIGINT)
    drained = threading.Thread(target=_read_all, args=(ours,), daemon=True)
    drained.start()
    assert process.wait(30) == 3
    assert b"uneven" in seen


class Swallowing:
    """A look that loses an exception, as a destructor does that happens to run when Ctrl-C is pressed."""

    notes: Sequence[str] = ()
    left_out = count = looks = 0

    def look(self) -> Look:
        self.looks += 1
        assert self.looks < 10, "Ctrl-C was lost"
        if self.looks == 3:
            with contextlib.suppress(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.01)
        return Look(time.monotonic(), {})


def test_ctrl_c_is_not_lost_whatever_runs_when_it_is_pressed():
    before = signal.getsignal(signal.SIGINT)  # ignored, where the tests run in the background of a script
    clients = Swallowing()
    assert _live(cast(Clients, clients), None, 0.01, detailed=False) == []
    assert clients.looks == 3
    assert signal.getsignal(signal.SIGINT) is before


def _read_all(descriptor: int) -> None:
    try:
        while os.read(descriptor, 65536):
            pass
    except OSError:
        pass


def test_a_listener_that_says_nothing_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("injector.cli.forward.ANSWER_SECONDS", 0.3)
    held: list[socket.socket] = []
    listener = Listener(held.append)
    world.cluster.pod("mute", inject="enabled")
    world.cluster.serve("shop", "mute", ADMIN_PORT, listener.address)
    done = world.run("explain", "mute")
    listener.close()
    assert done.code == 1
    assert "the sidecar of pod shop/mute does not answer: timed out" in done.out
