"""Endpoints from the API server: one connection, and for each Service in use two watches.

The EndpointSlices of a Service are watched by label. The Service itself is watched by name, the cheapest
kind of watch there is for the API server (it indexes them), because the slices do not tell the Service's
port numbers, and because a Service that is deleted or renumbered is then known at once.
"""

from __future__ import annotations

import logging
import math
import random as random_module
import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from contract.names import SERVICE_ACCOUNT_DIR
from sidecar.balance.endpoints import ServicePort, Snapshot
from sidecar.discovery import apiconnection, source
from sidecar.discovery.apiconnection import ApiConnection, Target
from sidecar.discovery.backoff import Backoff
from sidecar.discovery.catalog import Emitter, FaultLog
from sidecar.discovery.resolve import Resolver
from sidecar.discovery.slices import SERVICE_NAME_LABEL, ServiceInfo, SliceInfo, parse_service, parse_slice
from sidecar.discovery.source import Dial, NoSourceError, Resolution, Standing
from sidecar.discovery.text import quote
from sidecar.discovery.token import TokenError, TokenFile
from sidecar.discovery.watch import Collection, Counters, Reflector

_log: Final = logging.getLogger(__name__)

# Kept free of watches, so that a new Service can be listed and an address looked up at any time.
RESERVED_STREAMS: Final = 2
# A connection that was of use for this long ends the backoff: one that is cut again and again does not.
STEADY_SECONDS: Final = 10.0


class ApiServer(NamedTuple):
    """Where the API server is and how it is trusted."""

    host: str
    port: int
    tls: (
        Callable[[], ssl.SSLContext] | None
    )  # called for each connection, so a new CA is taken; None: clear text
    token_path: str  # "": no token is sent
    server_name: str = ""  # for SNI and the certificate's check; "": the host


def in_pod(environ: Mapping[str, str], directory: str = SERVICE_ACCOUNT_DIR) -> ApiServer:
    """The API server as a pod sees it. Raises NoSourceError outside of a pod."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "")
    if not host or not (port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= 65535):
        raise NoSourceError(
            f"source kubernetes: KUBERNETES_SERVICE_HOST={host!r} and KUBERNETES_SERVICE_PORT={port!r} name "
            "no API server; in a pod both are set (outside, use --source file:PATH)"
        )
    return ApiServer(host, int(port), lambda: tls_context(f"{directory}/ca.crt"), f"{directory}/token")


def tls_context(ca_path: str) -> ssl.SSLContext:
    """A client context that trusts the bundle at `ca_path` and nothing else. Raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    try:
        context.load_verify_locations(ca_path)
    except OSError as error:
        raise OSError(f"CA bundle {ca_path}: {error.strerror or error}") from None
    return context


class _Watched:
    """One Service in use, with the ports of it that are."""

    def __init__(self, namespace: str, name: str, random: random_module.Random, counters: Counters) -> None:
        where = f"{name}.{namespace}"
        rule = 'Role with apiGroups ["{}"], resources ["{}"], verbs ["get", "list", "watch"] in namespace {}'
        self.slices: Reflector[SliceInfo] = Reflector(
            Collection(
                f"/apis/discovery.k8s.io/v1/namespaces/{quote(namespace)}/endpointslices",
                f"labelSelector={quote(SERVICE_NAME_LABEL)}%3D{quote(name)}",
                f"EndpointSlices of {where}",
                rule.format("discovery.k8s.io", "endpointslices", namespace),
            ),
            parse_slice,
            random,
            counters,
        )
        self.service: Reflector[ServiceInfo] = Reflector(
            Collection(
                f"/api/v1/namespaces/{quote(namespace)}/services",
                f"fieldSelector=metadata.name%3D{quote(name)}",
                f"Service {where}",
                rule.format("", "services", namespace),
            ),
            parse_service,
            random,
            counters,
        )
        self.name = name
        self.ports: dict[ServicePort, None] = {}
        self.streams: dict[int, int] = {}  # id of a reflector: the stream of its request
        self.untold = False  # a bug of ours kept what is known of it from being told
        self.watched_at = math.nan  # when both of its watches were last seen to be up

    def reflectors(self) -> tuple[Reflector[SliceInfo], Reflector[ServiceInfo]]:
        return self.slices, self.service

    def watching(self) -> bool:
        return self.slices.watching() and self.service.watching()

    def vouched_at(self) -> float:
        """When what is known of it was last known to be so."""
        return max(self.watched_at, min(self.slices.heard_at, self.service.heard_at), key=_nan_first)

    def known(self) -> ServiceInfo | None:
        return self.service.objects.get(self.name)


