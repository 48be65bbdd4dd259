"""Backends come and go under load, in every way a cluster makes them: no call fails, and long streams end only as
their own server ends them."""

from __future__ import annotations

import time
from typing import Any

import pytest
from clusterkit.backends import Backends, EndpointsWatch
from clusterkit.kube import KubeError, Namespace, wait_for
from clusterkit.load import Load, Totals, Traffic
from clusterkit.things import renamed_greeter, service
from figures import Figures, milliseconds

pytestmark = pytest.mark.e2e

# From two clients together.
RATE = 200
STREAMS = 60
OPEN_SECONDS = 60.0  # 60 streams open one after another in well under 2 s
# A pod that leaves takes preStop and grace; the replacement is ready in about 3 s, more on a busy node.
SETTLE_SECONDS = 90.0
PRE_STOP_SECONDS = 2  # as tests/e2e/greeter has it

FLAPPER = "flapper"
FLAPS = 3
FLAP_SECONDS = 2  # ready and not ready by turns; the kubelet looks every second
# From an EndpointSlice's write to no more new calls, with a report's precision in it: the first is what is told, the
# second what a machine that stops for a moment may make of it.
KNOWN_SECONDS = 0.2
KNOWN_AT_LAST_SECONDS = 0.6


@pytest.fixture(scope="module")
def three(backends: Backends) -> list[str]:
    return backends.settled(3)


def traffic(namespace: Namespace, client: str, other_client: str) -> Traffic:
    return Traffic(namespace, (client, other_client), RATE, STREAMS)


def judge(figures: Figures, scenario: str, totals: Totals, leavers: int) -> None:
    figures.note(scenario, f"calls at {totals.rate:.0f} a second beside {STREAMS} long streams", totals.calls)
    figures.note(scenario, "failed calls and streams", totals.failed, "0")
    figures.note(scenario, "long streams ended, by their own server with OK", totals.ended_by_server)
    assert totals.failed == 0, totals.errors
    # All of those that leave, and nobody else's: two clients spread theirs over three, so each pod has 20; a
    # stream may move more than once, onto a pod that leaves next.
    assert totals.ended_by_server >= leavers * STREAMS // 3


def test_a_rolling_update(
    namespace: Namespace,
    three: list[str],
    backends: Backends,
    client: str,
    other_client: str,
    figures: Figures,
) -> None:
    """A changed template: every pod is replaced."""
    with traffic(namespace, client, other_client) as load:
        load.until_open(three, OPEN_SECONDS)
        namespace.kubectl("set", "env", "deployment/greeter", f"A_NEW_VERSION={time.time_ns()}")
        namespace.kubectl("rollout", "status", "deployment/greeter", "--timeout=120s", seconds=130)
        after = backends.until_settled(3)
        assert not set(three) & set(after)
        load.until_open(after, SETTLE_SECONDS)
        totals = load.finish()
    judge(figures, "rolling update", totals, 3)


def test_kubectl_delete_pod(
    namespace: Namespace, backends: Backends, client: str, other_client: str, figures: Figures
) -> None:
    before = backends.settled(3)
    with traffic(namespace, client, other_client) as load:
        load.until_open(before, OPEN_SECONDS)
        namespace.kubectl("delete", "pod", before[0], "--wait=false")
        wait_for(f"{before[0]} is gone", lambda: before[0] not in backends.endpoints(), SETTLE_SECONDS)
        after = backends.until_settled(3)
        load.until_open(after, SETTLE_SECONDS)
        totals = load.finish()
    judge(figures, "kubectl delete pod", totals, 1)


def test_a_drained_node(
    namespace: Namespace, backends: Backends, client: str, other_client: str, figures: Figures
) -> None:
    """What `kubectl drain` does to pods: they are evicted as their disruption budget allows. The node itself
    stays open, for it is the only one."""
    before = backends.settled(3)
    namespace.apply(
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": "greeter"},
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "greeter"}}},
        }
    )
    with traffic(namespace, client, other_client) as load:
        load.until_open(before, OPEN_SECONDS)
        for pod in before:
            wait_for(
                f"{pod} may be evicted", lambda pod=pod: evicted(namespace, pod), SETTLE_SECONDS, every=0.2
            )
        wait_for("they are gone", lambda: not set(before) & set(backends.endpoints()), SETTLE_SECONDS)
        after = backends.until_settled(3)
        load.until_open(after, SETTLE_SECONDS)
        totals = load.finish()
    namespace.kubectl("delete", "poddisruptionbudget/greeter")
    judge(figures, "drained node", totals, 3)


def evicted(namespace: Namespace, pod: str) -> bool:
    """Ask once; False: the budget does not allow it now."""
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
    status, answer = namespace.api.request("POST", namespace.path("pods", pod) + "/eviction", eviction)
    if status not in (200, 201, 429):
        raise KubeError(f"evict {pod}: HTTP {status}: {answer.get('message', '')}")
    return status != 429


