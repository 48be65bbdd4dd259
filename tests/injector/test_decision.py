"""Properties of the decision over many pods: twice is once, and nothing of the pod's is lost."""

import contextlib
import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract import names
from injector.admission.decision import BadPodError, Options, decide, inject

OPTIONS = Options("evenstream-sidecar:test", "1.2.3")

_names = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,8}[a-z0-9])?", fullmatch=True)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_containers = st.lists(
    st.fixed_dictionaries(
        {"name": _names, "image": _names},
        optional={
            "restartPolicy": st.just("Always"),
            "securityContext": st.fixed_dictionaries({}, optional={"runAsUser": st.integers(0, 15014)}),
            "ports": st.lists(st.fixed_dictionaries({"containerPort": st.integers(1, 15000)}), max_size=2),
            "env": st.lists(
                st.fixed_dictionaries({"name": _names, "value": st.text(max_size=5)}), max_size=2
            ),
            "anythingElse": _json,
        },
    ),
    min_size=1,
    max_size=3,
)
_own_annotations = st.fixed_dictionaries(
    {names.INJECT_ANNOTATION: st.sampled_from(["enabled", "enabled", "enabled", "disabled", "yes"])},
    optional={
        names.ANNOTATION_PREFIX + "capture": st.sampled_from(["iptables", "none", "hosts"]),
        names.ANNOTATION_PREFIX + "services": st.sampled_from(["", "greeter:50051, a.b:1", "greeter"]),
        names.ANNOTATION_PREFIX + "exclude-outbound-ports": st.sampled_from(["", "1, 2", "0"]),
        names.ANNOTATION_PREFIX + "sidecar-cpu-limit": st.sampled_from(["", "1", "500m", "x"]),
    },
)
PODS = st.fixed_dictionaries(
    {
        "metadata": st.fixed_dictionaries(
            {
                "annotations": st.builds(
                    lambda others, own: {**others, **own},
                    st.dictionaries(_names, st.text(max_size=8), max_size=3),
                    _own_annotations,
                )
            },
            optional={"name": _names, "generateName": _names, "labels": st.dictionaries(_names, _names)},
        ),
        "spec": st.fixed_dictionaries(
            {"containers": _containers},
            optional={
                "initContainers": _containers | st.none() | st.just([]),
                "volumes": st.lists(
                    st.fixed_dictionaries({"name": _names, "emptyDir": st.just({})}), max_size=3
                )
                | st.none(),
                "hostNetwork": st.booleans(),
                "securityContext": st.dictionaries(st.just("fsGroup"), st.integers(0, 9)),
                "anythingElse": _json,
            },
        ),
    }
)


@given(PODS)
def test_injecting_twice_is_injecting_once(pod: dict[str, Any]):
    once = inject(pod, decide(pod, OPTIONS))
    again = decide(once, OPTIONS)
    assert again.patch == () or not again.patch
    assert inject(once, again) == once


@given(PODS)
def test_nothing_of_the_pods_is_lost_changed_or_moved(pod: dict[str, Any]):
    before = copy.deepcopy(pod)
    decision = decide(pod, OPTIONS)
    after = inject(pod, decision)
    assert pod == before  # neither changes what it is given
    assert all(operation["op"] == "add" for operation in decision.patch)
    # Taking away what has our names gives the pod back.
    for key in ("initContainers", "containers"):
        kept = [one for one in after["spec"].get(key) or [] if one["name"] not in OUR_CONTAINERS]
        assert kept == (before["spec"].pop(key, None) or [])
        after["spec"].pop(key, None)
    volumes = [one for one in after["spec"].pop("volumes", None) or [] if one["name"] not in OUR_VOLUMES]
    assert volumes == (before["spec"].pop("volumes", None) or [])
    after["metadata"]["annotations"].pop(names.STATUS_ANNOTATION, None)
    assert after == before


OUR_CONTAINERS = (names.SIDECAR_CONTAINER, names.INIT_CONTAINER)
OUR_VOLUMES = (names.TOKEN_VOLUME, names.STATE_VOLUME)


