"""`evenstream check`: asks the cluster, in the order in which things can go wrong."""

from __future__ import annotations

import datetime
import ssl
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import click

from contract import names
from injector.cli import codes, installation, lines, options, policies, screen
from injector.cli.cluster import ApiError, Cluster, namespaced, open_cluster
from injector.cli.forward import forward, peer_certificate
from injector.cli.found import WEBHOOK_CONFIGURATION, find_policy
from injector.cli.lines import Line
from injector.cli.pods import asks, is_ready, status_of

# matchConditions are on by default from 1.28, native sidecars from 1.29.
OLDEST: Final = (1, 28)
NATIVE_SIDECARS: Final = (1, 29)
KUBERNETES: Final = "Kubernetes"
SYSTEM: Final = names.SYSTEM_NAMESPACE
# (verb, resource, group, namespace): what `kubectl apply -k manifests/` does.
TO_INSTALL: Final = (
    ("create", "namespaces", "", ""),
    ("create", "serviceaccounts", "", SYSTEM),
    ("create", "services", "", SYSTEM),
    ("create", "deployments", "apps", SYSTEM),
    ("create", "poddisruptionbudgets", "policy", SYSTEM),
    ("create", "roles", "rbac.authorization.k8s.io", SYSTEM),
    ("create", "rolebindings", "rbac.authorization.k8s.io", SYSTEM),
    ("create", "clusterroles", "rbac.authorization.k8s.io", ""),
    ("create", "clusterrolebindings", "rbac.authorization.k8s.io", ""),
    ("create", "mutatingwebhookconfigurations", "admissionregistration.k8s.io", ""),
)
# What a sidecar does as its pod's service account.
TO_DISCOVER: Final = (("services", ""), ("endpointslices", "discovery.k8s.io"))
REVIEWS: Final = "/apis/authorization.k8s.io/v1"

Json = dict[str, Any]


@click.command(
    cls=options.Command,
    short_help="Is the cluster ready for Evenstream, is it installed, does it work?",
    examples=(
        ("evenstream check --pre", "before an install: versions and rights"),
        ("evenstream check -n shop", "after it, for the pods of namespace shop"),
        ("evenstream check -n shop --capture hosts -o json", "for programs"),
    ),
    exits=(codes.OK, codes.FOUND, codes.USAGE, codes.CLUSTER),
)
@click.option("--pre", is_flag=True, help="Check what an install needs, whether or not there is one.")
@options.namespace("Check that pods of this namespace can have the sidecar; else the kubeconfig's namespace.")
@click.option(
    "--capture",
    type=click.Choice(sorted(policies.FITS)),
    help="The capture mode you mean to use in the namespace. [default: iptables]",
)
@options.cluster
@options.output("text", "json")
def check(pre: bool, namespace: str, capture: str | None, context: str, kubeconfig: str, output: str) -> int:
    """Check the cluster, the installation and a namespace. Each line that failed says what to do.

    Nothing is changed. The pod that is tried is a dry run, which the API server sends through all of its
    admission and does not keep.
    """
    cluster = open_cluster(context, kubeconfig)
    found = list(Checks(cluster, namespace or cluster.namespace, capture).run(pre=pre))
    if output == "json":
        screen.print_json(lines.as_json(found))
    else:
        lines.show(found)
    return codes.FOUND if lines.failed(found) else codes.OK