def flapper() -> dict[str, Any]:
    """The greeter's Deployment, of two pods that are ready while /state/ready exists."""
    _, made = renamed_greeter(FLAPPER, 2)
    spec = made["spec"]["template"]["spec"]
    container = spec["containers"][0]
    serve = " ".join(container["command"])
    container["command"] = ["sh", "-c", f"touch /state/ready && exec {serve}"]
    container["readinessProbe"] = {
        "exec": {"command": ["test", "-e", "/state/ready"]},
        "periodSeconds": 1,
        # A busy node may need more than the second that is the default to run it, and that would be a flap of its own.
        "timeoutSeconds": 10,
        "failureThreshold": 1,
    }
    container["volumeMounts"] = [{"name": "state", "mountPath": "/state"}]
    spec["volumes"] = [{"name": "state", "emptyDir": {}}]
    return made


def test_readiness_that_flaps(namespace: Namespace, client: str, figures: Figures) -> None:
    """A pod that is ready and not ready by turns keeps its streams, and gets new ones when it is ready."""
    namespace.apply(service(FLAPPER, {"greetings": 50051}, FLAPPER), flapper())
    namespace.kubectl("rollout", "status", f"deployment/{FLAPPER}", "--timeout=90s", seconds=100)
    flapping, steady = (pod["metadata"]["name"] for pod in namespace.pods(FLAPPER))
    turns = f"for turn in $(seq {FLAPS}); do rm /state/ready; sleep {FLAP_SECONDS}; touch /state/ready; "
    options = ("--target", f"{FLAPPER}:50051", "--rate", "100", "--count", "12")
    with EndpointsWatch(namespace, FLAPPER) as watch, Load(namespace, client, "mix", *options) as load:
        load.until("12 streams, 6 each", lambda now: set(now.open.values()) == {6}, 30.0)
        namespace.execute(flapping, "server", "sh", "-c", f"{turns} sleep {FLAP_SECONDS}; done")
        wait_for("it is ready again", lambda: watch.states()[flapping] == "ready", 10.0)
        counted = load.counted(100, 30.0)
        periods = watch.unready(flapping)
        late, too_late = (
            sum(
                load.since(begin + known, end).get(flapping, 0) for begin, end in periods if end > begin + 1.0
            )
            for known in (KNOWN_SECONDS, KNOWN_AT_LAST_SECONDS)
        )
        report = load.finish()
    namespace.delete("services", FLAPPER)
    namespace.delete("apps/v1/deployments", FLAPPER)
    figures.note("readiness flaps", "times not ready", len(periods), f"{FLAPS}")
    figures.note("readiness flaps", "failed calls and streams", report.failed, "0")
    figures.note("readiness flaps", "streams it kept", f"{report.open.get(flapping, 0)} of 6", "6 of 6")
    after = milliseconds(KNOWN_SECONDS)
    figures.note("readiness flaps", f"calls to it while not ready, from {after} on", late, "0")
    figures.note("readiness flaps", "the next 100 calls", f"{counted.get(flapping)} {counted.get(steady)}")
    assert len(periods) >= FLAPS - 1  # the kubelet's looks and ours may just miss each other
    assert report.failed == 0, report.errors
    assert report.open == {flapping: 6, steady: 6}
    assert too_late == 0, periods
    assert set(counted) == {flapping, steady}


def test_the_last_pods_leave_and_others_come(
    namespace: Namespace, backends: Backends, client: str, figures: Figures
) -> None:
    """Where all that is left is terminating but still serves, it is used, as kube-proxy does. Then calls end with
    the Service's name, and go out as soon as there is a pod again."""
    backends.settled(2)
    named = f"greeter.{namespace.name}:50051"
    with EndpointsWatch(namespace) as watch, Load(namespace, client, "unary", "--rate", "50") as load:
        load.until("calls on both", lambda now: len(now.calls) == 2, 10.0)
        backends.scale(0)
        wait_for("both are terminating", lambda: set(watch.states().values()) == {"terminating"}, 30.0)
        terminating = time.monotonic()
        wait_for("both are gone", lambda: not watch.states(), SETTLE_SECONDS)
        served = load.since(terminating)
        load.until("a call has failed", lambda now: now.failed > 0, 30.0)
        backends.scale(3)
        pods = backends.until_settled(3)
        load.until("calls on all three", lambda now: set(pods) <= set(now.calls), 30.0)
        load.counted(50, 30.0)
        report = load.finish()
        # Not what had failed when this process saw them ready: a report takes its time, and so does what it tells of.
        failed = next(seen.report.failed for seen in load.seen if set(pods) & set(seen.report.calls))
    figures.note("all pods replaced", "calls served while all were terminating", sum(served.values()), "> 0")
    figures.note("all pods replaced", "failed while there was none, each after 2.5 s", failed)
    figures.note("all pods replaced", "failed once one of three had answered", report.failed - failed, "0")
    # preStop keeps them for 2 s, and at 50 a second that is 100 calls.
    assert sum(served.values()) >= PRE_STOP_SECONDS * 50 // 2, served
    assert report.failed == failed, report.errors
    refused = {text: count for text, count in report.errors.items() if named in text}
    assert all(text.startswith("UNAVAILABLE") for text in refused), report.errors
    # grpcio cancels a call that comes in while it stops, and where nobody else is left each of the two may get one.
    assert report.failed - sum(refused.values()) <= 2, report.errors
