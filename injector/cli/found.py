"""Where an installation's objects are in the API."""

from __future__ import annotations

from typing import Any, Final

from injector.cli import installation
from injector.cli.cluster import Cluster

GROUP: Final = "/apis/admissionregistration.k8s.io"
WEBHOOK_CONFIGURATION: Final = f"{GROUP}/v1/mutatingwebhookconfigurations/{installation.NAME}"
# Policies are v1 from 1.36, and beta in 1.34 and 1.35.
POLICY_VERSIONS: Final = ("v1", "v1beta1")


def find_policy(cluster: Cluster, kind: str = "mutatingadmissionpolicies") -> dict[str, Any] | None:
    """Our MutatingAdmissionPolicy, or its binding; None where there is none, or the server knows no such
    thing. Raises ApiError."""
    for version in POLICY_VERSIONS:
        found = cluster.find(f"{GROUP}/{version}/{kind}/{installation.POLICY}")
        if found is not None:
            return found
    return None
