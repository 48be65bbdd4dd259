"""Unmodified clients of four languages, each with one channel to the address as its author would write it: in a
namespace that enforces Pod Security "restricted" (capture: hosts), and redirected (capture: iptables)."""

from __future__ import annotations

import os
from collections.abc import Iterator

import foreign_clients
import pytest
from clusterkit import mesh
from clusterkit.kube import Cluster, Namespace, wait_for
from clusterkit.load import max_over_mean
from clusterkit.things import annotated, service
from figures import Figures
from foreign_clients import CLIENTS, PORT, SERVICE
from interop_build import ToolMissingError

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        not os.environ.get("E2E_LONG"), reason="an image of 300 MB and a minute: make e2e-long"
    ),
]

NAMESPACE = "evenstream-e2e-stacks"
LABELS = {"pod-security.kubernetes.io/enforce": "restricted"}
CALLS = 300
SERVERS = 3
EVEN = 1.05
READY_SECONDS = 120.0
CLIENT_SECONDS = 120.0


@pytest.fixture(scope="module")
def stacks(installed: Cluster) -> Iterator[Namespace]:
    """A restricted namespace with three servers, and a client pod in it."""
    try:
        foreign_clients.build_image()
    except ToolMissingError as error:
        if os.environ.get("EVENSTREAM_REQUIRE_INTEROP") == "1":
            raise
        pytest.skip(str(error))
    made = mesh.make_namespace(installed, NAMESPACE)
    installed.api.patch(f"/api/v1/namespaces/{NAMESPACE}", {"metadata": {"labels": LABELS}})
    made.apply(
        service(SERVICE, {"main": PORT}, SERVICE),
        foreign_clients.servers(SERVERS),
        foreign_clients.idle_pod("hosts", annotated(capture="hosts", services=f"{SERVICE}:{PORT}")),
    )
    wait_for(
        f"{SERVERS} ready servers",
        lambda: list(made.endpoints(SERVICE).values()) == ["ready"] * SERVERS,
        READY_SECONDS,
    )
    made.wait_ready("hosts", READY_SECONDS)
    yield made
    mesh.delete_namespace(installed, NAMESPACE)


@pytest.fixture(scope="module")
def redirected(namespace: Namespace, stacks: Namespace) -> Iterator[str]:
    """A client pod elsewhere, with the default capture."""
    namespace.apply(foreign_clients.idle_pod("redirected", annotated()))
    namespace.wait_ready("redirected", READY_SECONDS)
    yield "redirected"
    namespace.delete("pods", "redirected", grace=0)


def streams(namespace: Namespace, pod: str) -> dict[str, int]:
    """By server, the streams that the pod's sidecar gave it so far."""
    return {
        endpoint["pod"]: endpoint["streams_total"]
        for each in namespace.sidecar_status(pod)["services"]
        if each["name"] == SERVICE
        for endpoint in each["endpoints"]
    }


def spread(namespace: Namespace, pod: str, stack: str, host: str) -> dict[str, int]:
    before = streams(namespace, pod)
    words = foreign_clients.command(stack, host, CALLS)
    namespace.execute(pod, "client", *words, seconds=CLIENT_SECONDS)  # raises if a call failed
    after = streams(namespace, pod)
    return {server: count - before.get(server, 0) for server, count in after.items()}


def judge(figures: Figures, capture: str, stack: str, counts: dict[str, int]) -> None:
    each = " ".join(str(count) for count in sorted(counts.values(), reverse=True))
    figures.note(f"capture {capture}, {stack}", f"{CALLS} calls over {SERVERS} pods, per pod", each, "even")
    figures.note(f"capture {capture}, {stack}", "failed calls", 0, "0")
    assert sum(counts.values()) == CALLS
    assert max_over_mean(counts, SERVERS) <= EVEN


@pytest.mark.parametrize("stack", CLIENTS)
def test_in_a_restricted_namespace_by_hosts(stacks: Namespace, figures: Figures, stack: str) -> None:
    judge(figures, "hosts, restricted", stack, spread(stacks, "hosts", stack, SERVICE))


@pytest.mark.parametrize("stack", CLIENTS)
def test_redirected_by_iptables(namespace: Namespace, redirected: str, figures: Figures, stack: str) -> None:
    counts = spread(namespace, redirected, stack, f"{SERVICE}.{NAMESPACE}")
    judge(figures, "iptables", stack, counts)