class Checks:
    """All checks of one run. A look that the API server does not allow is a skipped line, not a failure."""

    def __init__(self, cluster: Cluster, namespace: str, capture: str | None) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._capture = capture
        self._section = f"Namespace {namespace}"
        self._webhook: Json | None = None
        self._policy: Json | None = None
        self._deployment: Json | None = None

    def run(self, *, pre: bool) -> Iterable[Line]:
        """Raises ApiError if the cluster does not answer at all."""
        yield self._version()
        yield from self._looked(KUBERNETES, "nodes", self._nodes)
        try:
            self._webhook = self._cluster.find(WEBHOOK_CONFIGURATION)
            self._policy = find_policy(self._cluster)
            self._deployment = self._cluster.find(
                namespaced("deployments", SYSTEM, installation.NAME, "apps/v1")
            )
        except ApiError as error:
            yield _skipped(installation.SECTION, "what is installed", error)
        served = self._webhook is not None or self._deployment is not None
        installed = served or self._policy is not None
        if pre or not installed:
            yield from self._looked(KUBERNETES, "rights to install", self._rights)
        if not installed:
            text = f"there is no {installation.NAME} in this cluster"
            level: lines.Level = "note" if pre else "failed"
            yield Line(installation.SECTION, "installed", level, text, "kubectl apply -k manifests/")
        if self._policy is not None:
            yield from self._looked(installation.SECTION, "policy", self._bound)
        if served:
            yield from self._installation()
        yield from self._of_namespace(installed)
        if installed:
            yield from self._looked("Pods", "sidecars", self._pods)

    def _looked(self, section: str, name: str, look: Callable[[], Iterable[Line]]) -> Iterable[Line]:
        try:
            yield from look()
        except ApiError as error:
            yield _skipped(section, name, error)

    # Kubernetes

    def _version(self) -> Line:
        told = self._cluster.get("/version")
        version = _number(told)
        text = f"{told.get('gitVersion')} at {self._cluster.host}"
        if version < OLDEST:
            do = "webhooks have no matchConditions before 1.28, so every pod would wait for the injector; upgrade"
            return Line(KUBERNETES, "API server", "failed", text, do)
        if version < NATIVE_SIDECARS:
            do = (
                "there are no native sidecars before 1.29: pods get a plain one, which Jobs wait for; upgrade"
            )
            return Line(KUBERNETES, "API server", "warning", text, do)
        return Line(KUBERNETES, "API server", "ok", text)

    def _nodes(self) -> Iterable[Line]:
        found = list(self._cluster.list("/api/v1/nodes"))
        infos = [(node.get("status") or {}).get("nodeInfo") or {} for node in found]
        linux = [info for info in infos if info.get("operatingSystem", "linux") == "linux"]
        old = [info for info in linux if _kubelet(info) < NATIVE_SIDECARS]
        text = f"{len(linux)} with Linux"
        if len(infos) > len(linux):
            text += f", {len(infos) - len(linux)} with another system, whose pods are left alone"
        if old:
            do = "upgrade their kubelets: before 1.29 a native sidecar is run as an init container, and waited for"
            yield Line(KUBERNETES, "nodes", "failed", f"{text}, {len(old)} older than 1.29", do)
        else:
            yield Line(KUBERNETES, "nodes", "ok", text)

    def _rights(self) -> Iterable[Line]:
        missing = []
        for verb, resource, group, namespace in TO_INSTALL:
            attributes = {"verb": verb, "resource": resource, "group": group, "namespace": namespace}
            body = {"spec": {"resourceAttributes": attributes}}
            told = self._cluster.create(f"{REVIEWS}/selfsubjectaccessreviews", body).object
            if not told.get("status", {}).get("allowed"):
                missing.append(resource)
        if missing:
            text = f"you may not create {', '.join(missing)}"
            do = "install as a cluster administrator, or have those rights given"
            yield Line(KUBERNETES, "rights to install", "failed", text, do)
        else:
            yield Line(KUBERNETES, "rights to install", "ok", "you may create everything in manifests/")

    # The installation

    def _installation(self) -> Iterable[Line]:
        if self._deployment is None:
            text = f"there is no Deployment {SYSTEM}/{installation.NAME}"
            yield Line(installation.SECTION, "injector", "failed", text, installation.APPLY_AGAIN)
        else:
            yield installation.deployment(self._deployment)
        yield from installation.webhook(self._webhook)
        yield from self._looked(installation.SECTION, "certificate", self._certificate)

    def _bound(self) -> Iterable[Line]:
        assert self._policy is not None
        binding = find_policy(self._cluster, "mutatingadmissionpolicybindings")
        yield installation.policy(self._policy, binding)

    def _certificate(self) -> Iterable[Line]:
        """What an injector's pod shows to those who call it."""
        authority = installation.authority(self._webhook)
        query = {"labelSelector": f"app.kubernetes.io/name={installation.NAME}"}
        pods = [pod for pod in self._cluster.list(namespaced("pods", SYSTEM), **query) if is_ready(pod)]
        if not pods or not authority:
            text = "no pod of the injector is ready" if authority else "the webhook trusts no CA"
            yield Line(installation.SECTION, "certificate", "skipped", text)
            return
        pod = pods[0]["metadata"]["name"]
        try:
            der = peer_certificate(
                forward(self._cluster, SYSTEM, pod, installation.PORT), authority, installation.DNS_NAME
            )
        except ssl.SSLError as error:
            text = f"pod {pod} shows one that the webhook's CA does not verify: {error.reason or error}"
            do = f"the injector mends this within a minute; else: kubectl -n {SYSTEM} rollout restart deploy"
            yield Line(installation.SECTION, "certificate", "failed", text, do)
        except OSError as error:
            raise ApiError(f"pod {pod} does not answer: {error}") from None
        else:
            yield installation.certificate(der, datetime.datetime.now(datetime.UTC))

    # The namespace

    def _of_namespace(self, installed: bool) -> Iterable[Line]:
        try:
            found = self._cluster.find(f"/api/v1/namespaces/{self._namespace}")
        except ApiError as error:
            yield _skipped(self._section, "labels", error)
            found = {}
        if found is None:
            text = f"there is no namespace {self._namespace}"
            yield Line(self._section, "exists", "failed", text, "name another with -n")
            return
        labels = (found.get("metadata") or {}).get("labels") or {}
        if found:
            asked = self._capture is not None
            yield policies.pod_security(self._section, labels, self._capture or "iptables", asked=asked)
        yield from self._looked(self._section, "discovery", self._discovery)
        if not installed:
            return
        callers = installation.callers(self._webhook, self._policy)
        left_out = installation.excluded(callers, self._namespace, labels)
        if left_out:
            yield Line(
                self._section, "injection", "note", left_out, "pods here never get the sidecar; use another"
            )
            return
        yield from self._looked(self._section, "injection", self._injection)

    def _discovery(self) -> Iterable[Line]:
        """Whether a sidecar may read what it spreads over, as the service account `default` of the namespace."""
        missing = []
        for resource, group in TO_DISCOVER:
            for verb in ("list", "watch"):
                body = {
                    "spec": {
                        "user": f"system:serviceaccount:{self._namespace}:default",
                        "groups": [
                            "system:serviceaccounts",
                            f"system:serviceaccounts:{self._namespace}",
                            "system:authenticated",
                        ],
                        "resourceAttributes": {
                            "verb": verb,
                            "resource": resource,
                            "group": group,
                            "namespace": self._namespace,
                        },
                    }
                }
                told = self._cluster.create(f"{REVIEWS}/subjectaccessreviews", body).object
                if not told.get("status", {}).get("allowed"):
                    missing.append(f"{verb} {resource}")
        if missing:
            text = f"service accounts here may not {', '.join(missing)}: sidecars would know no endpoints"
            do = f"install first, or give them the ClusterRole evenstream-sidecar in {self._namespace}"
            yield Line(
                self._section, "discovery", "failed" if self._webhook or self._policy else "note", text, do
            )
        else:
            yield Line(
                self._section, "discovery", "ok", "service accounts here may read Services and endpoints"
            )

    def _injection(self) -> Iterable[Line]:
        """The proof: a pod that asks, sent through the API server's admission and not kept."""
        path = namespaced("pods", self._namespace)
        try:
            made = self._cluster.create(path, probe(), dryRun="All")
        except ApiError as error:
            do = "a pod that asks for nothing more than the sidecar is refused here; the message says by what"
            yield Line(self._section, "injection", "warning", str(error), do)
            return
        status = status_of(made.object)
        if status is None:
            said = "; ".join(made.warnings) or "a pod that asks does not get the sidecar"
            do = installation.NOT_CALLED if self._policy is None else installation.NOT_RUN
            yield Line(self._section, "injection", "failed", said, do)
        else:
            text = f"a pod that asks gets {status.get('image')}, version {status.get('version')} (dry run)"
            yield Line(self._section, "injection", "ok", text)

    # Pods

    def _pods(self) -> Iterable[Line]:
        """Which sidecars run, and who asked and has none."""
        versions: Counter[str] = Counter()
        without: list[str] = []
        for pod in self._cluster.list("/api/v1/pods"):
            metadata = pod.get("metadata") or {}
            status = status_of(pod)
            if status is not None:
                versions[str(status.get("version"))] += 1
            elif asks(pod):
                without.append(f"{metadata.get('namespace')}/{metadata.get('name')}")
        yield from _versions(versions)
        if without:
            shown = ", ".join(without[:3]) + (f" and {len(without) - 3} more" if len(without) > 3 else "")
            do = f"see why: evenstream explain -n {without[0].replace('/', ' ')}"
            yield Line("Pods", "without it", "warning", f"asked and have none: {shown}", do)


