"""What the API server makes of manifests/, of pods that ask and of every golden pod; the injector's rights."""

import json
import signal
import time
from typing import Any

import pytest
import yaml
from real_apiserver import GOLDEN, ROOT, Api, asking_pod, why_not
from serving import Injector

pytestmark = [
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
    pytest.mark.xdist_group("apiserver"),
]

IN_FORCE_SECONDS = 30.0
# Golden pods that no API server takes, with or without a sidecar: annotations that are no strings, and a
# debugger that can only be put into a pod that runs.
NEVER_TAKEN = ("not-text", "guaranteed", "debugged")


def test_a_pod_that_asks_gets_the_sidecar(api: Api, injector: Injector):
    made, warnings = api.create(asking_pod("asks"))
    init = made["spec"]["initContainers"]
    assert [one["name"] for one in init] == ["evenstream", "evenstream-init", "first"]
    assert init[0]["restartPolicy"] == "Always"
    assert [one["name"] for one in init[0]["volumeMounts"]] == ["evenstream-token", "evenstream-state"]
    status = json.loads(made["metadata"]["annotations"]["evenstream.dev/status"])
    assert status["containers"] == ["evenstream", "evenstream-init"]
    assert "evenstream" not in warnings
    injector.wait_for("pod default/asks: injected")


def test_a_pod_made_from_what_was_injected_by_hand_stays_so(api: Api, injector: Injector):
    made, _ = api.create(asking_pod("by-hand"), "--dry-run=server")
    again, warnings = api.create(made, "--dry-run=server")
    assert again["spec"] == made["spec"]
    assert "evenstream" not in warnings


def test_a_debugger_is_put_into_an_injected_pod_as_into_any(api: Api, injector: Injector):
    """Ephemeral containers come by a subresource, which the webhook does not ask for."""
    before, _ = api.create(asking_pod("debugged"))
    container = {"name": "debugger", "image": "busybox:1", "targetContainerName": "client"}
    patch = json.dumps({"spec": {"ephemeralContainers": [container]}})
    api.kubectl(
        "patch", "pod", "debugged", "--subresource=ephemeralcontainers", "--type=strategic", "-p", patch
    )
    after = json.loads(api.kubectl("get", "pod", "debugged", "-o", "json").stdout)
    assert [one["name"] for one in after["spec"].pop("ephemeralContainers")] == ["debugger"]
    assert after["spec"] == before["spec"]


@pytest.mark.parametrize("inject", [None, "disabled"])
def test_a_pod_that_did_not_ask_never_reaches_the_injector(api: Api, injector: Injector, inject: str | None):
    pod = asking_pod(f"did-not-ask-{inject}".lower())
    if inject is None:
        del pod["metadata"]["annotations"]
    else:
        pod["metadata"]["annotations"]["evenstream.dev/inject"] = inject
    made, _ = api.create(pod)
    assert [one["name"] for one in made["spec"]["initContainers"]] == ["first"]
    api.create(asking_pod(f"after-{inject}".lower()), "--dry-run=server")
    injector.wait_for(f"pod default/after-{inject}".lower())
    assert not any("did-not-ask" in line for line in injector.lines)


def test_a_namespace_that_is_left_out_never_reaches_the_injector(api: Api, injector: Injector):
    made, _ = api.create(asking_pod("system", "kube-system"), "--dry-run=server")
    assert [one["name"] for one in made["spec"]["initContainers"]] == ["first"]


def test_a_malformed_annotation_is_a_warning_of_kubectl_and_the_pod_is_admitted(api: Api, injector: Injector):
    made, warnings = api.create(asking_pod("malformed", capture="iptable"))
    assert [one["name"] for one in made["spec"]["initContainers"]] == ["first"]
    assert "Warning: evenstream: pod left without the sidecar: annotation evenstream.dev/capture" in warnings
    assert "'iptable' is not allowed; allowed: iptables, hosts, none" in warnings


