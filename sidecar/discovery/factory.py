"""From the setting to the source. Each kind is imported only when it is chosen: memory."""

from __future__ import annotations

import random as random_module
from collections.abc import Mapping

from contract.values import SourceRef
from sidecar.discovery.file import FileSource
from sidecar.discovery.source import Dial, Source


def make_source(
    ref: SourceRef,
    *,
    dial: Dial,
    now: float,
    random: random_module.Random,
    environ: Mapping[str, str],
    namespace: str,
) -> Source:
    """The source that `ref` names.

    `now`: seconds, the clock of all later calls. `namespace`: the pod's own, asked where the whole cluster
    may not be. Raises ValueError, one clear line, if the environment of a pod is wanted and not there.
    """
    if ref.kind == "file":
        return FileSource(ref.path)
    from sidecar.discovery.kubernetes import KubernetesSource, in_pod

    return KubernetesSource(in_pod(environ), dial=dial, now=now, random=random, namespace=namespace)
