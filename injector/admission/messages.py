"""What a person is told whose pod stays without the sidecar: what is in the way, and what to do.

Templates for str.format, apart from the conditions: the webhook fills them in Python, the admission policy
(`injector.policy`) in CEL. {value}, {container} and other texts of the pod come in quotes.
"""

from __future__ import annotations

from typing import Final

from contract import names
from contract.settings import BY_NAME

_CAPTURE: Final = "annotation " + BY_NAME["capture-mode"].annotation
_SERVICES: Final = "annotation " + BY_NAME["services"].annotation

LEFT_OUT: Final = "evenstream: pod left without the sidecar: {reason}"
NOT_ALLOWED: Final = "annotation {annotation}: {value} is not allowed; {allowed}"

MIRROR: Final = "it mirrors a static pod, which the kubelet runs as its file says and which can have no token"
HOST_NETWORK: Final = (
    "hostNetwork: true shares the node's network, where redirect rules and the sidecar's ports would hit every "
    "process of the node; remove hostNetwork or the annotation"
)
WINDOWS: Final = "Windows pods have neither iptables nor this sidecar's image; remove the annotation"
NEVER_COMPLETES: Final = (
    "this cluster has no native sidecars (Kubernetes before 1.29), and a plain one would keep the pod from ever "
    "completing; remove the annotation or set restartPolicy: Always"
)
RESTRICTED: Final = (
    _CAPTURE
    + ": 'iptables' is not allowed in a namespace that enforces Pod Security baseline or restricted, "
    "for its init container needs NET_ADMIN; allowed: hosts, none"
)
LIMIT_BELOW_REQUEST: Final = (
    "annotation {annotation}: {value} is not allowed; "
    "allowed: at least the {kind} request, {request} ({other})"
)
BESIDE_A_BUDGET: Final = (
    "annotation {annotation}: {value} is not allowed where spec.resources has {kind} for the whole pod; "
    "allowed: none, the sidecar draws from the pod's"
)
CONTAINER_NAME: Final = "the pod has a container {container} that is not Evenstream's; rename it"
VOLUME_NAME: Final = "the pod has a volume {volume} that is not Evenstream's; rename it"
USER: Final = (
    f"container {{container}} runs as user {names.SIDECAR_UID}, which is the sidecar's own; give it another "
    "runAsUser"
)
PORT: Final = (
    "container {container} has port {port}, which the sidecar needs (another mesh, perhaps); "
    "one of the two must go"
)
ANNOTATION_BYTES: Final = (
    "with {annotations} its annotations would have {size} bytes; allowed: {most} together"
)

NO_SERVICES: Final = (
    f"capture hosts needs {_SERVICES}; "
    "allowed: NAME:PORT or NAME.NAMESPACE:PORT of each Service that the pod calls"
)
SERVICE_PORT: Final = (
    _SERVICES + ": {service} is not allowed with capture hosts; allowed: ports from {first}, but for the "
    f"sidecar's own {names.ADMIN_PORT}"
)
NAMESPACE_NOT_KNOWN: Final = (
    _SERVICES + ": {service} is not allowed where the pod's namespace is not known; allowed: "
    "NAME.NAMESPACE:PORT, or metadata.namespace in the manifest, or --namespace"
)
LISTENS_ITSELF: Final = (
    "container {container} listens on port {port}, which the sidecar needs for {place} with capture hosts; give "
    "one of them another port, or use capture iptables"
)
HOST_ALIAS: Final = "the pod's hostAliases give {name} an address already; remove it there or here"
HOSTS_FILE: Final = (
    "container {container} mounts its own {file}, which capture hosts cannot reach; "
    "use capture iptables or none"
)
