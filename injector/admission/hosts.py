"""`capture: hosts`: a loopback address for each named Service, and the names that lead to it.

The kubelet writes `spec.hostAliases` into the containers' /etc/hosts, which resolvers read before they ask
DNS. So the application's unchanged address leads to the sidecar, which listens there on the Service's own
port, and no privilege is needed for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from contract import names
from contract.values import Address, Listen, ServiceRef
from injector.admission import messages
from injector.admission.shape import as_map, as_maps, containers

# 127.64.0.1 is the first Service's, 127.64.0.2 the second's ...: away from 127.0.0.0/16, where programs put
# listeners of their own (127.0.0.53 is systemd's resolver). Linux answers on all of 127.0.0.0/8, also in a
# pod that has no other IPv4 address.
NETWORK: Final = "127.64"
# Linux lets only user 0 listen below it, and the sidecar is not and has no capabilities.
FIRST_UNPRIVILEGED_PORT: Final = 1024
HOSTS_FILE: Final = "/etc/hosts"

Json = Mapping[str, Any]


class Place(NamedTuple):
    """One Service and all its ports that the sidecar listens on."""

    address: str
    name: str
    namespace: str
    ports: Sequence[int]

    def host_names(self, pod_namespace: str, cluster_domain: str) -> list[str]:
        """As cluster DNS has them. The short one means the pod's own namespace only."""
        full = f"{self.name}.{self.namespace}.svc"
        found = [f"{self.name}.{self.namespace}", full, f"{full}.{cluster_domain}"]
        return [self.name, *found] if self.namespace == pod_namespace else found


def places(services: Sequence[ServiceRef], pod_namespace: str) -> list[Place]:
    """One for each Service, in the order in which they are first named."""
    ports: dict[tuple[str, str], list[int]] = {}
    for service in services:
        listed = ports.setdefault((service.name, service.namespace or pod_namespace), [])
        if service.port not in listed:
            listed.append(service.port)
    return [
        Place(f"{NETWORK}.{number >> 8}.{number & 255}", name, namespace, tuple(listed))
        for number, ((name, namespace), listed) in enumerate(ports.items(), 1)
    ]


def aliases(found: Sequence[Place], pod_namespace: str, cluster_domain: str) -> list[dict[str, Any]]:
    """What goes to the end of `spec.hostAliases`."""
    return [
        {"ip": place.address, "hostnames": place.host_names(pod_namespace, cluster_domain)} for place in found
    ]


def listens(found: Sequence[Place]) -> str:
    """The value of EVENSTREAM_LISTEN."""
    return ",".join(
        str(Listen(Address(place.address, port), ServiceRef(place.name, place.namespace, port)))
        for place in found
        for port in place.ports
    )


def refusal(spec: Json, services: Sequence[ServiceRef], pod_namespace: str, cluster_domain: str) -> str:
    """Why this pod's Services cannot be captured so, or ""."""
    if not services:
        return messages.NO_SERVICES
    for service in services:
        if service.port < FIRST_UNPRIVILEGED_PORT or service.port == names.ADMIN_PORT:
            return messages.SERVICE_PORT.format(service=repr(str(service)), first=FIRST_UNPRIVILEGED_PORT)
        if not service.namespace and not pod_namespace:
            return messages.NAMESPACE_NOT_KNOWN.format(service=repr(str(service)))
    found = places(services, pod_namespace)
    return (
        _port_taken(spec, found)
        or _name_taken(spec, aliases(found, pod_namespace, cluster_domain))
        or _file_taken(spec)
    )


def _port_taken(spec: Json, found: Sequence[Place]) -> str:
    """A program that listens on all addresses cannot have a port that the sidecar has on one of them."""
    wanted = {port: place for place in found for port in place.ports}
    for container in containers(spec):
        for port in as_maps(container.get("ports")):
            number = port.get("containerPort")
            if port.get("protocol", "TCP") == "TCP" and isinstance(number, int) and number in wanted:
                place = wanted[number]
                return messages.LISTENS_ITSELF.format(
                    container=repr(container.get("name")),
                    port=number,
                    place=f"{place.name}.{place.namespace}",
                )
    return ""


def _name_taken(spec: Json, wanted: Sequence[Json]) -> str:
    ours = {name for alias in wanted for name in alias["hostnames"]}
    for alias in as_maps(spec.get("hostAliases")):
        listed = alias.get("hostnames")
        for name in listed if isinstance(listed, list) else ():
            if isinstance(name, str) and name in ours:
                return messages.HOST_ALIAS.format(name=repr(name))
    return ""


def _file_taken(spec: Json) -> str:
    """The kubelet leaves a hosts file alone that a container brings itself, and writes none of ours into it."""
    for container in containers(spec):
        for mount in as_maps(container.get("volumeMounts")):
            if as_map(mount).get("mountPath") == HOSTS_FILE:
                return messages.HOSTS_FILE.format(container=repr(container.get("name")), file=HOSTS_FILE)
    return ""
