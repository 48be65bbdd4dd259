"""The end of a pod with the sidecar: the application's last calls work, and the sidecar ends last, with 0."""

from __future__ import annotations

import json
import subprocess
import time

import pytest
from clusterkit.backends import Backends
from clusterkit.kube import Namespace, wait_for
from clusterkit.things import annotated, client_pod
from figures import Figures

pytestmark = pytest.mark.e2e

CALLS = 20
GRACE_SECONDS = 20


def test_last_calls_in_prestop_and_after_sigterm(
    namespace: Namespace, backends: Backends, figures: Figures
) -> None:
    backends.settled(3)
    burst = f"python client.py burst --calls {CALLS} --json"
    # To the log of the container: preStop's own output goes nowhere.
    tell = f'echo "$1 $({burst})" > /proc/1/fd/1'
    on_term = f"set -- sigterm; {tell}; exit 0"
    pod = client_pod(
        "last-calls",
        annotated(),
        ("sh", "-c", f"trap '{on_term}' TERM; sleep infinity & wait"),
        terminationGracePeriodSeconds=GRACE_SECONDS,
    )
    (container,) = pod["spec"]["containers"]
    container["lifecycle"] = {"preStop": {"exec": {"command": ["sh", "-c", f"set -- prestop; {tell}"]}}}
    namespace.apply(pod)
    namespace.wait_ready("last-calls", 90.0)
    log = namespace.cluster.kubectl.start(
        *("--namespace", namespace.name, "logs", "--follow", "last-calls", "--container=client"),
        stdout=subprocess.PIPE,
    )
    with namespace.api.watch(
        namespace.path("pods", query="fieldSelector=metadata.name%3Dlast-calls")
    ) as watch:
        began = time.monotonic()
        namespace.delete("pods", "last-calls")
        wait_for("the pod is gone", lambda: any(e.kind == "DELETED" for e in watch.events), 60.0)
        seconds = time.monotonic() - began
        last = watch.events[-1].object
    text, _ = log.communicate(timeout=30)
    lines = dict(line.split(" ", 1) for line in text.splitlines() if "{" in line)
    told = {when: json.loads(line) for when, line in lines.items()}
    exits = {
        each["name"]: each["state"].get("terminated", {})
        for each in [*last["status"]["initContainerStatuses"], *last["status"]["containerStatuses"]]
    }
    for when, report in told.items():
        figures.note("pod ends", f"failed of {CALLS} calls, {when}", report["failed"], "0")
    figures.note("pod ends", "from delete to gone", f"{seconds:.1f} s", f"< {GRACE_SECONDS} s")
    figures.note("pod ends", "the sidecar's exit code", exits["evenstream"].get("exitCode"), "0")
    assert set(told) == {"prestop", "sigterm"}, text
    for report in told.values():
        assert report["failed"] == 0, report["errors"]
        assert sum(report["calls"].values()) == CALLS
    assert exits["evenstream"]["exitCode"] == 0, exits
    assert exits["client"]["exitCode"] == 0, exits
    assert exits["client"]["finishedAt"] <= exits["evenstream"]["finishedAt"]
    assert seconds < GRACE_SECONDS
