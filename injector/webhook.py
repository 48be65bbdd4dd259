"""The kopf operator: one mutating handler for pods, and no more of Kubernetes than that needs.

`admission.managed` stays unset (replicas would overwrite each other's configuration; ours is shipped in
manifests/), kopf watches nothing, posts no events and keeps no peers, so that it needs no rights at all.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final, Literal, Protocol

import kopf

from injector.admission.decision import BadPodError, Decision, Options, decide
from injector.cluster import ApiError, login
from injector.server import Exchange, Server, exchange

# SidecarContainers (KEP-753) is on by default from here on.
NATIVE_SIDECARS_SINCE: Final = (1, 29)

SidecarKind = Literal["auto", "native", "plain"]

_log = logging.getLogger(__name__)


class Versioned(Protocol):
    async def version(self) -> tuple[int, int]: ...


class Installation:
    """The options in force. `kind`: auto follows the API server's version, which an upgrade changes."""

    def __init__(self, options: Options, kind: SidecarKind, api: Versioned) -> None:
        self.options = options._replace(native_sidecars=kind != "plain")
        self._kind = kind
        self._api = api

    async def refresh(self) -> None:
        """Look at the version again. Does not raise: what was known, native at first, stays in force."""
        if self._kind != "auto":
            return
        try:
            version = await self._api.version()
        except ApiError as error:
            _log.warning("server version not known, sidecars stay %s: %s", self._word(), error)
            return
        before = self.options.native_sidecars
        self.options = self.options._replace(native_sidecars=version >= NATIVE_SIDECARS_SINCE)
        if self.options.native_sidecars != before:
            _log.info("Kubernetes %d.%d: sidecars are %s from now on", *version, self._word())

    def _word(self) -> str:
        return "native" if self.options.native_sidecars else "plain"


def registry(installation: Installation) -> kopf.OperatorRegistry:
    """The handlers: how to log in, and what to do with a pod that is being created."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers)
    def log_in(settings: kopf.OperatorSettings, **_: Any) -> kopf.ConnectionInfo:
        return login(settings)

    @kopf.on.mutate("", "v1", "pods", operations=["CREATE"], id="pods", registry=handlers)
    async def pod_created(body: kopf.Body, warnings: list[str], **_: Any) -> None:
        current = exchange.get()
        decision = _decide(dict(body), installation.options, current)
        warnings.extend(decision.warnings)
        current.patch.extend(decision.patch)
        current.outcome = "injected" if decision.patch else "refused" if decision.warnings else "unchanged"
        _log.info("pod %s: %s", _name(body, current.namespace), decision.reason)

    return handlers


def configure(settings: kopf.OperatorSettings, server: Server) -> None:
    """kopf's settings for a webhook and nothing else."""
    settings.admission.server = server
    settings.admission.managed = None
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.peering.standalone = True


def run(installation: Installation, settings: kopf.OperatorSettings) -> None:
    """Serve until SIGTERM or SIGINT. Raises what kopf raises when the API server cannot be asked at start."""
    # Left to itself, kopf asks for the user's name, and user 15016 has none in the image.
    identity: Any = "evenstream-injector"
    kopf.run(
        registry=registry(installation),
        settings=settings,
        identity=identity,
        standalone=True,
        clusterwide=True,
    )


def _decide(pod: Mapping[str, Any], options: Options, current: Exchange) -> Decision:
    try:
        return decide(pod, options, current.namespace, restricted=current.restricted)
    except BadPodError as error:
        return Decision((), (f"evenstream: pod left without the sidecar: {error}",), str(error))


def _name(pod: Mapping[str, Any], namespace: str) -> str:
    """A pod that a controller makes has no name and no namespace of its own at admission."""
    metadata = pod.get("metadata") or {}
    return f"{namespace}/{metadata.get('name') or str(metadata.get('generateName') or '') + '*'}"
