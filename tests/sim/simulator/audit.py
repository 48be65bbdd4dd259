"""What must hold inside an engine at any moment: bounds, and books that add up."""

from __future__ import annotations

from typing import Any

from sidecar.balance.picker import SHARED_METHOD, Slot
from sidecar.splice import peer as peers
from sidecar.splice import replay, states
from sidecar.splice import service as services
from sidecar.splice.backend import MAX_CONNECTIONS
from sidecar.splice.credit import LEND_LIMIT, MAX_LENT_FOR
from sidecar.splice.downstream import Downstream
from sidecar.splice.engine import Engine
from sidecar.wire import frames
from sidecar.wire.connection import CONNECTION_WINDOW, MAX_UNREAD_OUTPUT
from simulator.clock import Violation

# A look at everything costs more than a turn; so many turns apart it costs little.
EVERY = 8


def turn(name: str, engine: Engine, turns: int) -> None:
    """After a turn of the sidecar's loop."""
    if turns % EVERY == 0:
        books(name, engine)


def books(name: str, engine: Engine) -> None:
    """Recount from the streams what the engine keeps as running sums."""
    streams: dict[Any, None] = {}  # one that is answered may be left on the backend's side only
    for peer in all_peers(engine):
        streams.update(dict.fromkeys(peer.streams.values()))
    held_back: dict[Any, int] = {}
    for stream in streams:
        source = stream.request.source
        held_back[source] = held_back.get(source, 0) + stream.request.held_size
    for peer in all_peers(engine):
        _peer(name, peer, held_back.get(peer, 0))
    _context(name, engine, list(streams))
    now = engine._context.now
    opened: dict[Slot, int] = {}
    for stream in streams:
        if stream.slot is not None:
            opened[stream.slot] = opened.get(stream.slot, 0) + 1
        if stream.down is not None:
            _queued(name, stream, now)
    for service in engine.services.values():
        _service(name, service, opened)
    if opened:
        raise Violation("slots", f"{name}: {len(opened)} slots that no balancer counts")


def _queued(name: str, stream: Any, now: float) -> None:
    """A stream that no backend has waits where it will be found again, and not for ever."""
    queued = stream.phase == states.QUEUED
    waits = stream in stream.service.waiting or (
        stream.backend is not None and stream in stream.backend.pending
    )
    if queued != waits and stream.request.state != states.RESET:
        raise Violation(
            "queue", f"{name}: a stream in phase {stream.phase} {'waits' if waits else 'is lost'}"
        )
    if queued and stream.expires < now:
        raise Violation("queue", f"{name}: a stream waits {now - stream.expires:.3f} s too long")


def _context(name: str, engine: Engine, streams: list[Any]) -> None:
    """What is counted over all connections, as far as it can be told from the streams."""
    if engine.errors.counts:
        raise Violation("raises", f"{name}: {engine.errors.last}")
    counted = {
        "streams": sum(len(downstream.streams) for downstream in engine.downstreams),
        "held": sum(s.request.held_size + s.response.held_size for s in streams)
        + sum(int(peer.unsent) for peer in all_peers(engine)),
        "lent": sum(int(s.request.lent + s.response.lent) for s in streams),
        "blocks": sum(len(s.block) for s in streams if s.block and len(s.block) > replay.SMALL_BLOCK),
        "replay": sum(int(s.request.replay_size) for s in streams),
        "blocks under way": sum(int(peer.block_counted) for peer in all_peers(engine)),
    }
    kept = engine.kept()
    if any(kept[what] != number for what, number in counted.items()):
        raise Violation("books", f"{name}: there are {counted}, and the books say {kept}")


def all_peers(engine: Engine) -> list[Any]:
    found: list[Any] = list(engine.downstreams)
    for service in engine.services.values():
        for backend in [*service.backends.values(), *service.retiring]:
            found += backend.upstreams
    return found


