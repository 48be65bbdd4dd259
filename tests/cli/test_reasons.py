"""Why a pod is not injected, and why an endpoint is left out: facts in, sentences out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from contract import names
from injector.cli.installation import callers
from injector.cli.reasons import PASSED_THROUGH, Surroundings, injection, left_out
from sidecar.net import sniff

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[2]
WEBHOOK = yaml.safe_load((ROOT / "manifests" / "base" / "webhook.yaml").read_text())
WEBHOOK["metadata"]["creationTimestamp"] = "2026-11-24T06:00:00Z"
INSTALLED = Surroundings(callers=callers(WEBHOOK, None))


def pod(made: str = "2026-11-24T07:00:00Z", namespace: str = "shop", **annotations: str) -> dict[str, Any]:
    given = {f"evenstream.dev/{key}": text for key, text in annotations.items()}
    metadata = {"name": "web", "namespace": namespace, "creationTimestamp": made, "annotations": given}
    return {"metadata": metadata, "spec": {"containers": [{"name": "web"}]}}


def deployment(where: str) -> dict[str, Any]:
    asks = {"annotations": {names.INJECT_ANNOTATION: "enabled"}}
    metadata = {"name": "web", **(asks if where == "itself" else {})}
    template = {"metadata": asks if where == "template" else {}}
    return {"kind": "Deployment", "metadata": metadata, "spec": {"template": template}}


def test_an_injected_pod():
    status = json.dumps({"version": "0.1.0", "capture": "iptables", "image": "evenstream-sidecar:1"})
    why = injection(pod(status=status, inject="enabled"), INSTALLED)
    assert why[:2] == (True, True)
    assert why.text == "injected: evenstream-sidecar:1, version 0.1.0, capture: iptables"


@pytest.mark.parametrize(
    ("given", "around", "wanted", "says", "do"),
    [
        (pod(), INSTALLED, False, "it has no annotation evenstream.dev/inject", "pod template"),
        (pod(inject="disabled"), INSTALLED, False, 'is "disabled"', ""),
        (pod(inject="on"), INSTALLED, True, "'on' is not allowed; allowed: enabled, disabled", "change that"),
        (pod(inject="enabled", polcy="x"), INSTALLED, True, "annotation evenstream.dev/polcy", "change that"),
        (
            pod(),
            INSTALLED._replace(owner=deployment("itself")),
            True,
            "stands on Deployment web itself, where it does nothing",
            "pod template",
        ),
        (
            pod(),
            INSTALLED._replace(owner=deployment("template")),
            True,
            "Deployment web asks for the sidecar by now, but this pod was made before",
            "rollout restart",
        ),
        (pod(), INSTALLED._replace(owner=deployment("")), False, "nor has Deployment web", "pod template"),
        (pod(inject="enabled"), Surroundings(), True, "not installed", "kubectl apply -k"),
        (
            pod(inject="enabled"),
            Surroundings(callers_known=False),
            True,
            "nobody was asked when it was made",
            "evenstream check",
        ),
        (
            pod(inject="enabled", made="2026-11-24T05:59:59Z"),
            INSTALLED,
            True,
            "older than the installation",
            "rollout restart",
        ),
        (pod(inject="enabled"), INSTALLED, True, "was not reached when the pod was made", "check -n shop"),
        (
            pod(inject="enabled", namespace="kube-system"),
            INSTALLED,
            True,
            "pods of namespace kube-system are left alone",
            "",
        ),
    ],
)
def test_a_pod_that_is_not_injected(
    given: dict[str, Any], around: Surroundings, wanted: bool, says: str, do: str
):
    why = injection(given, around)
    assert (why.injected, why.wanted) == (False, wanted)
    assert says in why.text
    assert do in why.do
    assert bool(why.do) == bool(do)


def test_a_pod_that_cannot_have_it_says_why():
    given = pod(inject="enabled")
    given["spec"]["hostNetwork"] = True
    why = injection(given, INSTALLED)
    assert why.text.startswith("hostNetwork: true shares the node's network")


SERVICE = {"spec": {"ipFamilies": ["IPv4", "IPv6"], "ports": [{"name": "grpc", "port": 50051}]}}


def endpoint(host: str, **conditions: bool) -> dict[str, Any]:
    return {"addresses": [host], "conditions": conditions, "targetRef": {"name": f"pod-{host[-1]}"}}


def a_slice(*endpoints: dict[str, Any], family: str = "IPv4", port: str = "grpc") -> dict[str, Any]:
    return {"addressType": family, "ports": [{"name": port, "port": 8080}], "endpoints": list(endpoints)}


@pytest.mark.parametrize(
    ("one", "says"),
    [
        (a_slice(endpoint("10.0.0.1", ready=False)), "not ready: its readiness probe fails"),
        (
            a_slice(endpoint("10.0.0.1", ready=False, serving=True, terminating=True)),
            "terminating, and others are ready",
        ),
        (a_slice(endpoint("10.0.0.1", ready=False, serving=False, terminating=True)), "terminating"),
        (a_slice(endpoint("10.0.0.1", ready=True)), "ready, but the sidecar has not been told of it yet"),
        (a_slice(endpoint("10.0.0.1"), port="http"), "its slice has no port named grpc"),
        (a_slice(endpoint("fd00::1"), family="IPv6"), "IPv6, while the Service's first family is IPv4"),
        (a_slice(endpoint("db.example"), family="FQDN"), "a name, not an address"),
    ],
)
def test_why_an_endpoint_is_left_out(one: dict[str, Any], says: str):
    (found,) = left_out(SERVICE, [one], 50051, ["10.0.0.9:8080"])
    assert found.why.startswith(says)
    assert found.pod


def test_endpoints_in_use_are_not_left_out():
    slices = [a_slice(endpoint("10.0.0.1")), a_slice(endpoint("10.0.0.2", ready=False))]
    found = left_out(SERVICE, slices, 50051, ["10.0.0.1:8080"])
    assert [one.address for one in found] == ["10.0.0.2:8080"]


def test_a_service_without_the_port():
    (found,) = left_out(SERVICE, [a_slice(endpoint("10.0.0.1"))], 7000, [])
    assert found.why == "the Service has no such port"


def test_every_reason_that_a_sidecar_gives_has_its_words():
    given = {sniff.TLS, sniff.HTTP1, sniff.OTHER, "not_a_service", "not_resolved"}
    assert given <= PASSED_THROUGH.keys()