@given(PODS)
def test_a_pod_is_either_whole_or_untouched(pod: dict[str, Any]):
    decision = decide(pod, OPTIONS)
    assert not (decision.patch and decision.warnings)
    if decision.patch:
        after = inject(pod, decision)
        status = json.loads(after["metadata"]["annotations"][names.STATUS_ANNOTATION])
        first = [one["name"] for one in after["spec"]["initContainers"][: len(status["containers"])]]
        assert first == status["containers"]
        assert first[0] == names.SIDECAR_CONTAINER
        assert status["image"] == OPTIONS.sidecar_image
        assert (names.INIT_CONTAINER in first) == (status["capture"] == "iptables")


@given(st.fixed_dictionaries({"metadata": _json, "spec": _json}) | st.dictionaries(st.text(), _json))
def test_what_is_no_pod_is_an_error_that_says_so_or_left_alone(thing: dict[str, Any]):
    with contextlib.suppress(BadPodError):
        assert not decide(thing, OPTIONS).patch


@given(
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            ("containers", "initContainers", "volumes", "securityContext", "nodeSelector", "os"), _json
        ),
    )
)
def test_a_spec_of_the_wrong_shape_never_crashes(spec: dict[str, Any]):
    pod = {"metadata": {"annotations": {names.INJECT_ANNOTATION: "enabled"}}, "spec": spec}
    with contextlib.suppress(BadPodError):
        decision = decide(pod, OPTIONS)
        assert decision.patch or decision.warnings


def _pod(**annotations: str) -> dict[str, Any]:
    own = {names.ANNOTATION_PREFIX + key.replace("_", "-"): text for key, text in annotations.items()}
    return {
        "metadata": {"annotations": {names.INJECT_ANNOTATION: "enabled", **own}},
        "spec": {"containers": [{"name": "a"}]},
    }


def _sidecar(pod: dict[str, Any]) -> dict[str, Any]:
    return inject(pod, decide(pod, OPTIONS))["spec"]["initContainers"][0]


def test_the_sidecar_has_no_privilege_at_all():
    context = _sidecar(_pod())["securityContext"]
    assert context == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "runAsGroup": 15015,
        "runAsNonRoot": True,
        "runAsUser": 15015,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def test_the_init_container_has_net_admin_and_nothing_else():
    pod = _pod()
    init = inject(pod, decide(pod, OPTIONS))["spec"]["initContainers"][1]
    assert init["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN"]}
    assert init["securityContext"]["privileged"] is False
    assert "volumeMounts" not in init  # and no token


def test_capture_none_needs_no_init_container_and_no_capture_port():
    pod = _pod(capture="none")
    after = inject(pod, decide(pod, OPTIONS))
    assert [one["name"] for one in after["spec"]["initContainers"]] == ["evenstream"]
    assert "EVENSTREAM_CAPTURE" not in {one["name"] for one in after["spec"]["initContainers"][0]["env"]}


def test_the_pods_image_beats_the_installations():
    assert _sidecar(_pod())["image"] == "evenstream-sidecar:test"
    assert _sidecar(_pod(sidecar_image="other:2"))["image"] == "other:2"


def test_a_long_value_is_cut_in_the_warning():
    (warning,) = decide(_pod(services="x" * 5000), OPTIONS).warnings
    assert len(warning) < 400
    assert "evenstream.dev/services" in warning
    assert "NAME:PORT" in warning


def test_a_copied_status_annotation_does_not_pass_for_an_injected_pod():
    pod = _pod()
    pod["metadata"]["annotations"][names.STATUS_ANNOTATION] = "{}"
    after = inject(pod, decide(pod, OPTIONS))
    assert after["spec"]["initContainers"][0]["name"] == "evenstream"
    assert json.loads(after["metadata"]["annotations"][names.STATUS_ANNOTATION])["version"] == "1.2.3"


@pytest.mark.parametrize("annotations", ["text", ["a"], 5])
def test_annotations_that_are_no_map(annotations: Any):
    with pytest.raises(BadPodError, match=r"metadata\.annotations is not a map"):
        decide({"metadata": {"annotations": annotations}, "spec": {}}, OPTIONS)
