"""What discovery tells and balancing needs: Service ports, their endpoints, whole snapshots of them."""

from __future__ import annotations

from typing import NamedTuple


class ServicePort(NamedTuple):
    """One port of one Service: the unit that is balanced."""

    namespace: str
    name: str
    port: int  # the Service's own port, not the target port

    def __str__(self) -> str:
        return f"{self.name}.{self.namespace}:{self.port}"


class Endpoint(NamedTuple):
    """One address that serves a Service port. Equal host and port: the same endpoint."""

    host: str  # an IP address
    port: int
    pod: str = ""  # for people: the target's name, empty if unknown
    zone: str = ""

    @property
    def address(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Snapshot(NamedTuple):
    """All endpoints of a Service port that may be given new streams, at one moment. Replaces the one before."""

    service: ServicePort
    endpoints: tuple[Endpoint, ...]
    source: str  # "kubernetes" or "file"
    taken_at: float  # seconds, the clock the source was given
    exists: bool = True  # False: the source knows of no such Service or port
