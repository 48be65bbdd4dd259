"""From the setting to the source. Each kind is imported only when it is chosen: memory."""

from __future__ import annotations

import random as random_module
import time
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
    state_dir: str | None = None,
) -> Source:
    """The source that `ref` names.

    `now`: seconds, the clock of all later calls. `namespace`: the pod's own, asked where the whole cluster
    may not be. `state_dir`: where to keep what is known for the next process; None: nowhere. Raises
    NoSourceError if the environment of a pod is wanted and not there.
    """
    if ref.kind == "file":
        return FileSource(ref.path)
    from sidecar.discovery.dns import Dns
    from sidecar.discovery.kubernetes import KubernetesSource, in_pod
    from sidecar.discovery.ladder import Ladder
    from sidecar.discovery.saved import StateFile

    live = KubernetesSource(in_pod(environ), dial=dial, now=now, random=random, namespace=namespace)
    file = StateFile(state_dir) if state_dir else None
    return Ladder(live, Dns(dial, random), file, now=now, wall=time.time)
