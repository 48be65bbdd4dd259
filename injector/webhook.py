"""The kopf operator: one mutating handler for pods, and no more of Kubernetes than that needs.

`admission.managed` stays unset (replicas would overwrite each other's configuration; ours is shipped in
manifests/), kopf watches nothing, posts no events and keeps no peers, so that it needs no rights at all.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import kopf

from injector.admission.decision import BadPodError, Decision, Options, decide
from injector.cluster import login
from injector.server import Server, exchange

_log = logging.getLogger(__name__)


def registry(options: Options) -> kopf.OperatorRegistry:
    """The handlers: how to log in, and what to do with a pod that is being created."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers)
    def log_in(settings: kopf.OperatorSettings, **_: Any) -> kopf.ConnectionInfo:
        return login(settings)

    @kopf.on.mutate("", "v1", "pods", operations=["CREATE"], id="pods", registry=handlers)
    async def pod_created(body: kopf.Body, warnings: list[str], **_: Any) -> None:
        current = exchange.get()
        decision = _decide(dict(body), options)
        warnings.extend(decision.warnings)
        current.patch.extend(decision.patch)
        _log.info("pod %s: %s", _name(body, current.namespace), decision.reason)

    return handlers


def configure(settings: kopf.OperatorSettings, server: Server) -> None:
    """kopf's settings for a webhook and nothing else."""
    settings.admission.server = server
    settings.admission.managed = None
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.peering.standalone = True


def run(options: Options, settings: kopf.OperatorSettings) -> None:
    """Serve until SIGTERM or SIGINT. Raises what kopf raises when the API server cannot be asked at start."""
    # Left to itself, kopf asks for the user's name, and user 15016 has none in the image.
    identity: Any = "evenstream-injector"
    kopf.run(
        registry=registry(options), settings=settings, identity=identity, standalone=True, clusterwide=True
    )


def _decide(pod: Mapping[str, Any], options: Options) -> Decision:
    try:
        return decide(pod, options)
    except BadPodError as error:
        return Decision((), (f"evenstream: pod left without the sidecar: {error}",), str(error))


def _name(pod: Mapping[str, Any], namespace: str) -> str:
    """A pod that a controller makes has no name and no namespace of its own at admission."""
    metadata = pod.get("metadata") or {}
    return f"{namespace}/{metadata.get('name') or str(metadata.get('generateName') or '') + '*'}"
