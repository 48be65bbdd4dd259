"""What lies below the API server on discovery's ladder: the cluster's DNS, and the pod's volume in memory.

`sidecar/discovery/dns.py` and the file of `saved.py` have tests of their own with the real thing; here stands what
the ladder sees of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from sidecar.discovery.catalog import FaultLog
from sidecar.discovery.dns import ANSWER_SECONDS, Answer, Name
from sidecar.discovery.saved import Saved, decode, encode
from simulator import oracle

if TYPE_CHECKING:
    from simulator.apiserver import ApiServer

LATENCY = 0.005


class ClusterDns:
    """Answers for headless Services, from the API server's objects, unless it is down. Shaped as `Dns`."""

    def __init__(self, api: ApiServer, woken: Callable[[float], None]) -> None:
        self.asked = 0
        self.faults = FaultLog()
        self._api = api
        self._woken = woken
        self._names: list[Name] = []
        self._due = float("inf")

    def busy(self) -> bool:
        return bool(self._names)

    def ask(self, names: Iterable[Name], now: float) -> None:
        if not self._names:
            self._names = list(names)
            self.asked += len(self._names)
            self._due = now + (ANSWER_SECONDS if self._api.dns_down else LATENCY)
            self._woken(self._due)

    def take(self) -> Sequence[Answer]:
        if self._due > self._api.now:
            return []
        names, self._names, self._due = self._names, [], float("inf")
        if self._api.dns_down:
            return []
        found = [(name, oracle.endpoints(self._api.server.objects, name.name, 50051)) for name in names]
        return [Answer(name, tuple(sorted(host for host, _ in hosts))) for name, hosts in found if hosts]

    def tick(self, now: float) -> None:
        pass

    def deadline(self) -> float:
        return self._due

    def close(self) -> None:
        self._names, self._due = [], float("inf")


class Volume:
    """Shaped as `StateFile`; outlives the sidecar."""

    path = "the pod's volume"

    def __init__(self) -> None:
        self._data: bytes | None = None

    def load(self) -> Saved | None:
        return None if self._data is None else decode(self._data)

    def store(self, saved: Saved) -> None:
        self._data = encode(saved)