def _versions(versions: Mapping[str, int]) -> Iterable[Line]:
    ours = names.VERSION
    if not versions:
        yield Line("Pods", "sidecars", "note", "no pod has one yet")
        return
    told = ", ".join(f"{count} of version {version}" for version, count in sorted(versions.items()))
    if set(versions) == {ours}:
        yield Line("Pods", "sidecars", "ok", told)
    else:
        do = f"this command is {ours}; kubectl rollout restart gives pods the injector's"
        yield Line("Pods", "sidecars", "note", told, do)


def probe() -> Json:
    """A pod that fits any policy by itself, and asks for the sidecar in the mode that needs no privilege."""
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {"name": "check", "image": "evenstream-check:none", "securityContext": security}
    annotations = {names.INJECT_ANNOTATION: "enabled", names.ANNOTATION_PREFIX + "capture": "none"}
    pod_security = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "evenstream-check-", "annotations": annotations},
        "spec": {"containers": [container], "securityContext": pod_security},
    }


def _skipped(section: str, name: str, error: ApiError) -> Line:
    return Line(section, name, "skipped", f"cannot be looked at: {error}")


def _number(told: Mapping[str, Any]) -> tuple[int, int]:
    """("1", "29+") of managed clusters too."""
    digits = "".join(c for c in str(told.get("minor", "0")) if c.isdigit())
    return int(told.get("major") or 0), int(digits or 0)


def _kubelet(info: Mapping[str, Any]) -> tuple[int, int]:
    parts = str(info.get("kubeletVersion", "v0.0")).lstrip("v").split(".")
    return (
        (int(parts[0]), int(parts[1]))
        if len(parts) > 1 and parts[0].isdigit() and parts[1].isdigit()
        else (0, 0)
    )
