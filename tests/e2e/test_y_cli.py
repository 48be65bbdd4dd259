"""The command line on a real cluster: port-forwards through a real kubelet, a real webhook behind `check`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from clusterkit import mesh
from clusterkit.kube import COMMAND_SECONDS, ROOT, Cluster, Namespace, hack, without_proxy
from clusterkit.things import annotated, client_pod
from figures import Figures

pytestmark = pytest.mark.e2e

RUN_SECONDS = 120.0  # a command that measures 10 s, on a busy machine


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.out, self.err
        return json.loads(self.out)


@pytest.fixture(scope="session")
def login(cluster: Cluster) -> list[str]:
    """How the command line finds the cluster that the tests use."""
    if not cluster.local:
        return ["--context", cluster.context]
    return ["--kubeconfig", hack("kubeconfig", seconds=COMMAND_SECONDS).strip()]


def run(login: list[str], command: str, *arguments: str) -> Done:
    done = subprocess.run(
        [sys.executable, "-m", "injector.cli", command, *arguments, *login],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        env=without_proxy(),
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def test_check_finds_nothing_wrong(
    namespace: Namespace, client: str, login: list[str], figures: Figures
) -> None:
    done = run(login, "check", "-n", namespace.name, "-o", "json")
    lines = {line["name"]: line for line in done.json["checks"]}
    assert done.code == 0, lines
    for name in ("API server", "nodes", "injector", "webhook", "matchConditions", "failurePolicy"):
        assert lines[name]["level"] == "ok", lines[name]
    assert lines["certificate"]["level"] == "ok", lines["certificate"]
    assert lines["certificate"]["text"].startswith("verified against the webhook's CA"), lines["certificate"]
    assert lines["injection"]["level"] == "ok", lines["injection"]
    assert lines["discovery"]["level"] == "ok", lines["discovery"]
    assert lines["sidecars"]["level"] in ("ok", "note"), lines["sidecars"]
    figures.note("command line", "evenstream check", f"{len(lines)} lines, none failed")


def test_check_knows_a_namespace_that_refuses_the_capture_mode(installed: Cluster, login: list[str]) -> None:
    name = "evenstream-e2e-locked"
    mesh.make_namespace(installed, name)
    try:
        installed.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
        refused = run(login, "check", "-n", name, "--capture", "iptables")
        assert refused.code == 1, refused
        assert (
            "FAIL  Pod Security: enforces restricted: a pod with capture: iptables gets no sidecar"
            in refused.out
        )
        assert run(login, "check", "-n", name, "--capture", "hosts").code == 0
    finally:
        mesh.delete_namespace(installed, name)


def test_explain_an_injected_pod(namespace: Namespace, client: str, login: list[str]) -> None:
    (pod, *_) = namespace.pods("greeter-client")
    done = run(login, "explain", pod["metadata"]["name"], "-n", namespace.name, "-o", "json")
    told = done.json
    assert done.code == 0, told
    assert told["injected"] is True
    assert told["notes"] == []
    assert {"name": "evenstream", "state": "running, ready"} in told["containers"]
    assert told["sidecar"]["state"] == "ready"
    assert told["sidecar"]["source"]["kind"] == "kubernetes"
    (greeter,) = (one for one in told["services"] if one["name"] == "greeter")
    ready = {each["metadata"]["name"] for each in namespace.pods("greeter")}
    assert {each["pod"] for each in greeter["endpoints"] if each["state"] == "ready"} == ready
    assert greeter["left_out"] == []
    assert greeter["snapshot_age_seconds"] > 0

    shown = run(login, "explain", pod["metadata"]["name"], "-n", namespace.name)
    assert shown.code == 0
    assert f"Pod {namespace.name}/{pod['metadata']['name']}: injected: " in shown.out
    assert f"greeter.{namespace.name}:" in shown.out


def test_explain_pods_that_are_not_injected(namespace: Namespace, client: str, login: list[str]) -> None:
    (plain, *_) = namespace.pods("greeter-client-plain")
    done = run(login, "explain", plain["metadata"]["name"], "-n", namespace.name)
    assert done.code == 0
    assert "it has no annotation evenstream.dev/inject, nor has Deployment greeter-client-plain" in done.out

    namespace.apply(client_pod("explained", annotated(exclude_outbound_ports="http")))
    try:
        done = run(login, "explain", "explained", "-n", namespace.name)
        assert done.code == 1
        assert "annotation evenstream.dev/exclude-outbound-ports: 'http' is not allowed" in done.out
        assert "-> change that, then make the pod anew" in done.out
    finally:
        namespace.delete("pods", "explained", grace=0)


def test_top_says_that_the_greeter_is_even(
    namespace: Namespace, client: str, login: list[str], figures: Figures
) -> None:
    """greeter-client calls all the time; every endpoint is one of the greeter's pods."""
    done = run(login, "top", "greeter", "-n", namespace.name, "--for", "10", "-o", "json")
    told = done.json
    (one,) = told["services"]
    assert done.code == 0, one["verdict"]
    assert told["even"] is True
    assert one["calls"] > 0
    assert one["verdict"]["word"] == "even", one["verdict"]
    pods = {each["metadata"]["name"] for each in namespace.pods("greeter")}
    assert {each["pod"] for each in one["endpoints"] if each["judged"]} == pods
    assert one["p99_seconds"] > 0
    figures.note("command line", "evenstream top greeter", one["verdict"]["why"])
    overview = run(login, "top", "--for", "2", "--interval", "1")
    assert f"greeter.{namespace.name}:" in overview.out
    assert overview.code in (0, 3)


def test_it_is_a_plugin_of_kubectl(
    namespace: Namespace, client: str, cluster: Cluster, login: list[str]
) -> None:
    """`kubectl evenstream` finds the program by its name on the PATH, where installing puts it."""
    folder = Path(sys.executable).parent
    path = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    assert (folder / "kubectl-evenstream").exists(), "pip installs it"
    command = [cluster.kubectl.words[0], "evenstream", "explain", client, "-n", namespace.name, *login]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        env={**without_proxy(), **path},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"Pod {namespace.name}/{client}: injected: " in done.stdout


def test_metrics_are_seen_from_outside_the_pod_and_the_rest_is_not(
    namespace: Namespace, client: str, cluster: Cluster
) -> None:
    """Through the API server's proxy, which comes to the pod's address: as Prometheus does."""
    proxy = namespace.path("pods", f"{client}:15020") + "/proxy"
    told = cluster.kubectl("get", "--raw", f"{proxy}/metrics")
    assert "evenstream_build_info{" in told
    for path in ("/status", "/"):
        refused = cluster.kubectl.try_("get", "--raw", f"{proxy}{path}")
        assert refused.returncode != 0
        assert "inside the pod only" in refused.stderr
    injector = f"/api/v1/namespaces/{mesh.SYSTEM}/services/https:evenstream-injector:https/proxy/metrics"
    told = cluster.kubectl("get", "--raw", injector)
    assert 'evenstream_injector_admissions_total{outcome="injected"}' in told
    assert "evenstream_injector_certificate_expiry_timestamp_seconds" in told


def test_the_sidecar_logs_json_where_the_annotation_says_so(namespace: Namespace) -> None:
    namespace.apply(client_pod("json-logs", annotated(log_format="json")))
    try:
        namespace.wait_ready("json-logs", 90.0)
        first = json.loads(namespace.logs("json-logs", "evenstream").splitlines()[0])
        assert first["level"] == "info"
        assert first["message"].startswith("evenstream sidecar ")
    finally:
        namespace.delete("pods", "json-logs", grace=0)
