"""`evenstream check` in clusters that are right and wrong, and what it says to do."""

from __future__ import annotations

import base64
import datetime
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_cluster import FakeCluster, Listener
from cli_run import Done, evenstream, inside
from freeports import free_port

from injector import certs
from injector.cli import policies

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[2]
NAME = "evenstream-injector"
WEBHOOK = f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{NAME}"
DEPLOYMENT = f"/apis/apps/v1/namespaces/evenstream-system/deployments/{NAME}"
INJECTOR_POD = f"/api/v1/namespaces/evenstream-system/pods/{NAME}-1"
DNS_NAME = f"{NAME}.evenstream-system.svc"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[FakeCluster]:
    """Empty but for a node and a namespace."""
    with FakeCluster(tmp_path) as made:
        info = {"operatingSystem": "linux", "kubeletVersion": "v1.34.4"}
        made.put("/api/v1/nodes/one", {"status": {"nodeInfo": info}})
        made.put("/api/v1/namespaces/shop", {})
        yield made


@pytest.fixture
def installed(cluster: FakeCluster) -> Iterator[FakeCluster]:
    """With what manifests/ has, and an injector that shows its certificate."""
    yield from _installed(cluster, datetime.datetime.now(datetime.UTC))


def _installed(cluster: FakeCluster, issued: datetime.datetime) -> Iterator[FakeCluster]:
    bundle = certs.issue([DNS_NAME], issued)
    for document in yaml.safe_load_all((ROOT / "manifests" / "base" / "webhook.yaml").read_text()):
        trusted = base64.b64encode(bundle.ca_certificates).decode()
        for hook in document["webhooks"]:
            hook["clientConfig"]["caBundle"] = trusted
        cluster.put(WEBHOOK, document)
    template = {"spec": {"containers": [{"image": "evenstream-injector:dev"}]}}
    ready = {"spec": {"replicas": 2, "template": template}, "status": {"readyReplicas": 2}}
    cluster.put(DEPLOYMENT, ready)
    pod = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    cluster.put(INJECTOR_POD, pod)["metadata"]["labels"] = {"app.kubernetes.io/name": NAME}
    listener = Listener(lambda sock: _greet(sock, bundle, cluster.kubeconfig.parent))
    cluster.serve("evenstream-system", f"{NAME}-1", 8443, listener.address)
    yield cluster
    listener.close()


def _greet(sock: socket.socket, bundle: certs.Bundle, folder: Path) -> None:
    (folder / "pair.pem").write_bytes(bundle.key + bundle.certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "pair.pem")
    try:
        with context.wrap_socket(sock, server_side=True) as tls:
            tls.recv(1)
    except OSError:
        pass


def check(cluster: FakeCluster, *arguments: str) -> Done:
    return inside("check", *arguments, KUBECONFIG=str(cluster.kubeconfig))


def found(cluster: FakeCluster, *arguments: str) -> tuple[int, dict[str, Any]]:
    """(exit code, {name: line})."""
    done = check(cluster, "-o", "json", *arguments)
    assert done.out, done.err
    assert done.json["ok"] == (done.code == 0)
    return done.code, {line["name"]: line for line in done.json["checks"]}


def test_before_an_install(cluster: FakeCluster):
    code, lines = found(cluster, "--pre")
    assert code == 0
    assert lines["API server"]["level"] == "ok"
    assert "v1.34.4" in lines["API server"]["text"]
    assert lines["rights to install"]["level"] == "ok"
    assert lines["installed"]["level"] == "note"


def test_without_pre_it_is_a_failure_that_nothing_is_installed(cluster: FakeCluster):
    code, lines = found(cluster)
    assert code == 1
    assert lines["installed"]["level"] == "failed"
    assert lines["installed"]["do"] == "kubectl apply -k manifests/"


def test_rights_that_are_missing_are_named(cluster: FakeCluster):
    cluster.denied = {"clusterroles", "mutatingwebhookconfigurations"}
    code, lines = found(cluster, "--pre")
    assert code == 1
    assert (
        lines["rights to install"]["text"] == "you may not create clusterroles, mutatingwebhookconfigurations"
    )


@pytest.mark.parametrize(
    ("minor", "level", "says"),
    [("27", "failed", "matchConditions"), ("28+", "warning", "native sidecars"), ("29", "ok", "")],
)
def test_old_api_servers(cluster: FakeCluster, minor: str, level: str, says: str):
    cluster.version["minor"] = minor
    _, lines = found(cluster, "--pre")
    assert lines["API server"]["level"] == level
    assert says in lines["API server"]["do"]


def test_old_kubelets_and_other_systems(cluster: FakeCluster):
    old = {"operatingSystem": "linux", "kubeletVersion": "v1.27.9-gke.100"}
    cluster.put("/api/v1/nodes/old", {"status": {"nodeInfo": old}})
    cluster.put("/api/v1/nodes/windows", {"status": {"nodeInfo": {**old, "operatingSystem": "windows"}}})
    code, lines = found(cluster, "--pre")
    assert code == 1
    assert "1 with another system" in lines["nodes"]["text"]
    assert "1 older than 1.29" in lines["nodes"]["text"]


