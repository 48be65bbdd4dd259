"""Endpoints from a JSON file of Service and EndpointSlice objects, followed as it changes.

The file is what `kubectl get svc,endpointslices -o json` prints: a List whose items carry their kind.
It may be replaced by rename, rewritten in place, or be a ConfigMap's volume, where a symlink is swapped.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from sidecar.balance.endpoints import ServicePort, Snapshot
from sidecar.discovery.catalog import Emitter, FaultLog, resolution_of, summary
from sidecar.discovery.reading import read_up_to
from sidecar.discovery.slices import (
    MalformedError,
    ServiceInfo,
    SliceInfo,
    canonical_ip,
    object_key,
    parse_service,
    parse_slice,
    shown,
)
from sidecar.discovery.source import LIVE, MEMORY, NONE, Resolution, Standing

# One stat call each: 20 a second cost 0.01 % of a core, and a change is seen well within 100 ms.
POLL_SECONDS: Final = 0.05
# A List of 5,000 pods is about 5 MB; JSON takes some 6 times its size in memory while it is decoded.
MAX_FILE_BYTES: Final = 16 * 1024 * 1024
# Two writes within one tick of the kernel's clock (at most 10 ms) can leave size and mtime equal. A file is
# read again one poll after it was found changed, so a write hidden this way is still seen.
_STEADY_POLLS: Final = 1


class _Stamp(NamedTuple):
    """What changes whenever the file does."""

    device: int
    inode: int
    size: int
    mtime_ns: int


class Contents(NamedTuple):
    """A whole file, decoded."""

    services: Mapping[tuple[str, str], ServiceInfo]  # by namespace and name
    slices: Mapping[tuple[str, str], tuple[SliceInfo, ...]]  # by namespace and Service name
    by_ip: Mapping[str, ServiceInfo]  # by canonical cluster IP
    faults: tuple[str, ...]  # a line for each part left out


def decode(data: bytes) -> Contents:
    """The objects in a file. Parts of an object may be left out, see `faults`.

    Raises MalformedError if it is not JSON, no List, or an item is wholly wrong: leaving out a whole
    Service or EndpointSlice would take its endpoints away, and the last good file knows better.
    """
    if len(data) > MAX_FILE_BYTES:
        raise MalformedError(f"larger than {MAX_FILE_BYTES} bytes, the most that is read")
    try:
        top = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"not JSON: {error}") from None
    if not isinstance(top, dict) or top.get("kind") != "List" or not isinstance(top.get("items"), list):
        raise MalformedError(
            f"top level is {shown(top)}; it must be a List with items, "
            "as kubectl get svc,endpointslices -o json prints"
        )
    services: dict[tuple[str, str], ServiceInfo] = {}
    slices: dict[tuple[str, str], SliceInfo] = {}
    faults: list[str] = []
    for index, item in enumerate(top["items"]):
        if not isinstance(item, dict):
            raise MalformedError(f"items[{index}] is {shown(item)}; it must be an object")
        if item.get("kind") == "Service":
            service = parse_service(item)
            services[service.namespace, service.name] = service
            faults.extend(service.faults)
        elif item.get("kind") == "EndpointSlice":
            one = parse_slice(item)
            slices[object_key(item, "EndpointSlice")] = one
            faults.extend(one.faults)
    grouped: dict[tuple[str, str], list[SliceInfo]] = {}
    for one in slices.values():
        grouped.setdefault((one.namespace, one.service), []).append(one)
    return Contents(
        services,
        {key: tuple(group) for key, group in grouped.items()},
        {ip: service for service in services.values() for ip in service.cluster_ips},
        tuple(faults),
    )


class FileSource:
    """A Source over one file. Reads it at the first `tick` (or `watch` or `resolve`), then as it changes."""

    def __init__(self, path: str) -> None:
        """`path`: the JSON file; it need not exist yet. Nothing is read and nothing raised here."""
        self._path = path
        self._emit = Emitter("file")
        self._faults = FaultLog()
        self._watched: dict[ServicePort, None] = {}
        self._contents: Contents | None = None
        self._stamp: _Stamp | None = None
        self._digest: int | None = None  # of the bytes decoded last
        self._verdict = ""  # what was wrong with them, "" if nothing
        self._left_out = ""  # what of them was left out
        self._polls_to_steady = 0
        self._due = -math.inf
        self._confirmed_at = math.nan  # when the file was last seen to be what is in force
        self._good = False  # whether the file as it stands now is what is in force
        self._closed = False
        self._loads = 0
        self._malformed = 0

    def watch(self, service: ServicePort, now: float) -> None:
        self._watched[service] = None
        self._poll_if_due(now)
        self._announce(service, now)

    def unwatch(self, service: ServicePort, now: float) -> None:
        self._watched.pop(service, None)
        self._emit.forget(service)

    def resolve(self, host: str, port: int, now: float) -> None:
        """A file that was never good answers `failed`: which Service it is cannot be known yet."""
        self._poll_if_due(now)
        if self._contents is None:
            self._emit.resolution(Resolution(host, port, None, failed=True))
            return
        try:
            service = self._contents.by_ip.get(canonical_ip(host))
        except ValueError:
            service = None
        answer = resolution_of(host, port, service)
        self._emit.resolution(answer)

    def tick(self, now: float) -> None:
        self._poll_if_due(now)

    def deadline(self) -> float:
        return math.inf if self._closed else self._due

    def events(self) -> Sequence[Snapshot | Resolution]:
        return self._emit.take()

    def synced(self) -> bool:
        return self._contents is not None

    def standing(self, service: ServicePort, now: float) -> Standing:
        if not self._emit.answered(service):
            return Standing(NONE, None)
        return Standing(LIVE if self._good else MEMORY, now - self._confirmed_at)

    def failing(self, service: ServicePort, now: float) -> None:
        """The file is all there is."""

    def status(self, now: float) -> dict[str, Any]:
        """`state`: live, stale (the file is bad, an earlier one is in force), waiting (none was good)."""
        state = "waiting" if self._contents is None else "live" if self._good else "stale"
        return {
            "kind": "file",
            "path": self._path,
            "state": state,
            "age_seconds": None if math.isnan(self._confirmed_at) else round(now - self._confirmed_at, 3),
            "last_error": self._faults.last,
            "counters": {"loads": self._loads, "malformed": self._malformed},
            "services": {
                str(service): {
                    "endpoints": self._emit.size(service),
                    "answered": self._emit.answered(service),
                }
                for service in self._watched
            },
        }

    def close(self, now: float) -> None:
        self._closed = True
        self._watched.clear()
        self._emit.take()

    def _poll_if_due(self, now: float) -> None:
        if self._closed or now < self._due:
            return
        self._due = now + POLL_SECONDS
        try:
            stamp = self._look()
            if stamp == self._stamp and not self._polls_to_steady:
                if self._good:
                    self._confirmed_at = now
                return
            self._polls_to_steady = _STEADY_POLLS if stamp != self._stamp else self._polls_to_steady - 1
            data = read_up_to(self._path, MAX_FILE_BYTES)
        except OSError as error:
            # Gone for now: whatever appears next is new, even if it looks the same.
            self._stamp = None
            self._bad(f"{self._path}: {error.strerror or error}")
            return
        self._load(data, now)
        self._stamp = stamp

    def _look(self) -> _Stamp:
        found = os.stat(self._path)  # noqa: PTH116 - pathlib imports urllib.parse: memory
        return _Stamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)

    def _load(self, data: bytes, now: float) -> None:
        digest = hash(data)
        if digest != self._digest:  # else touched, or replaced by its like
            # Should this raise, for want of memory or by a bug of ours, it is tried again.
            self._good, self._digest = False, None
            self._verdict = self._decode(data, now)
            self._digest = digest
        if self._verdict:
            self._bad(f"{self._path}: {self._verdict}")
            return
        self._good, self._confirmed_at = True, now
        if not self._left_out:
            self._faults.clear()

    def _decode(self, data: bytes, now: float) -> str:
        """Put the contents in force and return "", or return what is wrong with them."""
        try:
            contents = decode(data)
        except MalformedError as error:
            self._malformed += 1
            return str(error)
        self._contents = contents
        self._loads += 1
        self._malformed += len(contents.faults)
        self._left_out = summary(contents.faults)
        if self._left_out:
            self._faults.report(f"{self._path}: {self._left_out}; left out")
        for service in self._watched:
            self._announce(service, now)
        return ""

    def _bad(self, fault: str) -> None:
        self._good = False
        in_force = "the last good one stays in force" if self._contents else "no endpoints yet"
        self._faults.report(f"{fault}; {in_force}")

    def _announce(self, wanted: ServicePort, now: float) -> None:
        if self._contents is None or self._closed:
            return
        key = (wanted.namespace, wanted.name)
        service = self._contents.services.get(key)
        self._emit.snapshot(wanted, service, self._contents.slices.get(key, ()), now)
