"""An API server in memory, with behaviour: versions, lists, watches, selectors, and the faults real ones have.

It speaks HTTP/2 through h2's server side, in virtual time: `World` carries the bytes and moves the clock.
"""

from __future__ import annotations

import json
import random
import re
import ssl
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import h2.config
import h2.connection
import h2.events
import h2.exceptions
from hyperframe.frame import GoAwayFrame

from sidecar.balance.endpoints import ServicePort, Snapshot
from sidecar.discovery.kubernetes import ApiServer, KubernetesSource
from sidecar.discovery.source import Handler, Resolution

RESOURCES = {"Service": "services", "EndpointSlice": "endpointslices"}
PATH = re.compile(r"/(api/v1|apis/discovery\.k8s\.io/v1)(?:/namespaces/([^/]+))?/(services|endpointslices)")


class Watch:
    def __init__(
        self, connection: Connection, stream: int, matches: Callable[[dict[str, Any]], bool]
    ) -> None:
        self.connection, self.stream, self.matches = connection, stream, matches
        self.path = ""
        self.ends_at = 0.0  # as it was asked to


class Connection:
    """One accepted connection: h2's server side."""

    def __init__(self, server: FakeApiServer, handler: Handler) -> None:
        self.server, self.handler = server, handler
        self.open = True
        self.dead = False
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self.pending: dict[int, tuple[bytes, bool]] = {}
        self.h2.initiate_connection()
        if server.max_streams is not None:
            self.h2.update_settings({3: server.max_streams})

    def receive(self, data: bytes) -> None:
        self.dead = self.dead or self.server.black_hole  # bytes are missing: it never recovers
        if not self.open or self.dead:
            return
        for event in self.h2.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                self.server.handle(self, event.stream_id, dict(event.headers))
            elif isinstance(event, h2.events.StreamReset):
                self.server.forget(self, event.stream_id)
            elif isinstance(event, h2.events.WindowUpdated):
                for stream in list(self.pending):
                    self.push(stream)
            elif isinstance(event, h2.events.PingReceived):
                self.server.pings += 1
        self.flush()

    def respond(self, stream: int, status: int, body: bytes | None = None, **headers: str) -> None:
        """Status and headers; with `body` None the stream stays open."""
        fields = [(":status", str(status)), ("content-type", "application/json")]
        self.h2.send_headers(stream, fields + [(k.replace("_", "-"), v) for k, v in headers.items()])
        if body is not None:
            self.send(stream, body, end=True)

    def send(self, stream: int, data: bytes, end: bool = False) -> None:
        before, _ = self.pending.get(stream, (b"", False))
        self.pending[stream] = (before + data, end)
        self.push(stream)

    def push(self, stream: int) -> None:
        data, end = self.pending.pop(stream)
        try:
            while data:
                room = min(self.h2.local_flow_control_window(stream), 16384)
                if not room:
                    self.pending[stream] = (data, end)
                    return
                self.h2.send_data(stream, data[:room])
                data = data[room:]
            if end:
                self.h2.end_stream(stream)
            else:
                self.pending.pop(stream, None)
        except (h2.exceptions.StreamClosedError, h2.exceptions.NoSuchStreamError):
            self.pending.pop(stream, None)

    def flush(self) -> None:
        data = self.h2.data_to_send()
        if data and self.open:
            self.server.world.deliver(self, data)

    def goaway(self, code: int = 0, last: int = 2**31 - 1) -> None:
        """As Go does it: what is open goes on, and the client is to make no more requests."""
        self.flush()
        self.server.world.deliver(self, GoAwayFrame(0, last, code).serialize())

    def drop(self, reason: str = "connection reset by peer") -> None:
        if self.open:
            self.open = False
            self.server.forget(self, None)
            self.server.world.later(lambda: self.handler.lost(reason, self.server.world.now))


class Transport:
    def __init__(self, world: World, handler: Handler) -> None:
        self.world, self.handler = world, handler
        self.connection: Connection | None = None
        self.closed = False
        self.gone = False  # lost: nobody need close it
        self.kept: list[bytes] = []

    def write(self, data: bytes) -> None:
        assert not self.closed, "written after close"
        self.world.octets_up += len(data)
        if self.connection is None:
            self.kept.append(data)
        else:
            connection = self.connection
            self.world.later(lambda: connection.receive(data))

    def close(self) -> None:
        self.closed = True
        connection = self.connection
        if connection is not None:
            self.world.later(lambda: connection.server.hung_up(connection))