def test_an_installation_that_works(installed: FakeCluster):
    installed.pod("web", inject="enabled")
    code, lines = found(installed)
    assert code == 0, lines
    assert {line["level"] for line in lines.values()} == {"ok"}
    assert lines["injector"]["text"] == "2 of 2 pods ready, evenstream-injector:dev"
    assert lines["certificate"]["text"].startswith("verified against the webhook's CA, 90 days left")
    assert "evenstream-sidecar:dev, version 0.1.0 (dry run)" in lines["injection"]["text"]
    assert lines["sidecars"]["text"] == "1 of version 0.1.0"


def test_for_people_each_failed_line_says_what_to_do(cluster: FakeCluster):
    done = check(cluster)
    lines = done.out.splitlines()
    at = next(index for index, line in enumerate(lines) if line.startswith("  FAIL"))
    assert lines[at] == "  FAIL  installed: there is no evenstream-injector in this cluster"
    assert lines[at + 1] == "        -> kubectl apply -k manifests/"


def _hooks(cluster: FakeCluster) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = cluster.objects[WEBHOOK]["webhooks"]
    return found


def _no_ca(cluster: FakeCluster) -> None:
    del _hooks(cluster)[-1]["clientConfig"]["caBundle"]


def _other_ca(cluster: FakeCluster) -> None:
    other = certs.issue([DNS_NAME], datetime.datetime.now(datetime.UTC))
    for hook in _hooks(cluster):
        hook["clientConfig"]["caBundle"] = base64.b64encode(other.ca_certificates).decode()


def _no_conditions(cluster: FakeCluster) -> None:
    del _hooks(cluster)[0]["matchConditions"]


def _fails_closed(cluster: FakeCluster) -> None:
    _hooks(cluster)[0]["failurePolicy"] = "Fail"


def _not_called(cluster: FakeCluster) -> None:
    cluster.injects = False


def _no_pods_ready(cluster: FakeCluster) -> None:
    cluster.objects[DEPLOYMENT]["status"] = {}


def _one_pod_ready(cluster: FakeCluster) -> None:
    cluster.objects[DEPLOYMENT]["status"] = {"readyReplicas": 1}


def _no_deployment(cluster: FakeCluster) -> None:
    del cluster.objects[DEPLOYMENT]


def _no_webhook(cluster: FakeCluster) -> None:
    del cluster.objects[WEBHOOK]


def _no_discovery(cluster: FakeCluster) -> None:
    cluster.denied = {"endpointslices"}


@pytest.mark.parametrize(
    ("broken", "name", "level", "says"),
    [
        (_no_ca, "webhook", "failed", "has no caBundle"),
        (_other_ca, "certificate", "failed", "the webhook's CA does not verify"),
        (_no_conditions, "matchConditions", "failed", "every pod's creation waits"),
        (_fails_closed, "failurePolicy", "warning", "cannot start while the injector is down"),
        (_not_called, "injection", "failed", "does not get the sidecar"),
        (_no_pods_ready, "injector", "failed", "0 of 2 pods ready"),
        (_one_pod_ready, "injector", "warning", "1 of 2 pods ready"),
        (_no_deployment, "injector", "failed", "there is no Deployment"),
        (_no_webhook, "webhook", "failed", "has no webhook *.evenstream.dev"),
        (_no_discovery, "discovery", "failed", "may not list endpointslices, watch endpointslices"),
    ],
)
def test_an_installation_that_is_broken(
    installed: FakeCluster, broken: Any, name: str, level: str, says: str
):
    broken(installed)
    code, lines = found(installed)
    assert (lines[name]["level"], code) == (level, int(level == "failed"))
    assert says in lines[name]["text"]
    assert lines[name]["do"]


def test_a_certificate_that_should_have_been_renewed(cluster: FakeCluster):
    long_ago = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=80)
    for installed in _installed(cluster, long_ago):
        _, lines = found(installed)
        assert lines["certificate"]["level"] == "warning"
        assert "10 days left" in lines["certificate"]["text"]
        assert "should have been renewed" in lines["certificate"]["do"]


@pytest.mark.parametrize(
    ("level", "capture", "judged"),
    [
        ("restricted", None, "warning"),
        ("baseline", None, "warning"),
        ("privileged", None, "ok"),
        ("restricted", "iptables", "failed"),
        ("restricted", "hosts", "ok"),
        ("restricted", "none", "ok"),
    ],
)
def test_pod_security_against_the_capture_mode(
    installed: FakeCluster, level: str, capture: str | None, judged: str
):
    installed.put("/api/v1/namespaces/shop", {"metadata": {"labels": {policies.ENFORCE: level}}})
    code, lines = found(installed, *(("--capture", capture) if capture else ()))
    assert lines["Pod Security"]["level"] == judged
    assert code == int(judged == "failed")


