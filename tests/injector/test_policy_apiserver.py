"""Injection without a server: the policies do in a real API server what the webhook does, pod for pod."""

import copy
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from golden_pods import golden_pods
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from pod_schema import PodSchema, repaired
from real_apiserver import POLICIED, Api, asking_pod, why_not
from test_generated_pods import ANNOTATIONS, OF_THE_SERVERS, PODS, SAME_EACH_TIME, UNSEEN

from contract import names
from contract.settings import BY_ANNOTATION
from contract.values import MAX_LIST_ITEMS
from injector.admission.decision import Options, decide, inject
from injector.policy.objects import objects

OPTIONS = Options("evenstream-sidecar:policy", "policy")
NAMESPACE, RESTRICTED = POLICIED
KINDS = (
    "mutatingadmissionpolicy,mutatingadmissionpolicybinding,"
    "validatingadmissionpolicy,validatingadmissionpolicybinding"
)
PART_OF = "app.kubernetes.io/part-of=evenstream"
BY_THE_POLICY = "ValidatingAdmissionPolicy 'evenstream-warnings'"

pytestmark = [
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
    pytest.mark.xdist_group("apiserver"),
    pytest.mark.timeout(1800),
]
IN_FORCE_SECONDS = 60.0  # a second after it is there; a busy API server takes its time


@pytest.fixture(scope="module")
def policed(api: Api) -> Iterator[Api]:
    """The policies, for the namespaces that the webhook leaves to them."""
    things = objects(OPTIONS, "v1beta1")
    for thing in things:
        if thing["kind"].endswith("Binding"):
            expression = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": list(POLICIED)}
            thing["spec"]["matchResources"] = {"namespaceSelector": {"matchExpressions": [expression]}}
    api.kubectl("apply", "-f", "-", text=yaml.safe_dump_all(things))
    try:
        _until_in_force(api)
        yield api
    finally:
        api.kubectl("delete", KINDS, "-l", PART_OF)


def _until_in_force(api: Api) -> None:
    until = time.monotonic() + IN_FORCE_SECONDS
    wrong = asking_pod("probe", NAMESPACE, capture="no")
    while not (
        _added(api.try_pod(asking_pod("probe", NAMESPACE), NAMESPACE).body)
        and _said(api.try_pod(wrong, NAMESPACE).warnings)
    ):
        assert time.monotonic() < until, "the policy is not in force"
        time.sleep(0.1)


def _added(pod: dict[str, Any]) -> bool:
    return names.STATUS_ANNOTATION in pod["metadata"].get("annotations", {})


def _compared(pod: dict[str, Any]) -> dict[str, Any]:
    """What both ways must agree on: all that is not the API server's, nor the namespace's name."""
    metadata = {key: value for key, value in pod["metadata"].items() if key not in OF_THE_SERVERS}
    return {"metadata": metadata, "spec": pod["spec"]}


def _said(warnings: list[str]) -> list[str]:
    """Ours, as the webhook would say them."""
    found = []
    for warning in warnings:
        text = re.sub(r'^299 - "(.*)"$', r"\1", warning).replace('\\"', '"')
        if BY_THE_POLICY in text:
            found.append(text[text.index("evenstream: ") :])
    return found


def _agrees(api: Api, pod: dict[str, Any], namespace: str = NAMESPACE) -> bool:
    """Whether the pod got the sidecar, after a check that webhook and policy make the same of it."""
    pod = copy.deepcopy(pod)
    pod["metadata"].pop("namespace", None)
    pod["spec"].setdefault("serviceAccountName", "default")
    decision = decide(pod, OPTIONS, namespace, restricted=namespace == RESTRICTED)
    by_webhook = api.try_pod(inject(pod, decision), UNSEEN)
    by_policy = api.try_pod(pod, namespace)
    assert by_policy.status == by_webhook.status == 201, (by_policy.body, by_webhook.body)
    assert _said(by_policy.warnings) == list(decision.warnings)
    assert _compared(by_policy.body) == _compared(by_webhook.body)
    if decision.patch:
        again = api.try_pod(_compared(by_policy.body) | {"apiVersion": "v1", "kind": "Pod"}, namespace)
        assert _compared(again.body) == _compared(by_policy.body)
    return bool(decision.patch)


@pytest.mark.parametrize(
    "pod", [pytest.param(pod, id=f"{name}-{number}") for number, (name, pod) in enumerate(golden_pods())]
)
def test_a_golden_pod_comes_out_as_from_the_webhook(policed: Api, pod: dict[str, Any]):
    _agrees(policed, pod)


