"""What a namespace's Pod Security level lets a pod with the sidecar do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from contract import names
from injector.cli.lines import Line

ENFORCE: Final = "pod-security.kubernetes.io/enforce"
# The level that a pod with the sidecar fits into at best, by capture mode. Pod Security Standards: NET_ADMIN is
# not among the capabilities that "baseline" lets a container add, and "restricted" wants all dropped.
FITS: Final = {
    "iptables": ("privileged",),
    "hosts": ("privileged", "baseline", "restricted"),
    "none": ("privileged", "baseline", "restricted"),
}
DEFAULT_LEVEL: Final = "privileged"


def is_restricted(labels: Mapping[str, str]) -> bool:
    """Whether the webhook is told that the namespace would refuse NET_ADMIN."""
    return labels.get(ENFORCE) in ("baseline", "restricted")


def pod_security(section: str, labels: Mapping[str, str], capture: str, *, asked: bool) -> Line:
    """Whether pods with this capture mode can have the sidecar. `asked`: somebody wants this mode here, so
    that it cannot be had is a failure."""
    level = labels.get(ENFORCE, DEFAULT_LEVEL)
    name = "Pod Security"
    if level in FITS[capture]:
        where = f"enforces {level}" if ENFORCE in labels else "enforces nothing"
        return Line(section, name, "ok", f"{where}, which lets capture: {capture} in")
    text = f"enforces {level}: a pod with capture: {capture} gets no sidecar (it would need NET_ADMIN)"
    do = f'use {names.ANNOTATION_PREFIX}capture: "hosts" with {names.ANNOTATION_PREFIX}services here'
    return Line(section, name, "failed" if asked else "warning", text, do)