@pytest.mark.parametrize("level", ["baseline", "restricted"])
def test_a_namespace_that_enforces_pod_security_is_never_a_reason_to_refuse_a_pod(
    api: Api, injector: Injector, level: str
):
    """capture hosts and none pass "restricted"; what would not pass is left without the sidecar."""
    labels = {"pod-security.kubernetes.io/enforce": level}
    api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": level, "labels": labels}})
    api.kubectl("create", "serviceaccount", "default", "-n", level)
    locked = {
        "runAsNonRoot": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    for capture in ("iptables", "hosts", "none"):
        pod = asking_pod(capture, level, capture=capture, services="greeter:50051")
        for one in (*pod["spec"]["containers"], *pod["spec"]["initContainers"]):
            one["securityContext"] = locked
        made, warnings = api.create(pod)
        names = [one["name"] for one in made["spec"]["initContainers"]]
        if capture == "iptables":
            assert names == ["first"]
            assert "capture: 'iptables' is not allowed in a namespace that enforces Pod Security" in warnings
        else:
            assert names == ["evenstream", "first"]
            assert "evenstream" not in warnings


@pytest.mark.parametrize("case", sorted(path.stem for path in (GOLDEN / "out").glob("*.yaml")))
def test_the_api_server_accepts_every_golden_manifest(api: Api, injector: Injector, case: str):
    for document in yaml.safe_load_all((GOLDEN / "out" / f"{case}.yaml").read_text()):
        for thing in document.get("items", [document]):
            if thing["apiVersion"] == "example.com/v1" or thing["metadata"].get("name") in NEVER_TAKEN:
                continue
            # `out/refused.yaml` asks again, and is refused again; nothing is scheduled or kept.
            thing["metadata"]["namespace"] = "default"
            if thing["kind"] == "Pod":
                thing["spec"].setdefault("serviceAccountName", "default")
            api.create(thing, "--dry-run=server")


def test_an_injector_that_does_not_answer_stops_no_pod(api: Api, injector: Injector):
    injector.process.send_signal(signal.SIGSTOP)
    try:
        made, _ = api.create(asking_pod("alone"))
    finally:
        injector.process.send_signal(signal.SIGCONT)
    assert [one["name"] for one in made["spec"]["initContainers"]] == ["first"]


def _may(api: Api, who: str, group: str, *what: str) -> bool:
    groups = ("--as-group=system:serviceaccounts", f"--as-group=system:serviceaccounts:{group}")
    done = api.kubectl(
        "auth", "can-i", *what, f"--as={who}", *groups, "--as-group=system:authenticated", check=False
    )
    return done.stdout.strip() == "yes"


def _comes_to(may: bool, *question: Any) -> None:
    """The API server's authorizer hears of changed roles a moment after they are written."""
    until = time.monotonic() + IN_FORCE_SECONDS
    while _may(*question) is not may:
        assert time.monotonic() < until, question
        time.sleep(0.1)


def test_any_service_account_may_read_services_and_slices_and_nothing_else_by_our_doing(api: Api):
    who = "system:serviceaccount:default:default"
    for resource in ("services", "endpointslices.discovery.k8s.io"):
        for verb in ("get", "list", "watch"):
            assert _may(api, who, "default", verb, resource, "--all-namespaces"), (verb, resource)
        assert not _may(api, who, "default", "update", resource, "--all-namespaces")
    for resource in ("secrets", "pods", "configmaps", "endpoints"):
        assert not _may(api, who, "default", "list", resource, "--all-namespaces")


def test_the_injector_may_touch_its_two_objects_only(api: Api):
    who, system = "system:serviceaccount:evenstream-system:evenstream-injector", "evenstream-system"
    ours = "secrets/evenstream-injector-certificates"
    assert _may(api, who, system, "get", ours, "-n", system)
    assert _may(api, who, system, "update", ours, "-n", system)
    assert not _may(api, who, system, "delete", ours, "-n", system)
    assert not _may(api, who, system, "get", "secrets/another", "-n", system)
    assert not _may(api, who, system, "list", "secrets", "-n", system)
    assert not _may(api, who, system, "get", "secrets/evenstream-injector-certificates", "-n", "default")
    configurations = "mutatingwebhookconfigurations.admissionregistration.k8s.io"
    assert _may(api, who, system, "patch", f"{configurations}/evenstream-injector")
    assert not _may(api, who, system, "patch", f"{configurations}/another")
    assert not _may(api, who, system, "list", "pods", "--all-namespaces")


def test_the_injectors_own_pods_pass_pod_security_restricted(api: Api):
    """The namespace enforces it; a pod made from the Deployment's template, as its controller would."""
    rendered = api.kubectl("kustomize", str(ROOT / "manifests")).stdout
    deployment = next(one for one in yaml.safe_load_all(rendered) if one["kind"] == "Deployment")
    template = deployment["spec"]["template"]
    template["metadata"] |= {"name": "restricted", "namespace": "evenstream-system"}
    api.create({"apiVersion": "v1", "kind": "Pod", **template}, "--dry-run=server")
    namespace = json.loads(api.kubectl("get", "namespace", "evenstream-system", "-o", "json").stdout)
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    # And the check is in force: the same pod as root is not let in.
    template["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    refused = api.kubectl(
        "create",
        "--dry-run=server",
        "-f",
        "-",
        text=json.dumps({"apiVersion": "v1", "kind": "Pod", **template}),
        check=False,
    )
    assert "violates PodSecurity" in refused.stderr


@pytest.mark.parametrize(
    "path",
    [
        ".",
        "overlays/high-availability",
        "overlays/cert-manager",
        "overlays/namespaced-rbac",
        "overlays/no-server",
        "network-policy",
    ],
)
def test_the_api_server_accepts_every_overlay(api: Api, path: str):
    ours = _rendered(api, path)
    for one in ours:
        if one["kind"] == "MutatingWebhookConfiguration":
            one["metadata"]["name"] = "tried"  # the one that is there calls these tests' injector
    done = api.kubectl("apply", "--dry-run=server", "-f", "-", text=yaml.safe_dump_all(ours))
    assert len(done.stdout.splitlines()) == len(ours)
    # 1.34 says itself that MutatingAdmissionPolicy is beta.
    assert all("deprecated" in line for line in done.stderr.splitlines())


def _rendered(api: Api, path: str) -> list[dict[str, Any]]:
    """A kustomization of manifests/, without what is cert-manager's."""
    rendered = api.kubectl("kustomize", str(ROOT / "manifests" / path)).stdout
    return [
        one for one in yaml.safe_load_all(rendered) if not one["apiVersion"].startswith("cert-manager.io/")
    ]


def _apply_roles(api: Api, path: str) -> None:
    roles = [one for one in _rendered(api, path) if one["kind"].startswith("ClusterRole")]
    api.kubectl("apply", "-f", "-", text=yaml.safe_dump_all(roles))


def test_a_namespace_gives_access_to_its_services_by_itself(api: Api):
    """manifests/overlays/namespaced-rbac, and manifests/namespace-access where it is wanted."""
    who, watch = "system:serviceaccount:default:default", ("watch", "endpointslices.discovery.k8s.io")
    api.kubectl("create", "namespace", "open")
    api.kubectl("delete", "clusterrolebinding", "evenstream-sidecar")
    try:
        _apply_roles(api, "overlays/namespaced-rbac")
        _comes_to(False, api, who, "default", *watch, "-n", "open")
        api.kubectl("apply", "-n", "open", "-k", str(ROOT / "manifests" / "namespace-access"))
        _comes_to(True, api, who, "default", *watch, "-n", "open")
        assert not _may(api, who, "default", *watch, "-n", "default")
        assert not _may(api, who, "default", "list", "secrets", "-n", "open")
    finally:
        _apply_roles(api, ".")