class KubernetesSource:
    """A Source over the API server. Connects when something is first wanted of it."""

    def __init__(
        self,
        server: ApiServer,
        *,
        dial: Dial,
        now: float,
        random: random_module.Random,
        namespace: str,
    ) -> None:
        """`namespace`: the pod's own. Nothing is dialled and nothing raised here."""
        self._server = server
        self._dial = dial
        self._random = random
        self._token = TokenFile(server.token_path) if server.token_path else None
        self._emit = Emitter("kubernetes")
        self._counters = Counters()
        self._faults = FaultLog()
        self._backoff = Backoff(random)
        self._watched: dict[tuple[str, str], _Watched] = {}
        self._resolver = Resolver(self._emit, namespace, self._service_with)
        self._connection: ApiConnection | None = None
        self._connections = 0
        self._connect_at = now
        self._heard_at = math.nan
        self._due = math.inf
        self._closed = False

    # Source

    def watch(self, service: ServicePort, now: float) -> None:
        if self._closed:
            return
        key = (service.namespace, service.name)
        watched = self._watched.get(key)
        if watched is None:
            watched = self._watched[key] = _Watched(*key, self._random, self._counters)
        watched.ports[service] = None
        self._announce(watched, now)
        self.turn(now)

    def unwatch(self, service: ServicePort, now: float) -> None:
        self._emit.forget(service)
        key = (service.namespace, service.name)
        watched = self._watched.get(key)
        if watched is None:
            return
        watched.ports.pop(service, None)
        if not watched.ports:
            del self._watched[key]
            if self._connection is not None:
                for stream in watched.streams.values():
                    self._connection.cancel(stream)
        self.turn(now)

    def resolve(self, host: str, port: int, now: float) -> None:
        self._resolver.ask(host, port, now)
        self.turn(now)

    def tick(self, now: float) -> None:
        if now < self._due:
            return
        connection = self._connection
        try:
            if connection is not None:
                connection.tick(now)
            self.turn(now)
        except Exception:
            # A bug of ours, and the same would come each time: a new connection begins anew.
            if connection is not None and connection is self._connection:
                connection.end("internal error", now)
            raise

    def deadline(self) -> float:
        return self._due

    def events(self) -> Sequence[Snapshot | Resolution]:
        return self._emit.take()

    def synced(self) -> bool:
        return all(self._emit.answered(port) for one in self._watched.values() for port in one.ports)

    def standing(self, service: ServicePort, now: float) -> Standing:
        one = self._watched.get((service.namespace, service.name))
        if one is None or not self._emit.answered(service):
            return Standing(source.NONE, None)
        rung = source.LIVE if one.watching() else source.MEMORY
        return Standing(rung, _age(now, one.vouched_at()))

    def failing(self, service: ServicePort, now: float) -> None:
        """What the API server says is what there is."""

    def status(self, now: float) -> dict[str, Any]:
        """`state`: idle, connecting, live, draining or backing-off. `age_seconds`: since the API server was last heard;
        null if it never was."""
        state = self._connection.state if self._connection is not None else "idle"
        if self._connection is None and self._wants_anything():
            state = "backing-off"
        return {
            "kind": "kubernetes",
            "server": Target(self._server.host, self._server.port, "").authority,
            "state": state,
            "age_seconds": _age(now, self._last_heard()),
            "last_error": self._last_error(),
            "counters": {
                "reconnects": max(0, self._connections - 1),
                "lookups": self._resolver.asked,
                **self._counters.as_dict(),
            },
            "services": {
                str(port): self._port_status(one, port, now)
                for one in self._watched.values()
                for port in one.ports
            },
        }

    def close(self, now: float) -> None:
        self._closed = True
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._watched.clear()
        self._emit.take()
        self._due = math.inf

    # Owner of the connection

    def turn(self, now: float) -> None:
        """Something changed: tell what is new, ask what is wanted, and say when to be woken."""
        if self._closed:
            return
        try:
            self._act(now)
        finally:
            self._due = self._next_deadline()

    def _act(self, now: float) -> None:
        for one in self._watched.values():
            if one.slices.changed or one.service.changed:
                self._announce(one, now)
            if self._connection is not None and one.watching():
                one.watched_at = self._connection.last_received
        if self._connection is not None and self._connection.succeeded:
            self._faults.clear()
        late = self._resolver.expire(now)
        self._connect_if_wanted(now)
        for stream in late:
            if self._connection is not None:
                self._connection.cancel(stream)
        if self._connection is not None and self._connection.state == apiconnection.LIVE:
            self._request(now)
            self._connection.flush()
        elif self._connection is None:
            self._resolver.unreachable(self._connect_at)

    def refused(self, status: int) -> None:
        if status == 401 and self._token is not None:
            self._token.reject()

    def ended(self, reason: str, graceful: bool, now: float) -> None:
        connection, self._connection = self._connection, None
        for one in self._watched.values():
            one.streams.clear()  # the next connection counts its streams from 1 again
            for reflector in one.reflectors():
                reflector.cut_off()
            one.slices.changed |= one.untold
        if connection is not None:
            if connection.succeeded and now - connection.live_since >= STEADY_SECONDS:
                self._backoff.reset()
            self._heard_at = max(self._heard_at, connection.last_received, key=_nan_first)
        if graceful:  # as it does with each 401 and when it shuts down: no fault of its own
            _log.info("API server: %s; connecting again", reason)
            self._connect_at = now + self._backoff.next()
        else:
            self._retry_later(f"API server {self._server.host}:{self._server.port}: {reason}", now)
        self.turn(now)

    # Connecting

    def _wants_anything(self) -> bool:
        return bool(self._watched) or self._resolver.waiting()

    def _connect_if_wanted(self, now: float) -> None:
        if self._connection is not None or now < self._connect_at or not self._wants_anything():
            return
        server = self._server
        try:
            tls = server.tls() if server.tls is not None else None
            if self._token is not None:
                self._token.read(now)
        except (OSError, TokenError) as error:  # ssl.SSLError is an OSError
            self._retry_later(f"cannot connect to the API server: {error}", now)
            return
        self._connections += 1
        target = Target(server.host, server.port, server.server_name or server.host)
        self._connection = connection = ApiConnection(target, self, now)
        connection.dial(self._dial, tls)

    def _retry_later(self, reason: str, now: float) -> None:
        self._connect_at = now + self._backoff.next()
        self._faults.report(f"{reason}; what is known stays in force")

    # Requests

    def _request(self, now: float) -> None:
        """Make the requests that are wanted while the server has streams: look-ups, lists, watches."""
        connection = self._connection
        assert connection is not None
        while connection.free_streams() and (lookup := self._resolver.wanted()) is not None:
            path = self._resolver.path(lookup)
            lookup.stream = connection.request(path, self._bearer(now), lookup, endless=False, now=now)
        services = self._watched.values()
        for one in services:
            for reflector in one.reflectors():
                if reflector.silent(now):
                    connection.cancel(one.streams[id(reflector)])
        for watches in (False, True):
            # All slices before any Service: they are what changes.
            for one in services:
                self._ask(connection, one, one.slices, watches, now)
            for one in services:
                self._ask(connection, one, one.service, watches, now)

    def _ask(
        self,
        connection: ApiConnection,
        one: _Watched,
        reflector: Reflector[SliceInfo] | Reflector[ServiceInfo],
        watches: bool,
        now: float,
    ) -> None:
        path = reflector.wanted(now)
        if path is None or reflector.wants_watch() != watches:
            return
        if connection.free_streams() <= (RESERVED_STREAMS if watches else 0):
            reflector.crowded(now)
            return
        stream = connection.request(path, self._bearer(now), reflector, endless=watches, now=now)
        one.streams[id(reflector)] = stream
        reflector.started(now)

    def _bearer(self, now: float) -> str:
        try:
            return self._token.read(now) if self._token is not None else ""
        except TokenError as error:
            self._faults.report(str(error))
            return ""

    def _next_deadline(self) -> float:
        connection = self._connection
        if connection is None:
            return min(self._connect_at, self._resolver.deadline()) if self._wants_anything() else math.inf
        due = min(connection.deadline(), self._resolver.deadline())
        if connection.state != apiconnection.LIVE:
            return due
        return min(due, *(r.deadline() for one in self._watched.values() for r in one.reflectors()), math.inf)

    # What is told

    def _announce(self, one: _Watched, now: float) -> None:
        """Yield Snapshots of its ports, once enough is known: no Service, or a Service and its slices."""
        one.slices.changed = one.service.changed = False
        service = one.known()
        if not one.service.listed or (service is not None and not one.slices.listed):
            return
        slices = [s for s in one.slices.objects.values() if s.service == one.name]
        one.untold = True
        for port in one.ports:
            self._emit.snapshot(port, service, slices, now)
        one.untold = False

    def _service_with(self, ip: str) -> ServiceInfo | None:
        found = (one.known() for one in self._watched.values())
        return next((service for service in found if service is not None and ip in service.cluster_ips), None)

    def _last_heard(self) -> float:
        connection = self._connection
        heard = connection.last_received if connection is not None else math.nan
        return max(self._heard_at, heard, key=_nan_first)

    def _last_error(self) -> str:
        if self._faults.last and (self._connection is None or self._connection.state != apiconnection.LIVE):
            return self._faults.last
        reflectors = [r for one in self._watched.values() for r in one.reflectors()]
        return next((r.faults.last for r in reflectors if r.faults.last), self._resolver.faults.last)

    def _port_status(self, one: _Watched, port: ServicePort, now: float) -> dict[str, Any]:
        return {
            "endpoints": self._emit.size(port),
            "answered": self._emit.answered(port),
            "resource_version": one.slices.version,
            "service_resource_version": one.service.version,
            "slices": one.slices.state,
            "service": one.service.state,
            "age_seconds": _age(now, one.slices.heard_at),
            "last_error": one.slices.faults.last or one.service.faults.last,
        }


def _nan_first(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _age(now: float, then: float) -> float | None:
    return None if math.isnan(then) else round(now - then, 3)
