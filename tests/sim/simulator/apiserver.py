"""The API server and the EndpointSlice controller, on the simulator's clock.

The server is `tests/discovery/fakeapi.py`; here are the bytes' way to it and what a controller writes into it.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import fakeapi
import objects

from sidecar.discovery.source import Handler

if TYPE_CHECKING:
    from simulator.clock import Clock
    from simulator.sidecar import Sidecar

LATENCY = 0.001
# Streams on one connection; with fewer, watches have to take turns and are late.
PLENTY = 20


class ApiServer:
    """What `fakeapi` calls its world: time, and bytes that arrive a little later."""

    def __init__(self, clock: Clock, max_streams: int | None) -> None:
        self.clock = clock
        self.latency = LATENCY
        self.server = fakeapi.FakeApiServer(self)  # type: ignore[arg-type]
        self.server.max_streams = max_streams
        self.server.tokens = {""}
        self.written_at = clock.now
        self.has_plenty = max_streams is None or max_streams >= PLENTY
        self.faulty = not self.has_plenty  # or: it has had a fault
        self.dns_down = False
        self._last = 0.0

    @property
    def now(self) -> float:
        return self.clock.now

    def later(self, act: Callable[[], None]) -> None:
        self._last = max(self._last, self.clock.now + self.latency)
        self.clock.at(self._last, act)

    def deliver(self, connection: fakeapi.Connection, data: bytes) -> None:
        connection.dead = connection.dead or self.server.black_hole
        if not connection.dead:
            self.later(lambda: self._received(connection, data))

    def _received(self, connection: fakeapi.Connection, data: bytes) -> None:
        if connection.open:
            connection.handler.received(data, self.now)

    # --- for the plan ----------------------------------------------------------------------------

    def stop(self, seconds: float) -> None:
        self.faulty = True
        self.server.stop()
        self.clock.after(seconds, self.heal)

    def black_hole(self, seconds: float) -> None:
        self.faulty = True
        self.server.black_hole = True
        self.clock.after(seconds, self.heal)

    def stop_dns(self, seconds: float) -> None:
        self.dns_down = True
        self.clock.after(seconds, self.heal_dns)

    def heal_dns(self) -> None:
        self.dns_down = False

    def refuse_tokens(self, seconds: float) -> None:
        """401 for everybody."""
        self.faulty = True
        self.server.tokens = {"another"}
        self.clock.after(seconds, self.heal)

    def heal(self) -> None:
        self.server.tokens = {""}
        self.server.up, self.server.black_hole = True, False
        self.server.faults.clear()

    def drop_watches(self) -> None:
        self.faulty = True
        self.server.end_watches()

    def expire(self) -> None:
        """History is compacted and the watches end: going on from an old version is answered 410."""
        self.faulty = True
        self.server.version += 1
        self.server.compact()
        self.server.end_watches()

    def refuse(self, status: int, times: int) -> None:
        self.faulty = True
        self.server.fail("", status, b"{", times=times)

    def goaway(self) -> None:
        self.faulty = True
        for connection in list(self.server.connections):
            connection.goaway()

    def shuffle(self, rng: random.Random) -> None:
        """Lists come in another order from now on."""
        items = list(self.server.objects.items())
        rng.shuffle(items)
        self.server.objects = dict(items)


class Transport:
    """A sidecar's connection to the API server."""

    def __init__(self, api: ApiServer, sidecar: Sidecar, handler: Handler) -> None:
        self._api = api
        self._sidecar = sidecar
        self._life = sidecar.life
        self._handler = handler
        self.connection: fakeapi.Connection | None = None
        self._closed = False
        self._kept: list[bytes] = []
        api.later(self._answer)

    def _answer(self) -> None:
        server = self._api.server
        if self._closed or server.black_hole:
            return
        if not server.up:
            self.lost("connection refused", self._api.now)
            return
        connection = self.connection = fakeapi.Connection(server, self)
        server.connections.append(connection)
        self._tell(lambda: self._handler.connected(self._api.now))
        for data in self._kept:
            connection.receive(data)
        connection.flush()

    # the source's side

    def write(self, data: bytes) -> None:
        connection = self.connection
        if connection is None:
            self._kept.append(data)
        else:
            self._api.later(lambda: connection.receive(data))

    def close(self) -> None:
        self._closed = True
        connection = self.connection
        if connection is not None:
            self._api.later(lambda: connection.server.hung_up(connection))

    # the server's side; `fakeapi` takes this for its handler

    def connected(self, now: float) -> None:
        raise NotImplementedError

    def received(self, data: bytes, now: float) -> None:
        self._tell(lambda: self._handler.received(data, now))

    def lost(self, reason: str, now: float) -> None:
        self._tell(lambda: self._handler.lost(reason, now))

    def _tell(self, act: Callable[[], None]) -> None:
        if not self._closed and self._sidecar.up and self._sidecar.life == self._life:
            self._sidecar.from_source(act)


