"""What a sidecar leaves for the one that takes its place in the same pod: endpoints and whose addresses are whose.

One JSON file, replaced as a whole, read once at the start. It is not trusted: whatever in it is not as
`encode` writes it makes all of it void. Times are of the wall clock, the one clock two processes share.
"""

from __future__ import annotations

import json
import math
import os
from typing import Any, Final, NamedTuple

from sidecar.balance.endpoints import Endpoint, ServicePort
from sidecar.discovery.reading import read_up_to
from sidecar.discovery.slices import MalformedError, canonical_ip, shown

FILE_NAME: Final = "endpoints.json"
FORMAT: Final = 1
# 60,000 endpoints. The state volume is four times as large (injector/admission/containers.py).
MAX_FILE_BYTES: Final = 4 * 1024 * 1024
# Service ports and addresses kept: many times what one pod calls. The one not heard of for longest goes first.
MAX_PORTS: Final = 512
MAX_ADDRESSES: Final = 2048
# A DNS name, and the longest name Kubernetes gives an object.
_MAX_TEXT: Final = 253


class SavedPort(NamedTuple):
    """The endpoints of a Service port that exists, as the API server told them."""

    endpoints: tuple[Endpoint, ...]
    at: float  # wall clock: when they were last known to be so


class SavedAddress(NamedTuple):
    """Which Service port stands behind an address and port."""

    service: ServicePort
    declared_grpc: bool


class Saved:
    """Everything that is kept."""

    def __init__(self) -> None:
        self.ports: dict[ServicePort, SavedPort] = {}
        self.addresses: dict[tuple[str, int], SavedAddress] = {}

    def put(self, service: ServicePort, endpoints: tuple[Endpoint, ...], at: float) -> None:
        self.ports.pop(service, None)
        while len(self.ports) >= MAX_PORTS:
            del self.ports[next(iter(self.ports))]
        self.ports[service] = SavedPort(endpoints, at)

    def forget(self, service: ServicePort) -> None:
        self.ports.pop(service, None)

    def put_address(self, host: str, port: int, address: SavedAddress) -> bool:
        """False: that was known."""
        if self.addresses.get((host, port)) == address:
            return False
        self.addresses.pop((host, port), None)
        while len(self.addresses) >= MAX_ADDRESSES:
            del self.addresses[next(iter(self.addresses))]
        self.addresses[host, port] = address
        return True


def encode(saved: Saved) -> bytes:
    ports = [
        {"service": list(service), "at": kept.at, "endpoints": [list(e) for e in kept.endpoints]}
        for service, kept in saved.ports.items()
    ]
    addresses = [
        {"address": [host, port], "service": list(kept.service), "grpc": kept.declared_grpc}
        for (host, port), kept in saved.addresses.items()
    ]
    top = {"format": FORMAT, "ports": ports, "addresses": addresses}
    return json.dumps(top, separators=(",", ":")).encode("ascii")


def decode(data: bytes) -> Saved:
    """Raises MalformedError for anything that `encode` does not write."""
    if len(data) > MAX_FILE_BYTES:
        raise MalformedError(f"larger than {MAX_FILE_BYTES} bytes, the most that is read")
    try:
        top = json.loads(data)
        if top["format"] != FORMAT:
            raise MalformedError(f"format is {shown(top['format'])}; this version reads {FORMAT}")
        saved = Saved()
        for item in _listed(top["ports"], MAX_PORTS):
            endpoints = tuple(_endpoint(*each) for each in item["endpoints"])
            saved.ports[_service(*item["service"])] = SavedPort(endpoints, _time(item["at"]))
        for item in _listed(top["addresses"], MAX_ADDRESSES):
            host, port = item["address"]
            if type(item["grpc"]) is not bool:
                raise MalformedError(f"grpc is {shown(item['grpc'])}; it must be true or false")
            address = SavedAddress(_service(*item["service"]), item["grpc"])
            saved.addresses[_ip(host), _port(port)] = address
    except MalformedError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise MalformedError(f"not what is written there: {type(error).__name__}: {error}") from None
    return saved


def _listed(value: Any, most: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > most:
        raise MalformedError(f"{shown(value)} must be a list of at most {most}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise MalformedError(f"{shown(value)} must be a string of at most {_MAX_TEXT} characters")
    return value


def _port(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= 65535:
        raise MalformedError(f"{shown(value)} must be a port")
    return value


def _ip(value: Any) -> str:
    if canonical_ip(_text(value)) != value:
        raise MalformedError(f"{shown(value)} must be an IP address in its canonical form")
    return _text(value)


def _time(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise MalformedError(f"{shown(value)} must be a time")
    return float(value)


def _service(namespace: Any, name: Any, port: Any) -> ServicePort:
    return ServicePort(_text(namespace), _text(name), _port(port))


def _endpoint(host: Any, port: Any, pod: Any, zone: Any) -> Endpoint:
    return Endpoint(_ip(host), _port(port), _text(pod), _text(zone))


class StateFile:
    """The file, in a directory that outlives the process. Blocking, but the volume is in memory."""

    def __init__(self, directory: str) -> None:
        self.path: Final = f"{directory}/{FILE_NAME}"

    def load(self) -> Saved | None:
        """None: there is none. Raises OSError and MalformedError, one line each."""
        try:
            data = read_up_to(self.path, MAX_FILE_BYTES, os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        return decode(data)

    def store(self, saved: Saved) -> None:
        """Whole or not at all, whenever the process ends. Not synced to a disk: it need not outlive the node.

        Raises OSError, and MalformedError if it has grown beyond what would be read.
        """
        data = encode(saved)
        if len(data) > MAX_FILE_BYTES:
            raise MalformedError(f"{len(data)} bytes; at most {MAX_FILE_BYTES} are kept")
        beside = f"{self.path}.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(beside, flags, 0o600), "wb") as file:
            file.write(data)
        os.replace(beside, self.path)  # noqa: PTH105 - pathlib imports urllib.parse: memory