@pytest.mark.parametrize("capture", ["iptables", "hosts", "none"])
def test_the_largest_lists_are_within_what_an_api_server_spends_on_a_policy(policed: Api, capture: str):
    pod = asking_pod(
        "large",
        capture=capture,
        services=", ".join(f"{'s' * 59}-{n:03}.{'n' * 63}:{2000 + n}" for n in range(MAX_LIST_ITEMS)),
        exclude_outbound_ports=", ".join(str(60000 + n) for n in range(MAX_LIST_ITEMS)),
        exclude_outbound_cidrs=", ".join(f"fd00:{n:x}::/32" for n in range(MAX_LIST_ITEMS)),
    )
    pod["spec"]["containers"] = [
        {"name": f"c{n}", "image": "c:1", "ports": [{"containerPort": 40000 + n * 20 + p} for p in range(20)]}
        for n in range(20)
    ]
    pod["spec"]["hostAliases"] = [{"ip": f"192.0.2.{n}", "hostnames": [f"h{n}.example"]} for n in range(100)]
    assert _agrees(policed, pod)
    # The last of all is in the way, and named.
    pod["spec"]["containers"][-1]["ports"][-1]["containerPort"] = 2000 + MAX_LIST_ITEMS - 1
    assert _agrees(policed, pod) == (capture != "hosts")
    pod["spec"]["containers"][-1]["ports"].pop()
    pod["spec"]["hostAliases"][-1]["hostnames"] = [f"{'s' * 59}-{MAX_LIST_ITEMS - 1:03}.{'n' * 63}.svc"]
    assert _agrees(policed, pod) == (capture != "hosts")


