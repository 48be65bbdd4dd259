"""Which Service has a cluster IP: asked once, remembered for a while. Pure.

The API server is asked with the field selector spec.clusterIP over all namespaces, or, where RBAC forbids
that, in the pod's own. The selector knows primary cluster IPs only: the secondary one of a dual-stack
Service is found only if the Service is already watched.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Final

from sidecar.discovery.catalog import Emitter, FaultLog, resolution_of
from sidecar.discovery.slices import MalformedError, ServiceInfo, canonical_ip, parse_service
from sidecar.discovery.source import Resolution
from sidecar.discovery.text import message_of, quote

# A Service rarely changes its ports, never its address; what is in use is watched and known at once.
FOUND_SECONDS: Final = 60.0
# An address without a Service (every external one) is asked about this often at most. A Service that gets
# the address meanwhile is served by kube-proxy until then.
NOT_FOUND_SECONDS: Final = 30.0
# Connections wait for this answer; without one they go where they were going.
ANSWER_SECONDS: Final = 2.0
# What one list of at most a few Services may be.
MAX_ANSWER_BYTES: Final = 1024 * 1024
# More addresses than a pod calls in NOT_FOUND_SECONDS; some 200 bytes each.
MAX_REMEMBERED: Final = 1024
# Questions on their way at once; each takes one of the connection's 100 streams.
MAX_ASKING: Final = 8
# Addresses waiting for an answer; beyond it the answer is `failed` at once.
MAX_WAITING: Final = 256
# A refusal to ask over all namespaces is believed for so long, then tried again: RBAC may have changed.
FORBIDDEN_SECONDS: Final = 300.0

_CLUSTER_GRANT: Final = (
    "missing RBAC rule: ClusterRole with "
    'apiGroups [""], resources ["services"], verbs ["get", "list", "watch"]'
)


class Lookup:
    """One address on its way to an answer: an Exchange."""

    def __init__(self, owner: Resolver, host: str, now: float) -> None:
        self._owner = owner
        self.host = host  # canonical
        self.asked: list[tuple[str, int]] = []  # the hosts as they were asked, and the ports
        self.answer_by = now + ANSWER_SECONDS
        self.stream = 0  # 0: not asked yet
        self.clusterwide = True
        self._retried = False
        self._status = 0
        self._body = b""

    def path(self, namespace: str) -> str:
        scope = "" if self.clusterwide else f"/namespaces/{quote(namespace)}"
        # Version 0: from the API server's memory, whichever it has: every new address costs one of these.
        return f"/api/v1{scope}/services?fieldSelector=spec.clusterIP%3D{quote(self.host)}&resourceVersion=0"

    def answered(self, status: int, retry_after: float, now: float) -> None:
        self._status = status
        self._body = b""

    def body(self, data: bytes, now: float) -> bool:
        self._body += data
        if len(self._body) <= MAX_ANSWER_BYTES:
            return True
        self._owner.failed(self, f"answer of more than {MAX_ANSWER_BYTES} bytes", now)
        return False

    def ended(self, now: float) -> None:
        self.stream = 0
        if self._status == 200:
            self._decode(now)
        elif self._status == 403 and self.clusterwide:
            self._owner.forbidden(f"HTTP 403: {message_of(self._body)}; {_CLUSTER_GRANT}", now)
            self.clusterwide = False
        elif self._status == 401 and not self._retried:
            self._retried = True  # asked again with the token read anew
        else:
            hint = f"; {_CLUSTER_GRANT}" if self._status == 403 else ""
            self._owner.failed(self, f"HTTP {self._status}: {message_of(self._body)}{hint}", now)

    def broken(self, reason: str, connection: bool, now: float) -> None:
        self._owner.failed(self, reason, now)

    def _decode(self, now: float) -> None:
        try:
            items = json.loads(self._body)["items"] or []
            services = [parse_service(item) for item in items]
        except (MalformedError, ValueError, TypeError, LookupError, RecursionError) as error:
            self._owner.failed(self, f"malformed answer: {type(error).__name__}: {error}", now)
            return
        self._owner.found(self, next((s for s in services if self.host in s.cluster_ips), None), now)


class Resolver:
    """Answers each `ask` with exactly one Resolution, through the Emitter."""

    def __init__(self, emit: Emitter, namespace: str, known: Callable[[str], ServiceInfo | None]) -> None:
        """`known`: the watched Service with that canonical cluster IP, if any."""
        self._emit = emit
        self._namespace = namespace
        self._known = known
        self._remembered: dict[str, tuple[ServiceInfo | None, float]] = {}  # canonical IP: answer, good until
        self._waiting: dict[str, Lookup] = {}
        self._forbidden_until = -math.inf
        self.faults = FaultLog()
        self.asked = 0

    def ask(self, host: str, port: int, now: float) -> None:
        try:
            canonical = canonical_ip(host)
        except ValueError:
            self._emit.resolution(Resolution(host, port, None))
            return
        watched = self._known(canonical)
        if watched is not None:
            self._emit.resolution(resolution_of(host, port, watched))
            return
        service, good_until = self._remembered.get(canonical, (None, -math.inf))
        if now < good_until:
            self._emit.resolution(resolution_of(host, port, service))
            return
        lookup = self._waiting.get(canonical)
        if lookup is None:
            if len(self._waiting) >= MAX_WAITING:
                self._emit.resolution(self._last_known(canonical, host, port))
                return
            lookup = self._waiting[canonical] = Lookup(self, canonical, now)
            lookup.clusterwide = now >= self._forbidden_until
        lookup.asked.append((host, port))

    def wanted(self) -> Lookup | None:
        """The next lookup to send a request for; the caller sets its `stream`."""
        if not self._waiting or sum(1 for one in self._waiting.values() if one.stream) >= MAX_ASKING:
            return None
        return next((one for one in self._waiting.values() if not one.stream), None)

    def path(self, lookup: Lookup) -> str:
        self.asked += 1
        return lookup.path(self._namespace)

    def waiting(self) -> bool:
        return bool(self._waiting)

    def deadline(self) -> float:
        return next((one.answer_by for one in self._waiting.values()), math.inf)

    def expire(self, now: float) -> list[int]:
        """Answer what has waited too long. Returns the streams to cancel."""
        late = [one for one in self._waiting.values() if now >= one.answer_by]
        for one in late:
            self.failed(one, "no answer in time", now)
        return [one.stream for one in late if one.stream]

    def unreachable(self, until: float) -> None:
        """There is no API server before `until`: nobody waits for what cannot come in time."""
        for one in list(self._waiting.values()):
            if one.answer_by <= until:
                self._give_up(one)

    def found(self, lookup: Lookup, service: ServiceInfo | None, now: float) -> None:
        self._remembered.pop(lookup.host, None)
        while len(self._remembered) >= MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        keep = FOUND_SECONDS if service is not None else NOT_FOUND_SECONDS
        self._remembered[lookup.host] = (service, now + keep)
        self._waiting.pop(lookup.host, None)
        if lookup.clusterwide:
            self.faults.clear()
        for host, port in lookup.asked:
            self._emit.resolution(resolution_of(host, port, service))

    def failed(self, lookup: Lookup, reason: str, now: float) -> None:
        self.faults.report(f"Service with cluster IP {lookup.host}: {reason}")
        self._give_up(lookup)

    def forbidden(self, reason: str, now: float) -> None:
        self._forbidden_until = now + FORBIDDEN_SECONDS
        self.faults.report(f"Services of all namespaces: {reason}; asking in {self._namespace} only")

    def _give_up(self, lookup: Lookup) -> None:
        self._waiting.pop(lookup.host, None)
        for host, port in lookup.asked:
            self._emit.resolution(self._last_known(lookup.host, host, port))

    def _last_known(self, canonical: str, host: str, port: int) -> Resolution:
        """What was once found stays better than nothing while the API server is away."""
        service, _ = self._remembered.get(canonical, (None, 0.0))
        if service is None:
            return Resolution(host, port, None, failed=True)
        return resolution_of(host, port, service)
