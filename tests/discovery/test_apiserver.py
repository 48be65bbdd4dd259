"""The Kubernetes source against a real kube-apiserver and etcd, over real sockets and TLS.

They come from `hack/cluster apiserver-up`, and these tests are skipped where its binaries are not in the
cache: building them takes ten minutes, which is for `make e2e` to decide.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from objects import endpoint, endpoint_slice
from sockets import Driver

from sidecar.balance.endpoints import ServicePort
from sidecar.discovery.kubernetes import ApiServer, KubernetesSource, tls_context

pytestmark = pytest.mark.xdist_group("discovery-apiserver")  # one API server for all of them

REPO = Path(__file__).resolve().parents[2]
PATIENCE = 30.0  # seconds until a test gives up on what should take milliseconds; the machine may be busy
GREETER = ServicePort("default", "greeter", 50051)


class Api:
    """A client with all rights, to write what the source is to see."""

    def __init__(self, facts: dict[str, str], folder: Path) -> None:
        from kubernetes import client

        configuration = client.Configuration(host=facts["url"])
        configuration.ssl_ca_cert = facts["ca"]
        configuration.api_key = {"authorization": "Bearer " + facts["token"]}
        configuration.proxy = None
        self.facts = facts
        self.folder = folder
        api = client.ApiClient(configuration)
        self.core = client.CoreV1Api(api)
        self.slices = client.DiscoveryV1Api(api)
        self.rbac = client.RbacAuthorizationV1Api(api)

    def patiently(self, act: Callable[[], Any]) -> Any:
        """Do it, again and again while the API server is away."""
        give_up = time.monotonic() + PATIENCE
        while True:
            try:
                return act()
            except Exception:
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.1)

    def service(self, name: str = "greeter", namespace: str = "default") -> str:
        """Create a Service; returns its cluster IP."""
        body = {
            "metadata": {"name": name},
            "spec": {"ports": [{"name": "grpc", "port": 50051}], "selector": {"app": name}},
        }
        made = self.patiently(lambda: self.core.create_namespaced_service(namespace, body))
        return str(made.spec.cluster_ip)

    def slice(self, name: str, *hosts: str, service: str = "greeter", namespace: str = "default") -> None:
        """Create or replace an EndpointSlice."""
        body = endpoint_slice(name, [endpoint(h) for h in hosts], service=service, namespace=namespace)
        del body["metadata"]["resourceVersion"]

        def write() -> None:
            from kubernetes.client import ApiException

            try:
                self.slices.replace_namespaced_endpoint_slice(name, namespace, body)
            except ApiException as error:
                if error.status != 404:
                    raise
                self.slices.create_namespaced_endpoint_slice(namespace, body)

        self.patiently(write)

    def namespace(self, name: str) -> None:
        self.core.create_namespace({"metadata": {"name": name}})

    def pod_token(self, namespace: str, account: str) -> str:
        """A token as the kubelet projects it, for a new ServiceAccount."""
        self.core.create_namespaced_service_account(namespace, {"metadata": {"name": account}})
        body = {"spec": {"expirationSeconds": 3600}}
        answer = self.core.create_namespaced_service_account_token(account, namespace, body)
        return str(answer.status.token)

    def grant(self, namespace: str, account: str) -> None:
        """What the sidecar needs, in one namespace."""
        verbs = ["get", "list", "watch"]
        rules = [
            {"apiGroups": [""], "resources": ["services"], "verbs": verbs},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": verbs},
        ]
        self.rbac.create_namespaced_role(namespace, {"metadata": {"name": "evenstream"}, "rules": rules})
        binding = {
            "metadata": {"name": "evenstream"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "evenstream"},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
        }
        self.rbac.create_namespaced_role_binding(namespace, binding)

    def end_server(self, how: signal.Signals) -> None:
        """The supervisor of `hack/cluster` starts it again a second later."""
        programs = json.loads((self.folder / "box" / "programs.json").read_text())
        os.kill(programs["kube-apiserver"]["pid"], how)


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    sys.path.insert(0, str(REPO / "hack"))
    try:
        from localcluster import artefacts
    finally:
        sys.path.pop(0)
    if not artefacts.KUBERNETES.binary.exists():
        pytest.skip(f"no kube-apiserver in the cache ({artefacts.KUBERNETES.binary}): run hack/cluster build")
    if shutil.which("etcd") is None:
        pytest.skip("no etcd on this machine: hack/cluster up installs it")
    folder = tmp_path_factory.mktemp("apiserver")
    cluster = [sys.executable, str(REPO / "hack" / "cluster")]
    up = [*cluster, "apiserver-up", "--dir", str(folder), "--while-pid", str(os.getpid())]
    done = subprocess.run(up, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    yield Api(json.loads(done.stdout), folder)
    subprocess.run([*cluster, "apiserver-down", "--dir", str(folder)], check=True, timeout=60)


class Sidecar(NamedTuple):
    """A source with the driver that runs it."""

    driver: Driver
    source: KubernetesSource
    token: Path

    def watch(self, port: ServicePort) -> None:
        self.source.watch(port, time.monotonic())

    def hosts(self, port: ServicePort = GREETER) -> list[str] | None:
        found = [s for s in self.driver.snapshots() if s.service == port]
        return [e.host for e in found[-1].endpoints] if found and found[-1].exists else None

    def see(self, hosts: list[str], port: ServicePort = GREETER) -> None:
        assert self.until(lambda: self.hosts(port) == hosts), (self.hosts(port), hosts, self.status())

    def until(self, done: Callable[[], bool], seconds: float = PATIENCE) -> bool:
        return self.driver.run_until(done, seconds)

    def status(self) -> dict[str, Any]:
        return self.source.status(time.monotonic())


@pytest.fixture
def sidecar(api: Api, tmp_path: Path) -> Iterator[Callable[..., Sidecar]]:
    made: list[Sidecar] = []

    def make(token: str = api.facts["token"], namespace: str = "default") -> Sidecar:
        path = tmp_path / f"token-{len(made)}"
        path.write_text(token)
        host, _, port = api.facts["url"].removeprefix("https://").rpartition(":")
        where = ApiServer(host, int(port), lambda: tls_context(api.facts["ca"]), str(path))
        driver = Driver()
        source = KubernetesSource(
            where, dial=driver.dial, now=time.monotonic(), random=random.Random(), namespace=namespace
        )
        driver.source = source
        made.append(Sidecar(driver, source, path))
        return made[-1]

    yield make
    for one in made:
        one.source.close(time.monotonic())


@pytest.fixture
def greeter(api: Api) -> Iterator[str]:
    """A Service of its own for the test, with one endpoint; its cluster IP."""
    ip = api.service()
    api.slice("greeter-a", "10.1.0.1")
    yield ip
    api.patiently(lambda: api.slices.delete_collection_namespaced_endpoint_slice("default"))
    api.patiently(lambda: api.core.delete_namespaced_service("greeter", "default"))


def test_from_the_write_to_the_snapshot_takes_milliseconds(
    api: Api, sidecar: Callable[..., Sidecar], greeter: str, capsys: pytest.CaptureFixture[str]
) -> None:
    one = sidecar()
    started = time.monotonic()
    one.watch(GREETER)
    one.see(["10.1.0.1"])
    first = time.monotonic() - started
    from_start: list[float] = []
    from_answer: list[float] = []
    for n in range(40):
        hosts = ["10.1.0.1", f"10.1.1.{n + 1}"]
        times: list[float] = []

        def write(hosts: list[str] = hosts, times: list[float] = times) -> None:
            times.append(time.monotonic())
            api.slice("greeter-a", *hosts)
            times.append(time.monotonic())

        writer = threading.Thread(target=write)
        writer.start()
        one.see(hosts)
        seen = one.driver.log[-1][0]
        writer.join()
        from_start.append(seen - times[0])
        from_answer.append(seen - times[1])
    with capsys.disabled():
        print(
            f"\nconnect, list and first Snapshot {first * 1000:.0f} ms; write sent -> Snapshot: "
            f"median {statistics.median(from_start) * 1000:.1f} ms, max {max(from_start) * 1000:.1f} ms; "
            f"write answered -> Snapshot: median {statistics.median(from_answer) * 1000:.1f} ms"
        )
    # How fast is printed; this tells a watch from any timer, on the slowest machine.
    assert statistics.median(from_answer) < 0.5
    api.slices.delete_namespaced_endpoint_slice("greeter-a", "default")
    one.see([])
    assert one.status()["counters"]["reconnects"] == 0


def test_services_come_go_and_are_resolved(api: Api, sidecar: Callable[..., Sidecar], greeter: str) -> None:
    one = sidecar()
    late = ServicePort("default", "late", 50051)
    one.watch(late)
    assert one.until(lambda: bool(one.driver.log))
    assert one.driver.snapshots()[-1].exists is False
    ip = api.service("late")
    try:
        one.see([], late)
        api.slice("late-a", "10.1.0.7", service="late")
        one.see(["10.1.0.7"], late)
        for host, port in ((greeter, 50051), (greeter, 1), (ip, 50051), ("10.96.255.254", 50051)):
            one.source.resolve(host, port, time.monotonic())
        assert one.until(lambda: len(one.driver.resolutions()) == 4)
        answers = {(r.host, r.port): r.service for r in one.driver.resolutions()}
        assert answers == {
            (greeter, 50051): GREETER,
            (greeter, 1): None,
            (ip, 50051): late,
            ("10.96.255.254", 50051): None,
        }
        assert all(r.declared_grpc == (r.service is not None) for r in one.driver.resolutions())
    finally:
        api.core.delete_namespaced_service("late", "default")
    assert one.until(lambda: one.hosts(late) is None)


def test_a_list_of_three_thousand_endpoints(api: Api, sidecar: Callable[..., Sidecar], greeter: str) -> None:
    hosts = [f"10.{2 + n // 250}.0.{n % 250 + 1}" for n in range(3000)]
    for start in range(0, 3000, 1000):
        api.slice(f"greeter-many-{start}", *hosts[start : start + 1000])
    one = sidecar()
    one.watch(GREETER)
    one.see(["10.1.0.1", *hosts])
    assert one.status()["counters"]["malformed"] == 0


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_the_api_server_restarts_under_it(
    api: Api, sidecar: Callable[..., Sidecar], greeter: str, how: signal.Signals
) -> None:
    one = sidecar()
    one.watch(GREETER)
    one.see(["10.1.0.1"])
    api.end_server(how)
    assert one.until(lambda: one.status()["state"] != "live")
    assert one.hosts() == ["10.1.0.1"]
    api.slice("greeter-a", "10.1.0.1", "10.1.0.2")
    one.see(["10.1.0.1", "10.1.0.2"])
    assert one.source.synced()
    assert one.status()["counters"]["reconnects"] >= 1
    # The Service and its slices may have come one after the other; from then on nothing was lost for a moment.
    snapshots = [[e.host for e in s.endpoints] for s in one.driver.snapshots()]
    assert snapshots[snapshots.index(["10.1.0.1"]) :] == [["10.1.0.1"], ["10.1.0.1", "10.1.0.2"]]


def test_a_version_the_api_server_has_forgotten(
    api: Api, sidecar: Callable[..., Sidecar], greeter: str
) -> None:
    """While this client is cut off, things change, and the API server starts again with an empty cache: it
    answers 410 to a watch from the old version."""
    one = sidecar()
    one.watch(GREETER)
    one.see(["10.1.0.1"])
    (transport,) = one.driver.transports
    transport.socket.close()
    transport.closed = True
    api.slice("greeter-a", "10.1.0.1", "10.1.0.3")
    api.service("noise")
    api.core.delete_namespaced_service("noise", "default")
    api.end_server(signal.SIGKILL)
    api.slice("greeter-a", "10.1.0.3")
    transport.handler.lost("connection reset by peer", time.monotonic())
    one.see(["10.1.0.3"])
    assert one.until(lambda: one.status()["services"][str(GREETER)]["slices"] == "watching")
    assert one.status()["counters"]["relists"] >= 1
    assert one.hosts() == ["10.1.0.3"]


def test_rights_that_are_missing_are_named_and_taken_up_when_granted(
    api: Api, sidecar: Callable[..., Sidecar]
) -> None:
    api.namespace("shop")
    ip = api.service("orders", "shop")
    api.slice("orders-a", "10.1.0.4", service="orders", namespace="shop")
    orders = ServicePort("shop", "orders", 50051)
    one = sidecar(api.pod_token("shop", "app"), "shop")
    one.watch(orders)
    assert one.until(lambda: "HTTP 403" in one.status()["last_error"])
    error = one.status()["last_error"]
    # Both are missing; the last of the two answers is told.
    missing = ('["discovery.k8s.io"], resources ["endpointslices"]', '[""], resources ["services"]')
    assert any(f"missing RBAC rule: Role with apiGroups {rule}" in error for rule in missing), error
    assert "system:serviceaccount:shop:app" in error
    assert not one.source.synced()
    one.source.resolve(ip, 50051, time.monotonic())
    assert one.until(lambda: bool(one.driver.resolutions()))
    assert one.driver.resolutions()[-1].failed
    api.grant("shop", "app")
    one.see(["10.1.0.4"], orders)
    # Granted in its own namespace only: the whole cluster may not be asked, its namespace may.
    other = sidecar(one.token.read_text(), "shop")
    other.source.resolve(ip, 50051, time.monotonic())
    assert other.until(lambda: bool(other.driver.resolutions()))
    assert other.driver.resolutions()[-1].service == orders


def test_a_refused_token_is_read_again(api: Api, sidecar: Callable[..., Sidecar], greeter: str) -> None:
    one = sidecar("not-a-token-of-this-cluster")
    one.watch(GREETER)
    assert one.until(lambda: "HTTP 401: Unauthorized" in one.status()["last_error"])
    one.token.write_text(api.facts["token"])
    one.see(["10.1.0.1"])


def test_a_server_of_another_authority_is_not_trusted(
    api: Api, sidecar: Callable[..., Sidecar], greeter: str, tmp_path: Path
) -> None:
    one = sidecar()
    right = one.source._server
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-subj", "/CN=other", "-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "other.crt")]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    one.source._server = right._replace(tls=lambda: tls_context(str(tmp_path / "other.crt")))
    one.watch(GREETER)
    assert one.until(lambda: "certificate verify failed" in one.status()["last_error"])
    one.source._server = right
    one.see(["10.1.0.1"])


@pytest.mark.once  # of the build that ships; picking the interpreted one brings in import machinery
def test_memory_with_a_live_watch(api: Api, greeter: str, tmp_path: Path, capsys: Any) -> None:
    """A process that holds nothing but this source: what discovery costs an idle sidecar."""
    (tmp_path / "token").write_text(api.facts["token"])
    script = f"""