@pytest.mark.parametrize("capture", ["iptables", "hosts", "none"])
def test_in_a_namespace_that_enforces_pod_security(policed: Api, capture: str):
    locked = {
        "runAsNonRoot": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    pod = asking_pod("restricted", capture=capture, services="greeter:50051")
    for one in (*pod["spec"]["containers"], *pod["spec"]["initContainers"]):
        one["securityContext"] = locked
    assert _agrees(policed, pod, RESTRICTED) is (capture != "iptables")


def _by_both(api: Api, pod: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The warnings: the webhook's, and the policy's."""
    pod["metadata"].pop("namespace")
    answer = api.try_pod(pod, NAMESPACE)
    said = _said(answer.warnings)
    assert _added(answer.body) != bool(said)
    return list(decide(pod, OPTIONS, NAMESPACE).warnings), said


@pytest.mark.parametrize("text", ["10.0.0.0/255.0.0.0", "::ffff:10.0.0.0/104"])
def test_networks_in_another_spelling_are_refused_by_the_policy_alone(policed: Api, text: str):
    """docs/how-to/without-a-server.md names the differences."""
    by_webhook, by_policy = _by_both(policed, asking_pod("network", exclude_outbound_cidrs=text))
    assert by_webhook == []
    assert f"'{text}' is not allowed; allowed: CIDRs" in by_policy[0]


def test_quotation_marks_are_escaped_by_the_webhook_alone(policed: Api):
    by_webhook, by_policy = _by_both(policed, asking_pod("quoted", policy="it's"))
    assert by_webhook[0].replace('"', "'") == by_policy[0]
    assert by_webhook != by_policy


def test_a_pod_that_did_not_ask_is_neither_changed_nor_warned_of(policed: Api):
    for annotations in ({}, {names.INJECT_ANNOTATION: "disabled"}):
        pod = asking_pod("quiet", NAMESPACE)
        pod["metadata"]["annotations"] = annotations
        answer = policed.try_pod(pod, NAMESPACE)
        assert answer.status == 201
        assert not _added(answer.body)
        assert answer.warnings == []


def test_policies_that_went_and_came_again_are_in_force(policed: Api):
    """With parameters they would not be, in an API server of 1.34."""
    things = policed.kubectl("get", KINDS, "-l", PART_OF, "-o", "json").stdout
    policed.kubectl("delete", KINDS, "-l", PART_OF)
    until = time.monotonic() + IN_FORCE_SECONDS
    while _added(policed.try_pod(asking_pod("probe", NAMESPACE), NAMESPACE).body):
        assert time.monotonic() < until, "the policy is still in force"
        time.sleep(0.1)
    kept = json.loads(things)
    for thing in kept["items"]:
        thing["metadata"] = {key: thing["metadata"][key] for key in ("name", "labels")}
    policed.kubectl("create", "-f", "-", text=json.dumps(kept))
    _until_in_force(policed)


def test_generated_pods_come_out_as_from_the_webhook(policed: Api):
    specs = PodSchema(policed.request("GET", "/openapi/v3/api/v1").body).spec()
    injected = [0]

    @_settings(PODS)
    @given(specs, ANNOTATIONS)
    def check(spec: dict[str, Any], annotations: dict[str, str]) -> None:
        spec.setdefault("serviceAccountName", "default")
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "generated"}, "spec": spec}
        valid = repaired(pod, lambda one: policed.try_pod(one, UNSEEN)[:2])
        assume(valid is not None)
        assert valid is not None
        pod = valid[0]
        pod["metadata"]["annotations"] = annotations
        injected[0] += _agrees(policed, pod)

    check()
    assert injected[0] >= PODS // 4


def test_any_text_of_an_annotation_is_taken_or_refused_as_by_the_webhook(policed: Api):
    @_settings(4 * PODS)
    @given(st.sampled_from(sorted(BY_ANNOTATION)), TEXTS | LISTS)
    def check(annotation: str, text: str | tuple[str, str]) -> None:
        if isinstance(text, tuple):
            annotation, text = text
        assume((annotation, text) != (names.INJECT_ANNOTATION, "disabled"))
        pod = asking_pod("text")
        pod["metadata"]["annotations"][annotation] = text
        _agrees(policed, pod)

    check()


def _settings(count: int) -> settings:
    return settings(
        max_examples=count,
        derandomize=SAME_EACH_TIME,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )


# Texts near what the parsers take. Python's quotes around a text differ from CEL's only for a text with quotes or
# what cannot be printed, so these have neither.
_PORTS = st.sampled_from(
    ["0", "1", "80", "65535", "65536", "00080", "99999", "123456", "-1", "1.0", "http", ""]
)
_SERVICES = st.builds(
    lambda name, port: f"{name}:{port}",
    st.sampled_from(
        ["greeter", "orders.shop", "a.b.c", "Greeter", "-a", "a" * 63, "a" * 64, "", "a.", "10.0.0.1"]
    ),
    _PORTS | st.just("50051"),
)
_CIDRS = st.sampled_from(
    [
        "10.0.0.0/8",
        "10.0.0.1/8",
        "10.0.0.1",
        "fd00::/8",
        "fd00::1/8",
        "::1",
        "10.0.0.0/33",
        "10.0.0",
        "0.0.0.0/0",
    ]
)
_EJECTIONS = st.builds(
    "{}={}".format,
    st.sampled_from(["failures", "seconds", "share", "Share", "rest"]),
    st.sampled_from(["1", "0", "007", "90", "91", "1000", "1001", "3600", "3601", "10000", "-1", "1.0", ""]),
)
_ITEMS = _PORTS | _SERVICES | _CIDRS
TEXTS = (
    st.sampled_from(["enabled", "hosts", "none", "iptables", "least-open-streams", "debug", "json"])
    | st.sampled_from(["on", "off", "on,share=10", "x" * 300, " ", ""])
    | st.sampled_from(
        ["20m", "0.5", "1.", ".5", "1Ki", "1ki", "1e3", "-1", "100000000000000000", "64Mi", "1 "]
    )
    | st.sampled_from(
        ["a", "a:1", "registry.example:5000/a/b:1.2", "A", "a@sha256:" + "0" * 64, "a b", "a:" + "x" * 200]
    )
    | st.lists(_ITEMS, max_size=4).map(",".join)
    | st.lists(_ITEMS, max_size=4).map(" , ".join)
    | st.lists(_EJECTIONS, max_size=4).map(", ".join)
    | st.sampled_from(["1", "greeter:1", "10.0.0.0/8", "share=5"]).flatmap(
        lambda one: st.integers(99, 102).map(lambda n: ",".join([one] * n))
    )
    | st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="'\"\\"), max_size=12)
)
# Such lists where they belong.
LISTS = st.one_of(
    st.tuples(st.just(names.ANNOTATION_PREFIX + annotation), st.lists(items, max_size=3).map(", ".join))
    for annotation, items in {
        "services": _SERVICES,
        "exclude-outbound-ports": _PORTS,
        "exclude-outbound-cidrs": _CIDRS,
        "outlier-ejection": _EJECTIONS,
    }.items()
)
