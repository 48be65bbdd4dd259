"""Pods made by chance from the API's own schema go through a real API server and the real webhook, twice.

PODS=1000 sets how many; make test takes a few dozen, the same each time. Each is valid before: what the API
server refuses in it is left out first.
"""

import copy
import json
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from pod_schema import PodSchema, repaired
from real_apiserver import Api, why_not
from serving import Injector

from contract import names
from injector.admission.decision import Options, decide, inject

pytestmark = [
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
    pytest.mark.xdist_group("apiserver"),
    pytest.mark.timeout(3600),
]

PODS = int(os.environ.get("PODS") or 40)
SAME_EACH_TIME = "PODS" not in os.environ
NAMESPACE = "default"
UNSEEN = "kube-system"  # the webhook is not called for it: how the pod is without us

PREFIX = names.ANNOTATION_PREFIX
ANNOTATIONS = st.builds(
    lambda ours, others: {**others, **ours, names.INJECT_ANNOTATION: "enabled"},
    st.fixed_dictionaries(
        {},
        optional={
            PREFIX + "capture": st.sampled_from(["iptables", "hosts", "hosts", "none"]),
            PREFIX + "services": st.sampled_from(
                ["greeter:50051", "greeter:50051, orders.shop:7000, greeter:50052", "a.b:80", ""]
            ),
            PREFIX + "exclude-outbound-ports": st.sampled_from(["", "5432", "5432, 6379"]),
            PREFIX + "exclude-outbound-cidrs": st.sampled_from(["", "10.0.0.0/8", "10.0.0.0/8, fd00::/8"]),
            PREFIX + "outlier-ejection": st.sampled_from(["on", "off", "share=20, failures=3"]),
            PREFIX + "log-level": st.sampled_from(["debug", "info"]),
            PREFIX + "sidecar-cpu-request": st.sampled_from(["0", "1m", "0.5", "100m"]),
            PREFIX + "sidecar-cpu-limit": st.sampled_from(["1m", "0.1", "2"]),
            PREFIX + "sidecar-memory-request": st.sampled_from(["0", "64Mi", "1.5Gi", "100M"]),
            PREFIX + "sidecar-memory-limit": st.sampled_from(["64Mi", "64M", "3Gi"]),
        },
    ),
    st.dictionaries(st.sampled_from(["note", "example.com/a"]), st.text(max_size=20), max_size=2),
)
# What the API server adds to any object it takes, and what follows from the rest.
OF_THE_SERVERS = ("uid", "creationTimestamp", "managedFields", "generation", "namespace")


class Counts:
    valid = injected = refused = 0


@pytest.fixture(scope="module")
def specs(api: Api) -> st.SearchStrategy[Any]:
    return PodSchema(api.request("GET", "/openapi/v3/api/v1").body).spec()


def _bare(pod: dict[str, Any]) -> dict[str, Any]:
    """What a person would apply to have this pod."""
    metadata = {key: value for key, value in pod["metadata"].items() if key not in OF_THE_SERVERS}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod["spec"]}


def _compared(pod: dict[str, Any]) -> dict[str, Any]:
    """`_bare` without what has no order."""
    bare = copy.deepcopy(_bare(pod))
    metadata = bare["metadata"]
    status = metadata["annotations"].get(names.STATUS_ANNOTATION)
    if status:
        metadata["annotations"][names.STATUS_ANNOTATION] = json.loads(status)
        metadata["annotations"][names.STATUS_ANNOTATION].pop("version", None)
    return bare


def _through_the_webhook(api: Api, pod: dict[str, Any]) -> dict[str, Any]:
    """The pod as the API server takes it, and the same again on a second pass. Checks both."""
    expected = decide(pod, Options(), NAMESPACE)
    answer = api.try_pod(pod, NAMESPACE)
    assert answer.status == 201, (answer.body.get("message"), list(expected.patch))
    assert any("evenstream" in warning for warning in answer.warnings) == bool(expected.warnings)
    after = _bare(answer.body)
    injected = names.STATUS_ANNOTATION in after["metadata"]["annotations"]
    assert injected == bool(expected.patch), expected.reason
    assert _subset(inject(pod, expected)["spec"], after["spec"]) == ""
    if injected:
        Counts.injected += 1
        assert not decide(after, Options(), NAMESPACE).patch
        assert _compared(api.try_pod(after, NAMESPACE).body) == _compared(after)
    else:
        Counts.refused += 1
        assert _compared(after) == _compared(pod)
    return after


def _subset(wanted: Any, found: Any, at: str = "spec") -> str:
    """Where `found` lacks something of `wanted`, or "": the API server adds defaults, and takes nothing away."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        for key, value in wanted.items():
            # Quantities come back in their canonical form; empty things may be left out.
            if key in ("requests", "limits") or (key not in found and not value):
                continue
            if key not in found:
                return f"{at}.{key}"
            if where := _subset(value, found[key], f"{at}.{key}"):
                return where
        return ""
    if isinstance(wanted, list) and isinstance(found, list):
        if len(wanted) != len(found):
            return f"{at}: {len(found)} of {len(wanted)}"
        parts = (
            _subset(one, other, f"{at}[{i}]")
            for i, (one, other) in enumerate(zip(wanted, found, strict=True))
        )
        return next((where for where in parts if where), "")
    return "" if wanted == found else f"{at}: {found!r} for {wanted!r}"


def test_every_valid_pod_stays_valid_and_a_second_pass_changes_nothing(
    api: Api, injector: Injector, specs: st.SearchStrategy[Any]
):
    Counts.valid = Counts.injected = Counts.refused = 0

    @settings(
        max_examples=PODS,
        derandomize=SAME_EACH_TIME,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @given(specs, ANNOTATIONS)
    def check(spec: dict[str, Any], annotations: dict[str, str]) -> None:
        metadata = {"name": "generated", "annotations": annotations}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        spec.setdefault("serviceAccountName", "default")
        valid = repaired(pod, lambda one: api.try_pod(one, UNSEEN)[:2])
        assume(valid is not None)
        assert valid is not None
        Counts.valid += 1
        _through_the_webhook(api, _bare(valid[1]))

    check()
    print(f"{Counts.valid} valid pods: {Counts.injected} injected, {Counts.refused} refused with a warning")
    assert Counts.valid >= PODS
    assert Counts.injected >= PODS // 4
