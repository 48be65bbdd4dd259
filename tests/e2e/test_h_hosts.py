"""`capture: hosts` in a namespace that enforces Pod Security "restricted", on a real kubelet."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from clusterkit import mesh
from clusterkit.kube import ROOT, Cluster, Namespace, wait_for
from clusterkit.load import max_over_mean, reaches, run_client
from clusterkit.things import annotated, client_pod
from figures import Figures

pytestmark = pytest.mark.e2e

NAMESPACE = "evenstream-e2e-restricted"
LABELS = {"pod-security.kubernetes.io/enforce": "restricted"}
NAMES = (
    "greeter",
    f"greeter.{NAMESPACE}",
    f"greeter.{NAMESPACE}.svc",
    f"greeter.{NAMESPACE}.svc.cluster.local",
)
CALLS = 60
EVEN = 1.05
READY_SECONDS = 90.0


@pytest.fixture(scope="module")
def restricted(installed: Cluster) -> Iterator[Namespace]:
    """A namespace of its own with three greeter servers."""
    made = mesh.make_namespace(installed, NAMESPACE)
    installed.api.patch(f"/api/v1/namespaces/{NAMESPACE}", {"metadata": {"labels": LABELS}})
    made.kubectl("apply", "-f", str(ROOT / "examples" / "greeter" / "backend.yaml"))
    made.kubectl("rollout", "status", "deployment/greeter", "--timeout=120s", seconds=130)
    yield made
    mesh.delete_namespace(installed, NAMESPACE)


@pytest.fixture(scope="module")
def hosts_client(restricted: Namespace) -> str:
    pod = client_pod("hosts-client", annotated(capture="hosts", services="greeter:50051"))
    restricted.apply(pod)
    restricted.wait_ready("hosts-client", READY_SECONDS)
    return "hosts-client"


def test_the_namespace_refuses_what_is_privileged(restricted: Namespace) -> None:
    """So that the others show something."""
    pod = client_pod("privileged", {})
    pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    done = restricted.cluster.kubectl.try_(
        "--namespace", NAMESPACE, "apply", "--dry-run=server", "-f", "-", stdin=json.dumps(pod)
    )
    assert "violates PodSecurity" in done.stderr


def test_capture_iptables_is_a_warning_there_and_no_refusal(restricted: Namespace) -> None:
    done = restricted.cluster.kubectl.try_(
        *("--namespace", NAMESPACE, "apply", "--dry-run=server", "--output=json", "-f", "-"),
        stdin=json.dumps(client_pod("iptables", annotated())),
    )
    assert done.returncode == 0, done.stderr
    assert "capture: 'iptables' is not allowed in a namespace that enforces Pod Security" in done.stderr
    assert "initContainers" not in json.loads(done.stdout)["spec"]


def test_the_applications_unchanged_address_is_spread_by_each_of_its_names(
    restricted: Namespace, hosts_client: str, figures: Figures
) -> None:
    for name in NAMES:
        report = run_client(
            restricted, hosts_client, "burst", "--calls", str(CALLS), "--target", f"{name}:50051"
        )
        assert report.failed == 0, report.errors
        assert sum(report.calls.values()) == CALLS
        figures.note(
            "capture hosts, restricted", f"max/mean, {name}", max_over_mean(report.calls, 3), f"<= {EVEN}"
        )
        assert max_over_mean(report.calls, 3) <= EVEN


def test_without_the_sidecar_the_same_calls_reach_one_pod(restricted: Namespace) -> None:
    restricted.apply(client_pod("hosts-plain", {}))
    restricted.wait_ready("hosts-plain", READY_SECONDS)
    # Without the sidecar it needs what kube-proxy and the cluster's DNS know of a new namespace.
    wait_for(
        "the Service is reached", lambda: reaches(restricted, "hosts-plain", "greeter:50051"), READY_SECONDS
    )
    report = run_client(
        restricted, "hosts-plain", "burst", "--calls", str(CALLS), "--target", "greeter:50051"
    )
    assert list(report.calls.values()) == [CALLS]


def test_the_pod_has_no_privilege_and_no_other_container(restricted: Namespace, hosts_client: str) -> None:
    pod = restricted.pod(hosts_client)
    (sidecar,) = pod["spec"]["initContainers"]
    assert sidecar["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert pod["spec"]["hostAliases"] == [{"ip": "127.64.0.1", "hostnames": list(NAMES)}]
    status = restricted.sidecar_status(hosts_client)
    assert [service["service"] for service in status["services"]] == [f"greeter.{NAMESPACE}:50051"]


def test_servers_that_come_take_their_share(restricted: Namespace, hosts_client: str) -> None:
    restricted.scale("greeter", 5)
    wait_for(
        "five ready servers", lambda: list(restricted.endpoints("greeter").values()) == ["ready"] * 5, 120.0
    )
    report = run_client(restricted, hosts_client, "burst", "--calls", "100", "--target", "greeter:50051")
    assert report.failed == 0, report.errors
    assert max_over_mean(report.calls, 5) <= EVEN
