"""What becomes of a pod at admission, seen on running pods."""

from __future__ import annotations

import json

import pytest
from clusterkit import mesh
from clusterkit.kube import Namespace, wait_for
from clusterkit.things import IDLE, annotated, client_pod
from figures import Figures

pytestmark = pytest.mark.e2e


def test_a_pod_with_the_annotation_gets_the_sidecar_and_becomes_ready(
    namespace: Namespace, client: str, figures: Figures
) -> None:
    pod = namespace.pod(client)
    ours = {each["name"]: each for each in pod["spec"]["initContainers"]}
    assert list(ours) == ["evenstream", "evenstream-init"]
    assert ours["evenstream"]["restartPolicy"] == "Always"  # a native sidecar
    assert "restartPolicy" not in ours["evenstream-init"]
    assert [each["name"] for each in pod["spec"]["containers"]] == ["client"]

    status = json.loads(pod["metadata"]["annotations"]["evenstream.dev/status"])
    assert status["containers"] == ["evenstream", "evenstream-init"]
    assert status["capture"] == "iptables"

    states = {each["name"]: each for each in pod["status"]["initContainerStatuses"]}
    assert states["evenstream"]["ready"]
    assert "running" in states["evenstream"]["state"]
    assert states["evenstream"]["restartCount"] == 0
    assert states["evenstream-init"]["state"]["terminated"]["exitCode"] == 0
    figures.note("injection", "containers added", ", ".join(ours))


def test_the_redirect_rules_are_in_force_for_both_families(namespace: Namespace, client: str) -> None:
    told = namespace.logs(client, "evenstream-init")
    assert "IPv4: outbound TCP goes to port 15001" in told
    assert "IPv6: outbound TCP goes to port 15001" in told or "IPv6: no" in told, told


def test_a_pod_without_the_annotation_never_reaches_the_webhook(namespace: Namespace) -> None:
    """The injector logs each pod it is asked about, in order: one asked about later is there, these are not."""
    namespace.apply(
        client_pod("did-not-ask", {}),
        client_pod("said-no", annotated(inject="disabled")),
    )
    made = namespace.pod("did-not-ask")
    assert "initContainers" not in made["spec"]
    assert "evenstream.dev/status" not in made["metadata"].get("annotations", {})
    namespace.apply(client_pod("asked-later", annotated()))
    later = f"pod {namespace.name}/asked-later: injected"
    wait_for(
        "the injector logs the pod that asked", lambda: later in mesh.injector_logs(namespace.cluster), 20.0
    )
    logs = mesh.injector_logs(namespace.cluster)
    assert "did-not-ask" not in logs
    assert "said-no" not in logs
    for name in ("did-not-ask", "said-no", "asked-later"):
        namespace.delete("pods", name, grace=0)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"inject": "yes"}, ["evenstream.dev/inject", "'yes'", "allowed: enabled, disabled"]),
        (
            {"exclude_outbound_ports": "http"},
            ["evenstream.dev/exclude-outbound-ports", "'http'", "allowed: ports"],
        ),
        ({"captrue": "none"}, ["evenstream.dev/captrue", "known annotations"]),
        (
            {"capture": "hosts"},
            ["capture hosts needs annotation evenstream.dev/services", "allowed: NAME:PORT"],
        ),
    ],
)
def test_what_is_not_allowed_leaves_the_pod_as_it_is_and_says_so(
    namespace: Namespace, settings: dict[str, str], named: list[str]
) -> None:
    """`kubectl apply` prints the warning that the webhook gives; nothing is blocked."""
    pod = client_pod("refused", annotated(**settings))
    done = namespace.cluster.kubectl.try_(
        "--namespace", namespace.name, "apply", "-f", "-", stdin=json.dumps(pod)
    )
    made = namespace.pod("refused")
    namespace.delete("pods", "refused", grace=0)
    namespace.wait_gone("pods", "refused", 30.0)
    assert done.returncode == 0, done.stderr
    assert "Warning: evenstream: pod left without the sidecar" in done.stderr
    for text in named:
        assert text in done.stderr
    assert "initContainers" not in made["spec"]
    assert "evenstream.dev/status" not in made["metadata"]["annotations"]


def test_a_pod_that_ends_is_not_held_by_its_sidecar(namespace: Namespace) -> None:
    """As a Job's pod: when its last container has ended, the kubelet ends the sidecar, which ends with 0."""
    burst = ("python", "client.py", "burst", "--calls", "30")
    namespace.apply(client_pod("ends", annotated(), burst, restartPolicy="Never"))
    pod = wait_for(
        "the pod has ended",
        lambda: (
            namespace.pod("ends")
            if namespace.pod("ends")["status"]["phase"] in ("Succeeded", "Failed")
            else None
        ),
        120.0,
    )
    assert pod is not None
    assert pod["status"]["phase"] == "Succeeded", namespace.logs("ends", "client")
    (sidecar,) = (each for each in pod["status"]["initContainerStatuses"] if each["name"] == "evenstream")
    assert sidecar["state"]["terminated"]["exitCode"] == 0
    namespace.delete("pods", "ends", grace=0)


def test_the_application_starts_after_the_sidecar_takes_connections(namespace: Namespace) -> None:
    """Its first call, made at once, succeeds; so does one of an init container of its own."""
    call = ["python", "client.py", "burst", "--calls", "3", "--json"]
    pod = client_pod("first-call", annotated(), ("sh", "-c", f"{' '.join(call)} && {IDLE[2]}"))
    first = {**pod["spec"]["containers"][0], "name": "own-init", "command": call}
    pod["spec"]["initContainers"] = [first]
    namespace.apply(pod)
    namespace.wait_ready("first-call", 90.0)
    for container in ("own-init", "client"):
        done = wait_for(
            f"{container} has made its calls",
            lambda container=container: [  # type: ignore[misc]
                line for line in namespace.logs("first-call", container).splitlines() if line.startswith("{")
            ],
            30.0,
        )
        told = json.loads(done[-1])
        assert told["failed"] == 0, told
        assert sum(told["calls"].values()) == 3
    namespace.delete("pods", "first-call")
