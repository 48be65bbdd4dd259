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
from injector.admission.removal import uninject

OPTIONS = Options("evenstream-sidecar:test", "1.2.3")
PLAIN = OPTIONS._replace(native_sidecars=False)
NAMESPACE = "shop"
BOTH = st.sampled_from([OPTIONS, PLAIN])

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
                "restartPolicy": st.sampled_from(["Always", "Always", "OnFailure"]),
                "hostAliases": st.lists(
                    st.fixed_dictionaries({"ip": st.just("10.0.0.9"), "hostnames": st.lists(_names)}),
                    max_size=2,
                )
                | st.none(),
                "securityContext": st.dictionaries(st.just("fsGroup"), st.integers(0, 9)),
                "anythingElse": _json,
            },
        ),
    }
)


OUR_CONTAINERS = (names.SIDECAR_CONTAINER, names.INIT_CONTAINER)
OUR_VOLUMES = (names.TOKEN_VOLUME, names.STATE_VOLUME)
OUR_ANNOTATIONS = (names.STATUS_ANNOTATION, "kubectl.kubernetes.io/default-container")


def _injected(pod: dict[str, Any], options: Options = OPTIONS) -> dict[str, Any]:
    return inject(pod, decide(pod, options, NAMESPACE))


@given(PODS, BOTH)
def test_injecting_twice_is_injecting_once(pod: dict[str, Any], options: Options):
    once = _injected(pod, options)
    again = decide(once, options, NAMESPACE)
    assert not again.patch
    assert inject(once, again) == once


@given(
    PODS, BOTH, BOTH, st.lists(st.sampled_from(["init first", "container last", "container first", "volume"]))
)
def test_what_other_injectors_do_between_two_passes_is_left_alone(
    pod: dict[str, Any], options: Options, later: Options, doings: list[str]
):
    """reinvocationPolicy IfNeeded; the second pass may even come from an injector of another mind."""
    once = _injected(pod, options)
    if names.STATUS_ANNOTATION not in once["metadata"]["annotations"]:
        return
    for number, doing in enumerate(doings):
        one = {"name": f"other-{number}", "image": "other:1"}
        if doing == "init first":
            once["spec"]["initContainers"] = [one, *(once["spec"].get("initContainers") or [])]
        elif doing == "container last":
            once["spec"]["containers"].append(one)
        elif doing == "container first":
            once["spec"]["containers"].insert(0, one)
        else:
            once["spec"]["volumes"].insert(0, {"name": one["name"], "emptyDir": {}})
    again = decide(once, later, NAMESPACE)
    assert (list(again.patch), list(again.warnings)) == ([], [])


@given(PODS, BOTH)
def test_nothing_of_the_pods_is_lost_changed_or_moved(pod: dict[str, Any], options: Options):
    before = copy.deepcopy(pod)
    decision = decide(pod, options, NAMESPACE)
    after = inject(pod, decision)
    assert pod == before  # neither changes what it is given
    assert all(operation["op"] == "add" for operation in decision.patch)
    # Taking away what has our names gives the pod back.
    ours = {
        "initContainers": lambda one: one["name"] in OUR_CONTAINERS,
        "containers": lambda one: one["name"] in OUR_CONTAINERS,
        "volumes": lambda one: one["name"] in OUR_VOLUMES,
        "hostAliases": lambda one: one["ip"].startswith("127.64."),
    }
    for key, is_ours in ours.items():
        kept = [one for one in after["spec"].pop(key, None) or [] if not is_ours(one)]
        assert kept == (before["spec"].pop(key, None) or [])
    for key in OUR_ANNOTATIONS:
        after["metadata"]["annotations"].pop(key, None)
    assert after == before


@given(PODS, BOTH)
def test_taking_it_out_again_gives_the_pod_back(pod: dict[str, Any], options: Options):
    for key in ("initContainers", "volumes", "hostAliases"):
        if not pod["spec"].get(key, True):
            del pod["spec"][key]  # an empty list comes back as none
    assert uninject(_injected(pod, options), disable=False) == pod


@given(PODS, BOTH)
def test_a_pod_is_either_whole_or_untouched(pod: dict[str, Any], options: Options):
    decision = decide(pod, options, NAMESPACE)
    assert not (decision.patch and decision.warnings)
    if not decision.patch:
        return
    after = inject(pod, decision)
    status = json.loads(after["metadata"]["annotations"][names.STATUS_ANNOTATION])
    capture = status["capture"]
    assert status["containers"] == [
        names.SIDECAR_CONTAINER,
        *([names.INIT_CONTAINER] * (capture == "iptables")),
    ]
    assert status["image"] == OPTIONS.sidecar_image
    init = [one["name"] for one in after["spec"].get("initContainers") or []]
    main = [one["name"] for one in after["spec"]["containers"]]
    if options.native_sidecars:
        assert init[: len(status["containers"])] == status["containers"]
        assert main == [one["name"] for one in pod["spec"]["containers"]]
    else:
        assert main == ["evenstream", *(one["name"] for one in pod["spec"]["containers"])]
        assert init[len(pod["spec"].get("initContainers") or []) :] == status["containers"][1:]
    # Each listener of capture hosts has an address in /etc/hosts, and each address a listener.
    added = after["spec"].get("hostAliases") or []
    listened = _environment(after).get("EVENSTREAM_LISTEN", "")
    addresses = {address.partition(":")[0] for address in listened.split(",") if address}
    assert {one["ip"] for one in added if one["ip"].startswith("127.64.")} == addresses
    assert bool(addresses) == (capture == "hosts")