def test_a_namespace_that_the_webhook_leaves_out(installed: FakeCluster):
    installed.put("/api/v1/namespaces/kube-system", {})
    code, lines = found(installed, "-n", "kube-system")
    assert code == 0
    assert "NotIn kube-system" in lines["injection"]["text"]


def test_a_namespace_that_is_not_there(installed: FakeCluster):
    code, lines = found(installed, "-n", "nowhere")
    assert code == 1
    assert lines["exists"]["text"] == "there is no namespace nowhere"


def test_pods_that_asked_and_have_no_sidecar_are_named(installed: FakeCluster):
    installed.injects = False
    installed.pod("web", inject="enabled")
    installed.pod("plain")
    installed.injects = True
    code, lines = found(installed)
    assert code == 0
    assert lines["without it"]["text"] == "asked and have none: shop/web"
    assert lines["without it"]["do"] == "see why: evenstream explain -n shop web"


POLICY = "/apis/admissionregistration.k8s.io/v1beta1/mutatingadmissionpolicies/evenstream"
BINDING = POLICY.replace("policies/", "policybindings/")


def test_an_installation_without_a_server(cluster: FakeCluster):
    """A MutatingAdmissionPolicy does the injection: there is no injector to look for."""
    others = {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kube-system"]}
    selector = {"matchExpressions": [others]}
    spec = {"matchConstraints": {"namespaceSelector": selector}, "matchConditions": [{"name": "asks"}]}
    cluster.put(POLICY, {"spec": spec})
    code, lines = found(cluster)
    assert code == 1
    assert "has no MutatingAdmissionPolicyBinding evenstream" in lines["policy"]["text"]
    cluster.put(BINDING, {})
    code, lines = found(cluster)
    assert code == 0, lines
    assert lines["policy"]["level"] == "ok"
    assert lines["injection"]["level"] == "ok"
    assert not {"injector", "webhook", "certificate", "installed"} & lines.keys()
    cluster.injects = False
    code, lines = found(cluster)
    assert code == 1
    assert "from 1.36 on" in lines["injection"]["do"]
    cluster.put("/api/v1/namespaces/kube-system", {})
    assert found(cluster, "-n", "kube-system")[1]["injection"]["level"] == "note"


def test_what_may_not_be_looked_at_is_skipped_and_said(installed: FakeCluster):
    installed.forbidden = {"nodes", "portforward", "subjectaccessreviews", "pods", "shop"}
    code, lines = found(installed)
    assert code == 0
    for name in ("nodes", "certificate", "discovery", "sidecars", "labels"):
        assert lines[name]["level"] == "skipped", lines[name]
        assert "forbidden" in lines[name]["text"]


def test_more_pods_than_a_page(installed: FakeCluster):
    for number in range(1200):
        installed.pod(f"web-{number}", inject="enabled")
    _, lines = found(installed)
    assert lines["sidecars"]["text"] == "1200 of version 0.1.0"


@pytest.mark.parametrize(
    ("kubeconfig", "says"),
    [
        ("", "no cluster to ask: "),
        ("apiVersion: v1\nkind: Config\n", "no cluster to ask: "),
        ("not yaml: [", "no cluster to ask: "),
    ],
)
def test_no_cluster_is_one_line_and_exit_4(tmp_path: Path, kubeconfig: str, says: str):
    path = tmp_path / "config"
    if kubeconfig:
        path.write_text(kubeconfig)
    done = evenstream("check", KUBECONFIG=str(path), HOME=str(tmp_path))
    assert (done.code, done.out) == (4, "")
    assert done.err.count("\n") == 1, done.err
    assert says in done.err


def test_a_cluster_that_does_not_answer(cluster: FakeCluster):
    port = free_port()
    text = cluster.kubeconfig.read_text().replace(str(cluster.port), str(port))
    cluster.kubeconfig.write_text(text)
    done = check(cluster)
    assert done.code == 4
    assert (
        done.err == f"evenstream: http://127.0.0.1:{port} does not answer: [Errno 111] Connection refused\n"
    )


def test_a_context_that_does_not_exist(cluster: FakeCluster):
    done = check(cluster, "--context", "other")
    assert done.code == 4
    assert "other" in done.err


def test_completion_asks_the_cluster(cluster: FakeCluster):
    cluster.pod("web-1")
    cluster.pod("db-1")
    words = {"_EVENSTREAM_COMPLETE": "bash_complete", "COMP_CWORD": "2", "COMP_WORDS": "evenstream explain w"}
    done = evenstream(KUBECONFIG=str(cluster.kubeconfig), **words)
    assert done.out.split() == ["plain,web-1"]
    cluster.forbidden = {"pods"}
    done = evenstream(KUBECONFIG=str(cluster.kubeconfig), **words)
    assert (done.code, done.out.strip(), done.err) == (0, "", "")