class FakeApiServer:
    def __init__(self, world: World) -> None:
        self.world = world
        self.up = True
        self.black_hole = False
        self.max_streams: int | None = 100
        self.tokens = {"good"}
        self.version = 100
        self.oldest = 0  # versions below it are compacted
        self.objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.history: list[tuple[int, str, dict[str, Any]]] = []
        self.connections: list[Connection] = []
        self.watches: list[Watch] = []
        self.requests: list[str] = []
        self.authorizations: list[str] = []
        self.dials = 0
        self.pings = 0
        self.faults: list[tuple[str, Callable[[Connection, int], None]]] = []
        self.forbidden: list[str] = []  # a path that starts so is refused
        self.overloaded: tuple[int, dict[str, str]] | None = None  # every request is answered so

    # What a test does to it

    def put(self, obj: dict[str, Any]) -> None:
        key = (obj["kind"], obj["metadata"]["namespace"], obj["metadata"]["name"])
        kind = "MODIFIED" if key in self.objects else "ADDED"
        self.objects[key] = obj
        self._event(kind, obj)

    def delete(self, obj: dict[str, Any]) -> None:
        del self.objects[obj["kind"], obj["metadata"]["namespace"], obj["metadata"]["name"]]
        self._event("DELETED", obj)

    def bookmark(self) -> None:
        for watch in self.watches:
            self._send(watch, "BOOKMARK", {"metadata": {"resourceVersion": str(self.version)}})

    def compact(self) -> None:
        """Forget all history, as etcd's compaction does."""
        self.oldest = self.version
        self.history.clear()

    def end_watches(self, *, due: bool = False) -> None:
        """All of them, or those that were not asked to last longer."""
        for watch in [w for w in self.watches if not due or w.ends_at <= self.world.now]:
            self.watches.remove(watch)
            watch.connection.send(watch.stream, b"", end=True)
            watch.connection.flush()

    def inject(self, line: bytes, only: str = "") -> None:
        """Bytes on every open watch whose path has `only` in it."""
        for watch in [w for w in self.watches if only in w.path]:
            watch.connection.send(watch.stream, line)
            watch.connection.flush()

    def fail(
        self, match: str, status: int, body: dict[str, Any] | bytes = b"", times: int = 1, **headers: str
    ) -> None:
        """The next `times` requests whose path has `match` in it are answered so."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        for _ in range(times):
            self.faults.append((match, lambda c, s: c.respond(s, status, data, **headers)))

    def misbehave(self, match: str, how: Callable[[Connection, int], None]) -> None:
        self.faults.append((match, how))

    def stop(self) -> None:
        """Everything is cut and nothing is accepted until `up` is set."""
        self.up = False
        for connection in list(self.connections):
            connection.drop()
        self.connections.clear()

    # What it does

    def handle(self, connection: Connection, stream: int, headers: dict[bytes, bytes]) -> None:
        path = headers[b":path"].decode()
        authorization = headers.get(b"authorization", b"").decode()
        self.requests.append(path)
        self.authorizations.append(authorization)
        if self.overloaded is not None:
            status, fields = self.overloaded
            connection.respond(stream, status, b"", **fields)
            return
        for index, (match, fault) in enumerate(self.faults):
            if match in path:
                del self.faults[index]
                fault(connection, stream)
                return
        if authorization.removeprefix("Bearer ") not in self.tokens:
            connection.goaway()  # the real one says Connection: close with each 401
            connection.respond(stream, 401, _status(401, "Unauthorized"))
        elif any(path.startswith(prefix) for prefix in self.forbidden):
            connection.respond(stream, 403, _status(403, "services is forbidden: User cannot list"))
        else:
            self._answer(connection, stream, path)

    def _answer(self, connection: Connection, stream: int, path: str) -> None:
        split = urlsplit(path)
        found = PATH.fullmatch(split.path)
        if found is None:
            connection.respond(stream, 404, _status(404, "not found"))
            return
        query = {key: values[0] for key, values in parse_qs(split.query).items()}
        matches = _matcher(found[3], found[2], query)
        if "watch" not in query:
            items = [o for o in self.objects.values() if matches(o)]
            listing = {"metadata": {"resourceVersion": str(self.version)}, "items": items}
            connection.respond(stream, 200, json.dumps(listing).encode())
            return
        since = int(query["resourceVersion"])
        if since < self.oldest:
            connection.respond(stream, 200)
            error = {"type": "ERROR", "object": json.loads(_status(410, "too old resource version"))}
            connection.send(stream, json.dumps(error).encode() + b"\n", end=True)
            return
        connection.respond(stream, 200)
        watch = Watch(connection, stream, matches)
        watch.path = path
        watch.ends_at = self.world.now + float(query.get("timeoutSeconds", "1800"))
        self.watches.append(watch)
        for version, kind, obj in self.history:
            if version > since and matches(obj):
                self._send(watch, kind, obj)

    def _event(self, kind: str, obj: dict[str, Any]) -> None:
        self.version += 1
        obj["metadata"]["resourceVersion"] = str(self.version)
        self.history.append((self.version, kind, json.loads(json.dumps(obj))))
        for watch in list(self.watches):
            if watch.matches(obj):
                self._send(watch, kind, obj)

    def _send(self, watch: Watch, kind: str, obj: dict[str, Any]) -> None:
        line = json.dumps({"type": kind, "object": obj}).encode() + b"\n"
        watch.connection.send(watch.stream, line)
        watch.connection.flush()

    def forget(self, connection: Connection, stream: int | None) -> None:
        self.watches = [
            w for w in self.watches if w.connection is not connection or (stream not in (None, w.stream))
        ]

    def hung_up(self, connection: Connection) -> None:
        connection.open = False
        self.forget(connection, None)
        if connection in self.connections:
            self.connections.remove(connection)


def _matcher(resource: str, namespace: str | None, query: dict[str, str]) -> Callable[[dict[str, Any]], bool]:
    label = query.get("labelSelector", "")
    field = query.get("fieldSelector", "")

    def matches(obj: dict[str, Any]) -> bool:
        metadata = obj["metadata"]
        if RESOURCES[obj["kind"]] != resource or (namespace and metadata["namespace"] != namespace):
            return False
        if label:
            key, _, value = label.partition("=")
            return bool(metadata.get("labels", {}).get(key) == value)
        key, _, value = field.partition("=")
        known = {"metadata.name": metadata["name"], "spec.clusterIP": obj.get("spec", {}).get("clusterIP")}
        return bool(known[key] == value)

    return matches


def _status(code: int, message: str) -> bytes:
    return json.dumps({"kind": "Status", "code": code, "message": message}).encode()


class World:
    """The clock, the network of zero delay and one source. `events` are all it yielded so far."""

    def __init__(self, token: Path, *, seed: int = 1, piece: int = 0) -> None:
        self.now = 1000.0
        self.piece = piece  # bytes arrive in pieces of at most so many; 0: as they were sent
        self.server = FakeApiServer(self)
        self.token = token
        self.token.write_text("good\n")
        self.events: list[Snapshot | Resolution] = []
        self.transports: list[Transport] = []
        self.stalled_dial = False
        self.octets_up = self.octets_down = 0  # to and from the API server, without TLS
        self._queue: deque[Callable[[], None]] = deque()
        self._random = random.Random(seed)
        self.source = self.make_live()

    def make_live(self) -> KubernetesSource:
        where = ApiServer("10.96.0.1", 443, None, str(self.token))
        return KubernetesSource(where, dial=self.dial, now=self.now, random=self._random, namespace="default")

    def dial(
        self, host: str, port: int, handler: Handler, tls: ssl.SSLContext | None, server_name: str
    ) -> Transport:
        transport = Transport(self, handler)
        self.transports.append(transport)
        self.server.dials += 1
        if not self.stalled_dial:
            self.later(lambda: self._accept(transport))
        return transport

    def _accept(self, transport: Transport) -> None:
        if transport.closed or self.server.black_hole:
            return
        if not self.server.up:
            transport.gone = True
            transport.handler.lost("connection refused", self.now)
            return
        connection = Connection(self.server, transport.handler)
        transport.connection = connection
        self.server.connections.append(connection)
        transport.handler.connected(self.now)
        for data in transport.kept:
            connection.receive(data)
        connection.flush()

    def later(self, act: Callable[[], None]) -> None:
        self._queue.append(act)

    def deliver(self, connection: Connection, data: bytes) -> None:
        connection.dead = connection.dead or self.server.black_hole
        if connection.dead:
            return
        self.octets_down += len(data)
        size = self.piece or len(data)
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            self.later(lambda piece=piece: self._received(connection, piece))  # type: ignore[misc]

    def _received(self, connection: Connection, data: bytes) -> None:
        open_transports = [t for t in self.transports if t.connection is connection and not t.closed]
        if open_transports and connection.open:
            connection.handler.received(data, self.now)

    def settle(self) -> list[Snapshot | Resolution]:
        """Carry all bytes that are on their way. Returns what the source yielded since the last time."""
        for _ in range(200_000):
            if not self._queue:
                break
            self._queue.popleft()()
        else:
            raise AssertionError("the bytes never come to rest")
        new = list(self.source.events())
        self.events += new
        return new

    def advance(self, seconds: float) -> list[Snapshot | Resolution]:
        """Let time pass, waking the source whenever it asked to be."""
        until = self.now + seconds
        found = self.settle()
        for _ in range(100_000):
            due = self.source.deadline()
            if due > until:
                break
            self.now = max(self.now, due)
            self.source.tick(self.now)
            found += self.settle()
        else:
            raise AssertionError("the source asks to be woken without end")
        self.now = until
        return found

    def watch(self, wanted: ServicePort) -> list[Snapshot | Resolution]:
        self.source.watch(wanted, self.now)
        return self.settle()

    def resolve(self, host: str, port: int) -> list[Snapshot | Resolution]:
        self.source.resolve(host, port, self.now)
        return self.settle()

    def state(self) -> str:
        return str(self.source.status(self.now)["state"])

    def counter(self, name: str) -> int:
        return int(self.source.status(self.now)["counters"][name])

    def last_error(self) -> str:
        return str(self.source.status(self.now)["last_error"])
