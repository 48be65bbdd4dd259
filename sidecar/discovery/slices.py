"""Service and EndpointSlice objects to the endpoints of a Service port. Pure.

The rules are those of the EndpointSlice specification (KEP-752, KEP-1672) as kube-proxy applies them, so
that a stream lands where the kernel's own balancing could have sent it:

* All slices with the label kubernetes.io/service-name=NAME in the Service's namespace belong to it.
* `ready` nil means true, `serving` nil means the same as `ready`, `terminating` nil means false.
* New streams go to ready endpoints. Only where none is ready, those serving while terminating are used.
* Ports are matched by name; nil and "" are the same name, nil `ports` or a nil `port` match nothing.
* Only the first of an endpoint's addresses is used: the specification calls them fungible.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from sidecar.balance.endpoints import Endpoint

SERVICE_NAME_LABEL: Final = "kubernetes.io/service-name"
IPV4: Final = "IPv4"
IPV6: Final = "IPv6"
FQDN: Final = "FQDN"
_SOCKET_FAMILY: Final[Mapping[str, int]] = {IPV4: socket.AF_INET, IPV6: socket.AF_INET6}
# appProtocol values that promise gRPC (or the HTTP/2 it needs) in clear text: KEP-3726 and custom.
_GRPC_APP_PROTOCOLS: Final = ("kubernetes.io/h2c", "grpc")
_MAX_PORT: Final = 65535
# A fault's text is logged: a value somebody wrote into an object must not flood the log.
_MAX_SHOWN: Final = 80

_READY: Final = 0
_DRAINING: Final = 1  # serving, but terminating: used only where nothing is ready


class MalformedError(ValueError):
    """An object is not what its kind must be. One line: the object, the value and what is allowed."""


class PortInfo(NamedTuple):
    """One TCP port of a Service."""

    name: str  # "" if the Service leaves it unnamed
    port: int
    declared_grpc: bool


class ServiceInfo(NamedTuple):
    """What is needed of a Service object."""

    namespace: str
    name: str
    cluster_ips: tuple[str, ...]  # canonical text, the primary one first; empty if headless
    family: str  # IPV4 or IPV6: the primary cluster IP's, or the first ipFamily; "" if it says neither
    ports: tuple[PortInfo, ...]
    faults: tuple[str, ...]  # a line for each port left out because it is malformed

    def port(self, number: int) -> PortInfo | None:
        return next((port for port in self.ports if port.port == number), None)


class SliceEndpoint(NamedTuple):
    """One usable endpoint of a slice."""

    host: str
    rank: int
    pod: str
    zone: str


class SliceInfo(NamedTuple):
    """What is needed of an EndpointSlice object."""

    namespace: str
    name: str
    service: str  # the Service it belongs to; "" if it says none
    family: str  # IPV4 or IPV6; FQDN slices have no endpoints here
    ports: tuple[tuple[str, int], ...]  # name, number
    endpoints: tuple[SliceEndpoint, ...]
    faults: tuple[str, ...]  # a line for each port or endpoint left out because it is malformed


def shown(value: object) -> str:
    """The value as a message shows it: short, on one line."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."


def canonical_ip(text: str) -> str:
    """The address in its one canonical spelling (RFC 5952 for IPv6). Raises ValueError if it is none."""
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        return socket.inet_ntop(family, socket.inet_pton(family, text))
    except OSError:
        raise ValueError(f"{shown(text)} is not an IP address") from None


def _ip_family(address: str) -> str:
    return IPV6 if ":" in address else IPV4


