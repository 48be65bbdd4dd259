"""A source that goes on when the API server does not: the rungs below a live watch.

    live -> memory -> disk -> dns / original

What a live source once told stays in force (memory). A port it has not told of within FALLBACK_SECONDS gets
what a sidecar before this one left on disk. Failing that, the address that the application itself wanted, if
it was captured, and otherwise those that DNS has: either is where its calls would go without us. The
live source's word replaces everything, whenever it comes. docs/adr/0005 tells why in this order.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, Final

from sidecar.balance.endpoints import Endpoint, ServicePort, Snapshot
from sidecar.discovery.catalog import FaultLog
from sidecar.discovery.dns import Answer, Dns, Name
from sidecar.discovery.saved import Saved, SavedAddress, StateFile
from sidecar.discovery.slices import MalformedError
from sidecar.discovery.source import (
    DISK,
    DNS,
    LIVE,
    NONE,
    ORIGINAL,
    Resolution,
    Source,
    Standing,
)

_log: Final = logging.getLogger(__name__)

# What the API server is given to tell of a port or an address it is asked about; a list takes some 10 ms.
# Connections wait for a resolution for 1 s at most (net/capture.py), calls for endpoints for 2.5 s.
FALLBACK_SECONDS: Final = 0.5
# CoreDNS gives Service records a TTL of 5 s unless told otherwise.
DNS_SECONDS: Final = 5.0
# What is older is not used: pods' addresses are given to other pods in time.
TRUSTED_SECONDS: Final = 3600.0
# A watch that is cut is back within moments; only what is older than this may be doubted.
DOUBT_SECONDS: Final = 5.0
# From a change to its being written, if none was written lately: an address and its endpoints come together.
SAVE_SECONDS: Final = 0.1
# From one writing to the next: changes come in bursts, and a write is of everything.
SAVE_EVERY_SECONDS: Final = 1.0
# While nothing changes: how far behind the age on disk may be.
REFRESH_SECONDS: Final = 60.0
# How often a port that fell from what the API server had told is compared with it again.
RETURN_SECONDS: Final = 0.5


class _Port:
    """A Service port in use."""

    def __init__(self, now: float) -> None:
        self.fall_at = now + FALLBACK_SECONDS
        self.rung = NONE  # of what was told last; LIVE stands for memory too
        self.told: Snapshot | None = None
        self.vouched_at = math.nan  # DISK and DNS: when that was last known to be so
        self.live: Snapshot | None = None  # the live source's last word
        self.dns_at = math.inf  # when DNS is to be asked


class Ladder:
    """A Source around a live one."""

    def __init__(
        self,
        live: Source,
        dns: Dns,
        file: StateFile | None,
        *,
        now: float,
        wall: Callable[[], float],
    ) -> None:
        """`wall`: seconds since the epoch, to date what is kept. Reads the file; raises nothing."""
        self._live = live
        self._dns = dns
        self._file = file
        self._wall = wall
        self._faults = FaultLog()
        self._saved = self._load(now)
        self._ports: dict[ServicePort, _Port] = {}
        self._events: list[Snapshot | Resolution] = []
        self._asked: dict[tuple[str, int], list[float]] = {}  # addresses: when each question falls back
        self._owed: dict[
            tuple[str, int], int
        ] = {}  # answered here, and the live source's answer still to come
        self._dirty = False
        self._save_at = math.inf
        self._saved_at = -math.inf  # when it was last written, or tried
        self._due = math.inf
        self._told = dict.fromkeys((DISK, DNS, ORIGINAL), 0)
        self._saves = 0
        self._closed = False

    # Source

    def watch(self, service: ServicePort, now: float) -> None:
        if service not in self._ports and not self._closed:
            port = self._ports[service] = _Port(now)
            self._due = min(self._due, port.fall_at)
        self._live.watch(service, now)

    def unwatch(self, service: ServicePort, now: float) -> None:
        self._ports.pop(service, None)
        self._live.unwatch(service, now)

    def resolve(self, host: str, port: int, now: float) -> None:
        self._asked.setdefault((host, port), []).append(now + FALLBACK_SECONDS)
        self._due = min(self._due, now + FALLBACK_SECONDS)
        self._live.resolve(host, port, now)

    def failing(self, service: ServicePort, now: float) -> None:
        """Out of touch, what was last known may be all gone by now: where would the call go without us?"""
        port = self._ports.get(service)
        if port is None or port.rung not in (LIVE, DISK):
            return
        rung, age = self.standing(service, now)
        if rung == LIVE or (age is not None and age < DOUBT_SECONDS):
            return
        self._fall_beyond(service, port, now)
        self._due = min(self._due, now)

    def tick(self, now: float) -> None:
        if self._live.deadline() <= now:
            self._live.tick(now)
        if self._dns.deadline() <= now:
            self._dns.tick(now)
            self._due = now  # a round is over: when is the next?
        self._take_live()
        self._take_dns(now)
        if now < self._due or self._closed:
            return
        self._answer_late_questions(now)
        for service, port in self._ports.items():
            if port.live is not None and port.rung != LIVE:
                self._return(service, port, now)
            if now >= port.fall_at:
                port.fall_at = math.inf
                self._fall(service, port, now)
        self._ask_dns(now)
        if self._dirty:
            earliest = max(now + SAVE_SECONDS, self._saved_at + SAVE_EVERY_SECONDS)
            self._save_at = min(self._save_at, earliest)
        if now >= self._save_at:
            self._save(now)
        self._due = self._next_due(now)

    def deadline(self) -> float:
        return min(self._live.deadline(), self._dns.deadline(), self._due)

    def events(self) -> Sequence[Snapshot | Resolution]:
        self._take_live()
        if not self._events:
            return ()
        events, self._events = self._events, []
        return events

    def synced(self) -> bool:
        return all(port.told is not None for port in self._ports.values())

    def standing(self, service: ServicePort, now: float) -> Standing:
        port = self._ports.get(service)
        if port is None or port.rung in (NONE, ORIGINAL):
            return Standing(NONE if port is None else port.rung, None)
        if port.rung == LIVE:
            return self._live.standing(service, now)
        return Standing(port.rung, round(now - port.vouched_at, 3))

    def status(self, now: float) -> dict[str, Any]:
        """The live source's, and for each Service the rung that is used."""
        status = self._live.status(now)
        counters = status.setdefault("counters", {})
        counters.update({f"{rung}_snapshots": count for rung, count in self._told.items()})
        counters.update({"dns_questions": self._dns.asked, "saves": self._saves})
        for service in self._ports:
            rung, age = self.standing(service, now)
            status["services"].setdefault(str(service), {}).update({"rung": rung, "rung_age_seconds": age})
        status["last_error"] = status["last_error"] or self._dns.faults.last or self._faults.last
        return status

    def close(self, now: float) -> None:
        if not self._closed:
            self._save(now)
        self._closed = True
        self._dns.close()
        self._live.close(now)
        self._ports.clear()
        self._events.clear()
        self._due = math.inf

    # What the live source says

    def _take_live(self) -> None:
        for event in self._live.events():
            if isinstance(event, Snapshot):
                self._told_live(event)
            else:
                self._resolved(event)

    def _told_live(self, snapshot: Snapshot) -> None:
        service = snapshot.service
        port = self._ports.get(service)
        if port is None:
            return
        port.live = snapshot
        port.fall_at = port.dns_at = math.inf
        if snapshot.exists:
            self._saved.put(service, snapshot.endpoints, self._wall())
        else:
            self._saved.forget(service)
        self._changed()
        self._tell(port, LIVE, snapshot)

    def _resolved(self, event: Resolution) -> None:
        where = (event.host, event.port)
        owed = self._owed.get(where, 0)
        if owed:
            if owed == 1:
                del self._owed[where]
            else:
                self._owed[where] = owed - 1
        else:
            asked = self._asked.get(where)
            if asked is not None:
                del asked[0]
                if not asked:
                    del self._asked[where]
        known = self._saved.addresses.get(where)
        if event.failed:
            if known is not None:
                event = Resolution(*where, known.service, known.declared_grpc)
        elif event.service is not None:
            if self._saved.put_address(*where, SavedAddress(event.service, event.declared_grpc)):
                self._changed()
            port = self._ports.get(event.service)
            if port is not None and port.told is None and port.fall_at == math.inf:
                port.fall_at = -math.inf  # it fell and hit nothing; now there is the address itself
        elif known is not None:
            del self._saved.addresses[where]
            self._changed()
        if not owed:
            self._events.append(event)

    def _answer_late_questions(self, now: float) -> None:
        for where, asked in list(self._asked.items()):
            known = self._saved.addresses.get(where)
            while asked and now >= asked[0]:
                del asked[0]
                if known is not None:
                    self._owed[where] = self._owed.get(where, 0) + 1
                    self._events.append(Resolution(*where, known.service, known.declared_grpc))
            if not asked:
                del self._asked[where]

    # Down and up

    def _fall(self, service: ServicePort, port: _Port, now: float) -> None:
        """The live source has not told in time."""
        kept = self._saved.ports.get(service)
        age = max(0.0, self._wall() - kept.at) if kept is not None else math.inf
        if kept is not None and kept.endpoints and age <= TRUSTED_SECONDS:
            port.vouched_at = now - age
            self._tell(port, DISK, Snapshot(service, kept.endpoints, DISK, port.vouched_at))
        else:
            self._fall_beyond(service, port, now)

    def _fall_beyond(self, service: ServicePort, port: _Port, now: float) -> None:
        """Nothing that the API server said is of use: go where the application would go by itself."""
        where = next((w for w, known in self._saved.addresses.items() if known.service == service), None)
        if where is not None:
            self._tell(port, ORIGINAL, Snapshot(service, (Endpoint(*where),), ORIGINAL, now))
        elif port.dns_at == math.inf:
            port.dns_at = now

    def _return(self, service: ServicePort, port: _Port, now: float) -> None:
        """The live source knew before and is in touch again: its word counts, whether or not it is new."""
        if port.live is not None and self._live.standing(service, now).rung == LIVE:
            port.dns_at = math.inf
            self._tell(port, LIVE, port.live._replace(taken_at=now))

    def _tell(self, port: _Port, rung: str, snapshot: Snapshot) -> None:
        if rung != port.rung and rung != LIVE:
            self._told[rung] += 1
            _log.warning("%s: the API server has not told its endpoints; using %s", snapshot.service, rung)
        elif rung != port.rung and port.rung != NONE:
            _log.info("%s: the API server tells its endpoints again", snapshot.service)
        port.rung, port.told = rung, snapshot
        self._events.append(snapshot)

    # DNS

    def _ask_dns(self, now: float) -> None:
        wanted = [service for service, port in self._ports.items() if now >= port.dns_at]
        if not wanted or self._dns.busy():
            return
        for service in wanted:
            self._ports[service].dns_at = now + DNS_SECONDS
        self._dns.ask(dict.fromkeys(Name(each.namespace, each.name) for each in wanted), now)

    def _take_dns(self, now: float) -> None:
        for answer in self._dns.take():
            for service, port in self._ports.items():
                if (service.namespace, service.name) == answer.name and port.dns_at != math.inf:
                    self._answered_by_dns(service, port, answer, now)

    def _answered_by_dns(self, service: ServicePort, port: _Port, answer: Answer, now: float) -> None:
        endpoints = tuple(Endpoint(host, service.port) for host in answer.addresses)
        port.vouched_at = now
        if port.rung != DNS or port.told is None or port.told.endpoints != endpoints:
            self._tell(port, DNS, Snapshot(service, endpoints, DNS, now))

    # Disk

    def _load(self, now: float) -> Saved:
        if self._file is not None:
            try:
                found = self._file.load()
            except (OSError, MalformedError) as error:
                self._faults.report(f"{self._file.path}: {error}; nothing is taken from it")
            else:
                if found is not None:
                    return found
        return Saved()

    def _changed(self) -> None:
        """Something that is kept has changed. The next `tick`, at once, decides when it is written."""
        self._dirty = True
        self._due = -math.inf

    def _save(self, now: float) -> None:
        self._save_at = now + REFRESH_SECONDS
        for service, port in self._ports.items():
            rung, age = self.standing(service, now)
            if rung == LIVE and age is not None and port.live is not None and port.live.exists:
                self._saved.put(service, port.live.endpoints, self._wall() - age)
                self._dirty = True
        if self._file is None or not self._dirty:
            return
        self._dirty = False
        self._saved_at = now
        try:
            self._file.store(self._saved)
        except (OSError, MalformedError) as error:
            self._faults.report(f"{self._file.path}: {error}; what is known is not kept for a restart")
            return
        self._saves += 1
        self._faults.clear()

    def _next_due(self, now: float) -> float:
        due = self._save_at
        for port in self._ports.values():
            due = min(due, port.fall_at)
            if port.live is not None and port.rung != LIVE:
                due = min(due, now + RETURN_SECONDS)
            if not self._dns.busy():
                due = min(due, port.dns_at)
        return min(due, *(asked[0] for asked in self._asked.values()), math.inf)