def _peer(name: str, peer: Any, held_back: int) -> None:
    held_for = lent_for = 0
    is_client = isinstance(peer, Downstream)
    for stream in peer.streams.values():
        outbound = stream.response if is_client else stream.request
        inbound = stream.request if is_client else stream.response
        if outbound.sink is peer:
            held_for += outbound.held_size
            lent_for += outbound.lent
            if outbound.held_size > LEND_LIMIT + frames.DEFAULT_WINDOW:
                raise Violation("bounds", f"{name}: a stream holds {outbound.held_size} octets")
        for half in (outbound, inbound):
            data, trailers = sum(map(len, half.held or [])), len(half.trailers or b"")
            if half.held_size not in (data, data + trailers):
                raise Violation(
                    "books", f"{name}: a half holds {data} and {trailers} octets, and says {half.held_size}"
                )
    if (held_for, held_back, lent_for) != (peer.held_for, peer.held_back, peer.lent_for):
        raise Violation(
            "books",
            f"{name}: held for, held back, lent are {held_for}, {held_back}, {lent_for}; "
            f"the books say {peer.held_for}, {peer.held_back}, {peer.lent_for}",
        )
    for what, value, most in (
        ("held", peer.held_for, peers.MAX_HELD_FOR),
        ("lent", peer.lent_for, MAX_LENT_FOR + LEND_LIMIT),
        ("held back", peer.held_back, CONNECTION_WINDOW),
        ("unsent", peer.unsent, MAX_UNREAD_OUTPUT),
        ("tombstones", len(peer._tombstones), peers.MAX_TOMBSTONES),
        ("send window", -peer.send_window, 0),
        ("receive window", peer.receive_window, CONNECTION_WINDOW),
    ):
        if value > most:
            raise Violation("bounds", f"{name}: {value} {what}, of {most} at most")


def _service(name: str, service: Any, opened: dict[Slot, int]) -> None:
    if service.queued() > services.MAX_QUEUED:
        raise Violation("bounds", f"{name}: {service.queued()} streams wait")
    for backend in service.backends.values():
        usable = [u for u in backend.upstreams if not u.draining and not u.stalled]
        if len(usable) > MAX_CONNECTIONS:
            raise Violation("bounds", f"{name}: {len(usable)} connections to {backend.endpoint.host}")
        if backend.retired:
            raise Violation("books", f"{name}: a retired backend is in use")
    per_member: dict[Any, int] = {}
    for method in service._balancer._methods.values():
        total = 0
        for member, slot in method.slots.items():
            if slot.open != opened.pop(slot, 0):
                raise Violation("slots", f"{name}: {slot.open} streams of {method.name!r} counted wrongly")
            per_member[member] = per_member.get(member, 0) + slot.open
            total += slot.open
        if total != method.open:
            raise Violation("slots", f"{name}: {method.name!r} counts {method.open}, its members {total}")
    for backend in [*service.backends.values(), *service.retiring]:
        if backend.open_streams != per_member.get(backend, 0):
            raise Violation("slots", f"{name}: {backend.endpoint.host} counts {backend.open_streams}")


class Promise:
    """docs/adr/0003: a stream goes to an endpoint with the fewest open streams of its own method.

    Looked at around each read: where that only added streams, none may stand on an endpoint that has two more
    than another one in rotation.
    """

    def __init__(self, name: str, engine: Engine) -> None:
        self._name = name
        self._engine = engine
        self._before = self._slots()
        self._started = self._opened()

    def _slots(self) -> dict[Any, Slot]:
        return {
            stream: stream.slot
            for downstream in self._engine.downstreams
            for stream in downstream.streams.values()
            if stream.slot is not None
        }

    def _opened(self) -> int:
        return sum(int(service.stats.started) for service in self._engine.services.values())

    def check(self) -> None:
        before, now = self._before, self._slots()
        added = len(now) - len(before)
        if added <= 0 or added != self._opened() - self._started:
            return  # some were over within the read, or had waited
        if any(now.get(stream) is not slot for stream, slot in before.items()):
            return
        for stream, slot in now.items():
            if stream not in before:
                self._fewest(stream, slot)

    def _fewest(self, stream: Any, slot: Slot) -> None:
        method = slot.method
        assert method is not None
        path = stream.path if stream.is_grpc else SHARED_METHOD
        if method.name not in (path, SHARED_METHOD):
            raise Violation("promise", f"{self._name}: {path!r} is counted as {method.name!r}")
        for backend in stream.service.backends.values():
            if backend.in_rotation:
                other = method.slots.get(backend)
                if other is None or other.open < slot.open - 1:
                    raise Violation(
                        "promise",
                        f"{self._name}: {path!r} has {slot.open} on {slot.member.endpoint.host} and "
                        f"{other.open if other else 'none'} on {backend.endpoint.host}",
                    )
