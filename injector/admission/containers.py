"""What is added to a pod: the sidecar, the container that sets the redirect rules, and their volumes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from contract import names, settings
from contract.values import MAX_SECONDS
from injector.admission.shape import as_map, pod_budget

# A pod may have IPv4, IPv6 or both, and the kubelet's probes come to whichever is the pod's first address.
# [::] without IPV6_V6ONLY serves both; the admin port itself shows no more than health and metrics off
# the loopback.
ADMIN_ADDRESS: Final = f"[::]:{names.ADMIN_PORT}"
# Container port names have 15 characters at most. A PodMonitor finds the metrics by this one.
ADMIN_PORT_NAME: Final = "evenstream"

# The sidecar starts in well under a second; the probe's smallest period is 1 s. 60 s cover a node that
# starts a hundred pods at once; after that the kubelet restarts the sidecar.
STARTUP_PERIOD_SECONDS: Final = 1
STARTUP_FAILURES: Final = 60
# One loop serves streams and probes: under full load an answer may take long without anything being wrong.
PROBE_TIMEOUT_SECONDS: Final = 5
READINESS_PERIOD_SECONDS: Final = 5
READINESS_FAILURES: Final = 3
# 30 s without an answer is a loop that hangs, not one that is busy.
LIVENESS_PERIOD_SECONDS: Final = 10
LIVENESS_FAILURES: Final = 3

# The kubelet replaces the token when 80 % of this has passed; shorter than 600 is refused by the API server.
TOKEN_SECONDS: Final = 3600
# Readable by all in this pod, as the kubelet's own token volume is: it cannot be owned by our user without
# an fsGroup, which belongs to the pod. It is mounted in our container alone.
TOKEN_MODE: Final = 0o644
# Of the state volume: the one file there has 4 MiB at most (sidecar/discovery/saved.py), and for a moment twice that.
STATE_SIZE: Final = "16Mi"

# A plain sidecar holds back the containers after it until it answers (`sidecar.gate`), and its end until
# the application's connections have gone, or this long: 5 s of the default grace period are left to drain.
PLAIN_STOP_SECONDS: Final = 25

# The sidecar cuts what is left, and ends as it should, so long before the kubelet would kill it.
DRAIN_MARGIN_SECONDS: Final = 2
DEFAULT_GRACE_SECONDS: Final = 30  # Kubernetes' own; the sidecar's default fits it

# Settings that the sidecar reads from its environment and that an annotation may set. Unset ones are not
# written, so that a sidecar of another version keeps its own defaults.
_PASSED_ON: Final = tuple(s for s in settings.SETTINGS if s.annotation and s.env)

Json = dict[str, Any]


def resources(values: Mapping[str, Any], spec: Mapping[str, Any]) -> Json:
    """requests and limits from the parsed annotations; a limit that is unset is left out, and so is what the
    pod has a budget for, which all its containers draw from."""
    budget = pod_budget(spec)
    found: Json = {}
    for bound in ("request", "limit"):
        for kind in ("cpu", "memory"):
            figure = values[f"sidecar-{kind}-{bound}"]
            if figure and kind not in budget:
                found.setdefault(f"{bound}s", {})[kind] = figure
    return found


def _locked_down(spec: Mapping[str, Any], **more: Any) -> Json:
    found = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "seccompProfile": {"type": "RuntimeDefault"},
        **more,
    }
    # A profile that was written for the application knows nothing of this program. The node has AppArmor,
    # or the pod could not run there anyhow; elsewhere a profile asked for would keep the pod from starting.
    profile = as_map(as_map(spec.get("securityContext")).get("appArmorProfile"))
    if profile.get("type") == "Localhost":
        found["appArmorProfile"] = {"type": "RuntimeDefault"}
    return found


def _probe(path: str, period: int, failures: int) -> Json:
    return {
        "httpGet": {"path": path, "port": names.ADMIN_PORT, "scheme": "HTTP"},
        "periodSeconds": period,
        "timeoutSeconds": PROBE_TIMEOUT_SECONDS,
        "failureThreshold": failures,
    }


def drain_timeout(grace: object) -> str:
    """For the pod's terminationGracePeriodSeconds; "" where the sidecar's default fits it."""
    if not isinstance(grace, int) or grace <= DRAIN_MARGIN_SECONDS or grace == DEFAULT_GRACE_SECONDS:
        return ""
    return str(min(grace - DRAIN_MARGIN_SECONDS, MAX_SECONDS))


def environment(
    annotations: Mapping[str, str], values: Mapping[str, Any], listen: str = "", drain: str = ""
) -> list[Json]:
    """EVENSTREAM_* for the sidecar; `listen`: the listeners of `capture: hosts`, `drain`: its drain timeout.
    The namespace comes from the downward API: a pod made by a controller has none yet at admission, and a
    manifest given to `inject` may be applied to any."""
    fixed = {"source": "kubernetes", "admin": ADMIN_ADDRESS, "state-dir": names.STATE_DIR}
    if values["capture-mode"] == "iptables":
        fixed["capture"] = str(names.CAPTURE_PORT)
    if listen:
        fixed["listen"] = listen
    if drain:
        fixed["drain-timeout"] = drain
    given = {s.name: annotations[s.annotation] for s in _PASSED_ON if s.annotation in annotations}
    written: list[Json] = [
        {"name": settings.BY_NAME[name].env, "value": text} for name, text in {**fixed, **given}.items()
    ]
    namespace = {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
    return [*written, {"name": settings.BY_NAME["namespace"].env, "valueFrom": namespace}]


def sidecar(
    annotations: Mapping[str, str],
    values: Mapping[str, Any],
    spec: Mapping[str, Any],
    image: str,
    *,
    listen: str = "",
    native: bool = True,
) -> Json:
    """The native sidecar (KEP-753), an init container with restartPolicy Always; or, for clusters without
    those, a container that is to stand before all others.

    Startup asks /livez, not /readyz: the application starts as soon as the sidecar takes connections, even
    where endpoints cannot be learnt (it then passes connections through). Readiness asks /readyz, which
    stays true once discovery has answered: a rollout whose sidecars learn nothing halts, and an API server
    that fails later takes no pod out of service.
    """
    start = {"restartPolicy": "Always"} if native else {"lifecycle": _gate()}
    return {
        "name": names.SIDECAR_CONTAINER,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        **start,
        "env": environment(
            annotations, values, listen, drain_timeout(spec.get("terminationGracePeriodSeconds"))
        ),
        "ports": [{"name": ADMIN_PORT_NAME, "containerPort": names.ADMIN_PORT, "protocol": "TCP"}],
        "startupProbe": _probe("/livez", STARTUP_PERIOD_SECONDS, STARTUP_FAILURES),
        "readinessProbe": _probe("/readyz", READINESS_PERIOD_SECONDS, READINESS_FAILURES),
        "livenessProbe": _probe("/livez", LIVENESS_PERIOD_SECONDS, LIVENESS_FAILURES),
        "resources": resources(values, spec),
        "securityContext": _locked_down(
            spec, runAsNonRoot=True, runAsUser=names.SIDECAR_UID, runAsGroup=names.SIDECAR_GID
        ),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": names.TOKEN_VOLUME, "mountPath": names.SERVICE_ACCOUNT_DIR, "readOnly": True},
            {"name": names.STATE_VOLUME, "mountPath": names.STATE_DIR},
        ],
    }


def _gate() -> Json:
    """The kubelet starts containers one after the other and waits for each one's postStart. It stops them all
    at once, so ours waits in preStop while the application still has connections."""
    program = ["python3", "-m", "sidecar.gate"]
    return {
        "postStart": {"exec": {"command": [*program, f"--up={STARTUP_FAILURES * STARTUP_PERIOD_SECONDS}"]}},
        "preStop": {"exec": {"command": [*program, f"--idle={PLAIN_STOP_SECONDS}"]}},
    }


def capture_init(values: Mapping[str, Any], spec: Mapping[str, Any], image: str) -> Json:
    """Sets the redirect rules and ends. NET_ADMIN counts only for user 0 (no ambient capabilities in
    Kubernetes), so this one container runs as root, with that capability and no other."""
    arguments = []
    if values["exclude-outbound-ports"]:
        arguments.append("--exclude-outbound-ports=" + ",".join(map(str, values["exclude-outbound-ports"])))
    if values["exclude-outbound-cidrs"]:
        arguments.append("--exclude-outbound-cidrs=" + ",".join(values["exclude-outbound-cidrs"]))
    security = _locked_down(spec, runAsNonRoot=False, runAsUser=0, runAsGroup=0)
    security["capabilities"] = {"drop": ["ALL"], "add": ["NET_ADMIN"]}
    container: Json = {
        "name": names.INIT_CONTAINER,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-m", "sidecar.capture"],
        "resources": resources(values, spec),
        "securityContext": security,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    return {**container, "args": arguments} if arguments else container


def token_volume() -> Json:
    """Token, CA bundle and namespace, as the kubelet's own volume has them. Ours is there too in pods with
    automountServiceAccountToken: false, whose own containers stay without a token."""
    namespace = {"apiVersion": "v1", "fieldPath": "metadata.namespace"}
    return {
        "name": names.TOKEN_VOLUME,
        "projected": {
            "defaultMode": TOKEN_MODE,
            "sources": [
                {"serviceAccountToken": {"path": "token", "expirationSeconds": TOKEN_SECONDS}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": namespace}]}},
            ],
        },
    }


def state_volume() -> Json:
    """What the sidecar leaves for its successor in the pod. In memory: a node's slow disk cannot stall the
    sidecar's loop, and the cluster autoscaler does not count it as local data that keeps a node alive."""
    return {"name": names.STATE_VOLUME, "emptyDir": {"medium": "Memory", "sizeLimit": STATE_SIZE}}
