"""`evenstream explain POD`: one pod, its sidecar, and where its streams go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import click
from rich.text import Text

from contract import names
from injector.cli import codes, installation, options, reasons, screen, show
from injector.cli.cluster import ApiError, Cluster, namespaced, open_cluster
from injector.cli.forward import AdminPort
from injector.cli.found import WEBHOOK_CONFIGURATION, find_policy
from injector.cli.pods import container_state
from injector.cli.reasons import Surroundings, Why

OWNERS: Final = {
    "ReplicaSet": ("replicasets", "apps/v1"),
    "Deployment": ("deployments", "apps/v1"),
    "StatefulSet": ("statefulsets", "apps/v1"),
    "DaemonSet": ("daemonsets", "apps/v1"),
    "Job": ("jobs", "batch/v1"),
    "CronJob": ("cronjobs", "batch/v1"),
}
# Deployment -> ReplicaSet -> pod; others may nest theirs once more.
MAX_OWNERS: Final = 3
EXCLUSIONS: Final = ("exclude-outbound-ports", "exclude-outbound-cidrs")

Json = dict[str, Any]


@click.command(
    cls=options.Command,
    short_help="Why a pod has the sidecar or not, and where its streams go.",
    examples=(
        ("evenstream explain web-7d9c6b5f4-x2x8p -n shop", "one pod"),
        ("evenstream explain web-7d9c6b5f4-x2x8p -o json | jq .services", "for programs"),
    ),
    exits=(codes.OK, codes.FOUND, codes.USAGE, codes.CLUSTER),
)
@click.argument("pod", shell_complete=options.complete("pods"))
@options.namespace("The pod's namespace; else the kubeconfig's.")
@options.cluster
@options.output("text", "json")
def explain(pod: str, namespace: str, context: str, kubeconfig: str, output: str) -> int:
    """Tell why a pod was injected or not, what its sidecar knows, and what it does with it.

    For each Service: its endpoints, from which source and how old that is, and why an endpoint is left out. Then the
    connections that are passed through as they came, and why. Ends with 1 if the pod asks for the sidecar and has
    none that works.
    """
    cluster = open_cluster(context, kubeconfig)
    where = namespace or cluster.namespace
    found = cluster.find(namespaced("pods", where, pod.removeprefix("pod/").removeprefix("pods/")))
    if found is None:
        raise codes.CliError(
            f"there is no pod {pod} in namespace {where}; see kubectl get pods -n {where}", codes.USAGE
        )
    told = Explanation(cluster, found)
    if output == "json":
        screen.print_json(told.as_json())
    else:
        told.show()
    return codes.OK if told.fine() else codes.FOUND


class Explanation:
    """Asks what is to be known. What may not be looked at is left out, and said."""

    def __init__(self, cluster: Cluster, pod: Json) -> None:
        self._cluster = cluster
        self._pod = pod
        metadata = pod["metadata"]
        self._namespace: str = metadata["namespace"]
        self._name: str = metadata["name"]
        self._annotations: Mapping[str, str] = metadata.get("annotations") or {}
        self._notes: list[str] = []
        self.why: Why = reasons.injection(pod, self._surroundings())
        self.containers = container_state(pod) if self.why.injected else []
        self.status = self._status() if self.why.injected else None
        self.left_out = {
            each["service"]: self._left_out(each) for each in (self.status or {}).get("services", ())
        }

    def fine(self) -> bool:
        if not self.why.injected:
            return not self.why.wanted
        return self.status is not None and self.status.get("state") == "ready"

    def _surroundings(self) -> Surroundings:
        namespace = self._look(lambda: self._cluster.find(f"/api/v1/namespaces/{self._namespace}")) or {}
        before = len(self._notes)
        webhook = self._look(lambda: self._cluster.find(WEBHOOK_CONFIGURATION))
        policy = self._look(lambda: find_policy(self._cluster))
        return Surroundings(
            callers=installation.callers(webhook, policy),
            namespace_labels=(namespace.get("metadata") or {}).get("labels") or {},
            owner=self._owner(self._pod),
            callers_known=len(self._notes) == before,
        )

    def _look(self, ask: Any) -> Any:
        try:
            return ask()
        except ApiError as error:
            self._notes.append(str(error))
            return None

    def _owner(self, thing: Json) -> Json | None:
        """The outermost controller that we know."""
        owner = None
        for _ in range(MAX_OWNERS):
            references = (thing.get("metadata") or {}).get("ownerReferences") or []
            reference = next((one for one in references if one.get("controller")), None)
            if reference is None or reference.get("kind") not in OWNERS:
                break
            kind, group = OWNERS[reference["kind"]]
            path = namespaced(kind, self._namespace, reference["name"], group)
            found: Json | None = self._look(lambda path=path: self._cluster.find(path))
            if found is None:
                break
            owner = thing = {"kind": reference["kind"], **found}
        return owner

    def _status(self) -> Json | None:
        with AdminPort(self._cluster, self._namespace, self._name) as admin:
            found: Json | None = self._look(admin.status)
            return found

    def _left_out(self, service: Json) -> list[reasons.LeftOut]:
        namespace, name = service["namespace"], service["name"]
        selector = f"kubernetes.io/service-name={name}"
        slices = namespaced("endpointslices", namespace, group="discovery.k8s.io/v1")
        found = self._look(lambda: list(self._cluster.list(slices, labelSelector=selector)))
        about = self._look(lambda: self._cluster.find(namespaced("services", namespace, name)))
        used = [endpoint["address"] for endpoint in service["endpoints"]]
        return reasons.left_out(about, found or (), service["port"], used)

    def as_json(self) -> Json:
        status = self.status or {}
        return {
            "namespace": self._namespace,
            "pod": self._name,
            **self.why._asdict(),
            "containers": self.containers,
            "excluded": self._excluded(),
            "sidecar": {key: status.get(key) for key in ("state", "reason", "build", "source")}
            if status
            else None,
            "services": [
                {**each, "left_out": [one._asdict() for one in self.left_out[each["service"]]]}
                for each in status.get("services", ())
            ],
            "connections": status.get("connections"),
            "notes": self._notes,
        }

    def _excluded(self) -> Json:
        keys = {name: names.ANNOTATION_PREFIX + name for name in EXCLUSIONS}
        return {name: self._annotations[key] for name, key in keys.items() if key in self._annotations}

    def show(self) -> None:
        terminal = screen.console()
        style = "green" if self.why.injected else "red" if self.why.wanted else "yellow"
        terminal.print(
            Text.assemble((f"Pod {self._namespace}/{self._name}: ", "bold"), (self.why.text, style))
        )
        if self.why.do:
            terminal.print(Text(f"  -> {self.why.do}", "bold"))
        for line in self.containers:
            terminal.print(f"  container {line['name']}: {line['state']}")
        for name, text in self._excluded().items():
            terminal.print(f"  {name}: {text} (never redirected, so not counted below)")
        if self.status is not None:
            show.sidecar(terminal, self.status)
            for service in self.status["services"]:
                show.service(terminal, service, self.left_out[service["service"]])
            show.connections(terminal, self.status["connections"])
        for note in self._notes:
            terminal.print(Text(f"\ncould not look: {note}", "yellow"))