def _environment(pod: dict[str, Any]) -> dict[str, str]:
    every = [*(pod["spec"].get("initContainers") or []), *pod["spec"]["containers"]]
    (sidecar,) = (one for one in every if one["name"] == names.SIDECAR_CONTAINER)
    return {one["name"]: one.get("value", "") for one in sidecar["env"]}


@given(st.fixed_dictionaries({"metadata": _json, "spec": _json}) | st.dictionaries(st.text(), _json))
def test_what_is_no_pod_is_an_error_that_says_so_or_left_alone(thing: dict[str, Any]):
    with contextlib.suppress(BadPodError):
        assert not decide(thing, OPTIONS).patch


@given(
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            (
                *("containers", "initContainers", "volumes", "securityContext", "nodeSelector", "os"),
                *("affinity", "hostAliases", "resources", "restartPolicy"),
            ),
            _json,
        ),
    ),
    BOTH,
    st.sampled_from(["iptables", "hosts", "none"]),
)
def test_a_spec_of_the_wrong_shape_never_crashes(spec: dict[str, Any], options: Options, capture: str):
    annotations = {
        names.INJECT_ANNOTATION: "enabled",
        names.ANNOTATION_PREFIX + "capture": capture,
        names.ANNOTATION_PREFIX + "services": "greeter:50051",
    }
    pod = {"metadata": {"annotations": annotations}, "spec": spec}
    with contextlib.suppress(BadPodError):
        decision = decide(pod, options, NAMESPACE)
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


@pytest.mark.parametrize(
    ("grace", "written"),
    [(None, None), (30, None), (300, "298"), (3, "1"), (2, None), (0, None), (10**6, "86400")],
)
def test_streams_may_drain_for_as_long_as_the_pod_may_end(grace: int | None, written: str | None):
    spec: dict[str, Any] = {"containers": [{"name": "a", "image": "a:1"}]}
    if grace is not None:
        spec["terminationGracePeriodSeconds"] = grace
    pod = {"metadata": {"annotations": {names.INJECT_ANNOTATION: "enabled"}}, "spec": spec}
    after = inject(pod, decide(pod, OPTIONS))
    assert _environment(after).get("EVENSTREAM_DRAIN_TIMEOUT") == written


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


def test_an_annotation_that_leaves_no_room_for_the_record_is_a_warning():
    """The API server takes 256 KiB of annotations; the pod was just below."""
    pod = _pod()
    pod["metadata"]["annotations"]["note"] = "x" * (256 * 1024 - 100)
    decision = decide(pod, OPTIONS)
    assert not decision.patch
    (warning,) = decision.warnings
    assert "evenstream.dev/status" in warning
    assert "allowed: 262144" in warning


@pytest.mark.parametrize(
    ("request_", "limit", "fits"),
    [
        ("100m", "0.1", True), ("100m", "0.099", False), ("1", "1000m", True), ("0", "0", True), ("1k", "1000", True),
        ("2", "1999m", False),
    ],
)  # fmt: skip
def test_a_limit_is_at_least_the_request(request_: str, limit: str, fits: bool):
    decision = decide(_pod(sidecar_cpu_request=request_, sidecar_cpu_limit=limit), OPTIONS)
    assert bool(decision.patch) is fits
    assert bool(decision.warnings) is not fits


def test_a_plain_sidecar_leaves_kubectls_default_to_the_application():
    pod = _pod()
    after = inject(pod, decide(pod, PLAIN))
    assert [one["name"] for one in after["spec"]["containers"]] == ["evenstream", "a"]
    assert after["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"] == "a"


def test_a_hundred_services_have_a_hundred_addresses():
    services = ",".join(f"service-{number}:{5000 + number}" for number in range(100))
    pod = _pod(capture="hosts", services=services)
    after = inject(pod, decide(pod, OPTIONS, NAMESPACE))
    aliases = after["spec"]["hostAliases"]
    assert [one["ip"] for one in aliases] == [f"127.64.0.{number}" for number in range(1, 101)]
    assert aliases[7]["hostnames"][0] == "service-7"