def _mapping(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise MalformedError(f"{what} is {shown(value)}; it must be an object")
    return value


def _items(value: object, what: str) -> list[Any]:
    """A list, where JSON null and absence mean empty."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise MalformedError(f"{what} is {shown(value)}; it must be a list")
    return value


def _text(value: object, what: str) -> str:
    """A string, where JSON null and absence mean empty."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise MalformedError(f"{what} is {shown(value)}; it must be a string")
    return value


def _number(value: object, what: str) -> int:
    if type(value) is not int or not 1 <= value <= _MAX_PORT:
        raise MalformedError(f"{what} is {shown(value)}; it must be a port from 1 to {_MAX_PORT}")
    return value


def _flag(value: object, what: str, default: bool) -> bool:
    if value is None:
        return default
    if not isinstance(value, bool):
        raise MalformedError(f"{what} is {shown(value)}; it must be true, false or absent")
    return value


def _identity(obj: object, kind: str) -> tuple[Mapping[str, Any], Mapping[str, Any], str, str, str]:
    """The object, its metadata, namespace, name, and how messages call it."""
    top = _mapping(obj, kind)
    metadata = _mapping(top.get("metadata"), f"{kind}: metadata")
    name = _text(metadata.get("name"), f"{kind}: metadata.name")
    if not name:
        raise MalformedError(f"{kind}: metadata.name is missing")
    namespace = _text(metadata.get("namespace"), f"{kind} {name}: metadata.namespace") or "default"
    return top, metadata, namespace, name, f"{kind} {namespace}/{name}"


def object_key(obj: object, kind: str) -> tuple[str, str]:
    """(namespace, name) of any object. Raises MalformedError."""
    _, _, namespace, name, _ = _identity(obj, kind)
    return namespace, name


def parse_service(obj: object) -> ServiceInfo:
    """A decoded core/v1 Service. A malformed port is left out and told in `faults`.

    Raises MalformedError if it is no Service at all.
    """
    top, _, namespace, name, what = _identity(obj, "Service")
    spec = _mapping(top.get("spec"), f"{what}: spec")
    cluster_ips = _cluster_ips(spec, what)
    families = _items(spec.get("ipFamilies"), f"{what}: spec.ipFamilies")
    first = _text(families[0] if families else None, f"{what}: spec.ipFamilies[0]")
    family = _ip_family(cluster_ips[0]) if cluster_ips else first
    ports: list[PortInfo] = []
    faults: list[str] = []
    for index, port in enumerate(_items(spec.get("ports"), f"{what}: spec.ports")):
        try:
            found = _service_port(port, f"{what}: spec.ports[{index}]")
        except MalformedError as error:
            faults.append(str(error))
            continue
        if found is not None:
            ports.append(found)
    known = family if family in _SOCKET_FAMILY else ""
    return ServiceInfo(namespace, name, cluster_ips, known, tuple(ports), tuple(faults))


def _cluster_ips(spec: Mapping[str, Any], what: str) -> tuple[str, ...]:
    listed = _items(spec.get("clusterIPs"), f"{what}: spec.clusterIPs") or [spec.get("clusterIP")]
    found = []
    for value in listed:
        text = _text(value, f"{what}: spec.clusterIP")
        if text in ("", "None"):  # not yet allocated, ExternalName, or headless
            continue
        try:
            found.append(canonical_ip(text))
        except ValueError as error:
            raise MalformedError(
                f'{what}: spec.clusterIP: {error}; allowed: an IP address or "None"'
            ) from None
    return tuple(found)


def _service_port(value: object, what: str) -> PortInfo | None:
    """The port, or None if it is not TCP."""
    port = _mapping(value, what)
    if _text(port.get("protocol"), f"{what}.protocol") not in ("", "TCP"):
        return None
    name = _text(port.get("name"), f"{what}.name")
    app_protocol = _text(port.get("appProtocol"), f"{what}.appProtocol")
    grpc = app_protocol in _GRPC_APP_PROTOCOLS or name == "grpc" or name.startswith("grpc-")
    return PortInfo(name, _number(port.get("port"), f"{what}.port"), grpc)


def parse_slice(obj: object) -> SliceInfo:
    """A decoded discovery.k8s.io/v1 EndpointSlice. A malformed port or endpoint is left out, see `faults`.

    Raises MalformedError if it is no EndpointSlice at all.
    """
    top, metadata, namespace, name, what = _identity(obj, "EndpointSlice")
    labels = _mapping(metadata.get("labels") or {}, f"{what}: metadata.labels")
    service = _text(labels.get(SERVICE_NAME_LABEL), f"{what}: label {SERVICE_NAME_LABEL}")
    family = _text(top.get("addressType"), f"{what}: addressType")
    if family == FQDN:
        return SliceInfo(namespace, name, service, FQDN, (), (), ())
    if family not in _SOCKET_FAMILY:
        raise MalformedError(f"{what}: addressType is {shown(family)}; allowed: IPv4, IPv6, FQDN")
    ports: list[tuple[str, int]] = []
    endpoints: list[SliceEndpoint] = []
    faults: list[str] = []
    for index, value in enumerate(_items(top.get("ports"), f"{what}: ports")):
        try:
            port = _slice_port(value, f"{what}: ports[{index}]")
        except MalformedError as error:
            faults.append(str(error))
            continue
        if port is not None:
            ports.append(port)
    for index, value in enumerate(_items(top.get("endpoints"), f"{what}: endpoints")):
        try:
            endpoint = _slice_endpoint(value, family, f"{what}: endpoints[{index}]")
        except MalformedError as error:
            faults.append(str(error))
            continue
        if endpoint is not None:
            endpoints.append(endpoint)
    return SliceInfo(namespace, name, service, family, tuple(ports), tuple(endpoints), tuple(faults))


def _slice_port(value: object, what: str) -> tuple[str, int] | None:
    """(name, number), or None if it is not TCP or names no port."""
    port = _mapping(value, what)
    if port.get("port") is None or _text(port.get("protocol"), f"{what}.protocol") not in ("", "TCP"):
        return None
    return _text(port.get("name"), f"{what}.name"), _number(port["port"], f"{what}.port")


def _slice_endpoint(value: object, family: str, what: str) -> SliceEndpoint | None:
    """The endpoint, or None if it may not be given new streams in any case."""
    endpoint = _mapping(value, what)
    conditions = _mapping(endpoint.get("conditions") or {}, f"{what}.conditions")
    ready = _flag(conditions.get("ready"), f"{what}.conditions.ready", True)
    serving = _flag(conditions.get("serving"), f"{what}.conditions.serving", ready)
    terminating = _flag(conditions.get("terminating"), f"{what}.conditions.terminating", False)
    addresses = _items(endpoint.get("addresses"), f"{what}.addresses")
    address = _text(addresses[0] if addresses else None, f"{what}.addresses[0]")
    try:
        packed = socket.inet_pton(_SOCKET_FAMILY[family], address)
    except (OSError, ValueError):
        raise MalformedError(
            f"{what}.addresses[0] is {shown(address)}; it must be an {family} address"
        ) from None
    target = _mapping(endpoint.get("targetRef") or {}, f"{what}.targetRef")
    pod = _text(target.get("name"), f"{what}.targetRef.name")
    zone = _text(endpoint.get("zone"), f"{what}.zone")
    if not ready and not (serving and terminating):
        return None
    host = socket.inet_ntop(_SOCKET_FAMILY[family], packed)
    return SliceEndpoint(host, _READY if ready else _DRAINING, pod, zone)


def endpoints_of(service: ServiceInfo, slices: Iterable[SliceInfo], port: int) -> tuple[Endpoint, ...]:
    """The endpoints of a Service port that may be given new streams, ordered by address.

    `slices` are all slices of the Service, in any order; empty if the Service has no such port. Where slices
    of the Service's own address family exist, others are left alone: a pod may have no route to them.
    """
    wanted = service.port(port)
    if wanted is None:
        return ()
    usable = sorted((s for s in slices if s.family in _SOCKET_FAMILY), key=lambda s: s.name)
    families = {s.family for s in usable}
    family = service.family if service.family in families else min(families, default="")
    best: dict[tuple[str, int], SliceEndpoint] = {}
    for one in usable:
        if one.family != family:
            continue
        for name, number in one.ports:
            if name != wanted.name:
                continue
            for endpoint in one.endpoints:
                known = best.get((endpoint.host, number))
                if known is None or endpoint.rank < known.rank:
                    best[endpoint.host, number] = endpoint
    lowest = min((endpoint.rank for endpoint in best.values()), default=_READY)
    chosen = [(key, endpoint) for key, endpoint in best.items() if endpoint.rank == lowest]
    chosen.sort(key=lambda item: (socket.inet_pton(_SOCKET_FAMILY[family], item[0][0]), item[0][1]))
    return tuple(Endpoint(host, number, endpoint.pod, endpoint.zone) for (host, number), endpoint in chosen)