def dial_for(api: ApiServer, sidecar: Sidecar) -> Any:
    def dial(
        host: str, port: int, handler: Handler, tls: ssl.SSLContext | None, server_name: str
    ) -> Transport:
        transport = Transport(api, sidecar, handler)
        sidecar.transports.append(transport)
        return transport

    return dial


class Member(NamedTuple):
    """An endpoint as its slice tells it. None: the field is absent."""

    ready: bool | None = True
    serving: bool | None = None
    terminating: bool | None = None


class Controller:
    """Writes the EndpointSlices of one Service, each at its own time."""

    def __init__(self, api: ApiServer, service: str, rng: random.Random) -> None:
        self.api = api
        self.service = service
        self.random = rng
        self.slices: list[dict[str, Member]] = [{}, {}, {}]

    def create(self) -> None:
        self.api.server.put(objects.service(self.service, ip=f"10.96.0.{10 + len(self.service)}"))
        for at in range(len(self.slices)):
            self._write(at)

    def set(self, host: str, member: Member, lag: float) -> None:
        """The endpoint's conditions change wherever it stands; a new one goes into the emptiest slice."""
        found = [at for at, each in enumerate(self.slices) if host in each]
        for at in found or [min(range(len(self.slices)), key=lambda at: len(self.slices[at]))]:
            self.slices[at][host] = member
            self._write_later(at, lag)

    def remove(self, host: str, lag: float) -> None:
        for at, each in enumerate(self.slices):
            if each.pop(host, None) is not None:
                self._write_later(at, lag)

    def move(self, host: str, to: int, lag: float, gap: float) -> None:
        """Into another slice; for `gap` seconds it stands in both, or, if negative, in neither."""
        to %= len(self.slices)
        found = [at for at, each in enumerate(self.slices) if host in each and at != to]
        if not found:
            return
        member = self.slices[found[0]][host]
        for at in found:
            del self.slices[at][host]
            self._write_later(at, lag + max(0.0, gap))
        self.slices[to][host] = member
        self._write_later(to, lag + max(0.0, -gap))

    def duplicate(self, host: str, lag: float) -> None:
        """It stands in two slices from now on."""
        member = next((each[host] for each in self.slices if host in each), None)
        if member is not None:
            for at, each in enumerate(self.slices):
                if host not in each:
                    each[host] = member
                    self._write_later(at, lag)
                    return

    def clear(self) -> None:
        for at in range(len(self.slices)):
            self.slices[at] = {}
            self._write(at)

    def delete_service(self, seconds: float) -> None:
        key = ("Service", "default", self.service)
        if key in self.api.server.objects:
            self.api.written_at = self.api.clock.now
            self.api.server.delete(self.api.server.objects[key])
            self.api.clock.after(seconds, self.create_again)

    def create_again(self) -> None:
        if ("Service", "default", self.service) not in self.api.server.objects:
            self.api.written_at = self.api.clock.now
            self.api.server.put(objects.service(self.service, ip=f"10.96.0.{10 + len(self.service)}"))

    def _write_later(self, at: int, lag: float) -> None:
        if lag > 0.0:
            self.api.clock.after(lag, lambda: self._write(at))
        else:
            self._write(at)

    def _write(self, at: int) -> None:
        members = [
            objects.endpoint(host, **{k: v for k, v in member._asdict().items() if v is not None})
            for host, member in self.slices[at].items()
        ]
        self.api.written_at = self.api.clock.now
        self.api.server.put(objects.endpoint_slice(f"{self.service}-{at}", members, service=self.service))