import random, sys, time
sys.path[:0] = {[str(REPO), str(Path(__file__).parent)]!r}
before = set(sys.modules)
from sockets import Driver
from sidecar.discovery.kubernetes import *
url = {api.facts["url"]!r}
driver = Driver()
where = ApiServer("127.0.0.1", int(url.rpartition(":")[2]), lambda: tls_context({api.facts["ca"]!r}),
                  {str(tmp_path / "token")!r})
driver.source = KubernetesSource(where, dial=driver.dial, now=time.monotonic(), random=random.Random(),
                                 namespace="default")
driver.source.watch(ServicePort("default", "greeter", 50051), time.monotonic())
assert driver.run_until(lambda: bool(driver.log), 30)
print([line.split()[1] for line in open("/proc/self/status") if line.startswith("VmRSS")][0])
print(*sorted(m for m in set(sys.modules) - before if m.partition(".")[0] in
              ("asyncio", "http", "urllib", "email", "kubernetes", "ipaddress", "concurrent")))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    kib, heavy = done.stdout.split("\n")[:2]
    with capsys.disabled():
        print(f"\nresident with one live watch: {int(kib) / 1024:.1f} MB")
    assert heavy == ""


def test_snapshots_carry_the_source(api: Api, sidecar: Callable[..., Sidecar], greeter: str) -> None:
    one = sidecar()
    one.watch(GREETER)
    one.see(["10.1.0.1"])
    snapshot = one.driver.snapshots()[-1]  # the Service and its slices may come one after the other
    assert (snapshot.source, snapshot.exists) == ("kubernetes", True)
    assert snapshot.taken_at <= time.monotonic()
