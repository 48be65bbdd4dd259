"""Fixed names and numbers. One version of the injector works with the sidecars of the version before
and after, so nothing here changes its meaning; tests/contract/written holds what injectors wrote."""

from typing import Final

VERSION: Final = "0.1.0"  # of both halves; pyproject.toml reads it here

ANNOTATION_PREFIX: Final = "evenstream.dev/"
INJECT_ANNOTATION: Final = ANNOTATION_PREFIX + "inject"
STATUS_ANNOTATION: Final = ANNOTATION_PREFIX + "status"
ENV_PREFIX: Final = "EVENSTREAM_"

SIDECAR_CONTAINER: Final = "evenstream"
INIT_CONTAINER: Final = "evenstream-init"
TOKEN_VOLUME: Final = "evenstream-token"  # noqa: S105 - a volume, not a password
STATE_VOLUME: Final = "evenstream-state"

# Istio's 15001 and 15020 are known to operators' firewalls and dashboards as "capture" and "admin".
CAPTURE_PORT: Final = 15001
ADMIN_PORT: Final = 15020

# The sidecar's own user: the redirect rules exempt it by UID, so no other container may run as it.
SIDECAR_UID: Final = 15015
SIDECAR_GID: Final = 15015

# Where the projected token, CA bundle and namespace of our own container are mounted. It is where a
# client in a pod looks for them by custom; ours is a volume of our own, so it works also in pods with
# automountServiceAccountToken: false.
SERVICE_ACCOUNT_DIR: Final = "/var/run/secrets/kubernetes.io/serviceaccount"

# Where the state volume is mounted: what a sidecar leaves for the one that takes its place in the same pod.
STATE_DIR: Final = "/var/lib/evenstream"

DEFAULT_SIDECAR_IMAGE: Final = "evenstream-sidecar:dev"
# What nearly every cluster has; the injector is told where it is another.
DEFAULT_CLUSTER_DOMAIN: Final = "cluster.local"
SYSTEM_NAMESPACE: Final = "evenstream-system"
