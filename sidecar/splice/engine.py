"""The engine: all connections of one sidecar, without sockets and without a clock.

Times (`now`, `deadline()`) are seconds of the caller's clock, which never goes back.

Call order. After any call the caller, once a turn: connects each of `take_dials()` and reports `connected`
or `lost`; writes `take_output()` of each of `take_touched()`, tells the peer with `not_written` if the socket is
broken and took none of it, reports what it has not taken yet with `socket_state`, and closes the socket once a
`finished` connection has no output left (at once if it is `gone`). `tick` is due at `deadline()`. Whoever can see
a connection's packets tells `stalled`. Nothing here raises for what a peer does. An exception, which is a bug of
ours, ends the connection that was being handled (`failed`, which the caller tells its own to); only `accept` and
`service` let through what comes before there is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

from mypy_extensions import i64

from sidecar.balance.endpoints import ServicePort, Snapshot
from sidecar.balance.outlier import Ejection
from sidecar.splice import recovery
from sidecar.splice.context import MAX_HELD_IN_ALL, Context, Timer
from sidecar.splice.downstream import Downstream
from sidecar.splice.internal import InternalErrors
from sidecar.splice.peer import Peer
from sidecar.splice.service import Service
from sidecar.splice.stats import Totals
from sidecar.splice.unfinished import Unfinished
from sidecar.splice.upstream import Upstream
from sidecar.wire.memo import BlockMemo

# A client answers the PING of a graceful GOAWAY in a round trip; one that does not is told all the same.
DRAIN_GRACE: Final = 1.0
# A client that connects during the drain has calls to make still, and is sent away only so much later: gRPC's C-core
# takes a GOAWAY before its first call for a connection that could not be made, and fails its calls.
DRAIN_STAY: Final = 0.5
# After a snapshot or a timer that something stands still without was not taken in because of a bug of ours: once more.
AGAIN_AFTER: Final = 5.0


@final
class Engine:
    def __init__(self, seed: int) -> None:
        self._context = Context(seed)
        self.services: dict[ServicePort, Service] = {}
        self.downstreams: dict[Downstream, None] = {}
        self._upstreams: dict[Upstream, None] = {}  # dialled and not lost yet
        self.draining: bool = False
        self._unfinished = Unfinished(self, self._context)

    @property
    def totals(self) -> Totals:
        return self._context.totals

    @property
    def errors(self) -> InternalErrors:
        return self._context.errors

    @property
    def memo(self) -> BlockMemo:
        return self._context.memo

    def eject_outliers(self, rules: Ejection | None) -> None:
        """From now on endpoints whose calls keep failing rest for a while; None: they do not."""
        self._context.ejection = rules

    def service(self, key: ServicePort) -> Service:
        """The Service port, known from now on; the caller sees to it that snapshots of it come."""
        found = self.services.get(key)
        if found is None:
            found = Service(self._context, key)
            self.services[key] = found
        return found

    def update(self, snapshot: Snapshot, now: float) -> None:
        self._context.now = now
        try:
            self.service(snapshot.service).update(snapshot)
        except Exception as error:
            self.failed("snapshot", error, None, now)
            self._context.after(AGAIN_AFTER, _UpdateAgain(self, snapshot))

    def update_again(self, snapshot: Snapshot) -> None:
        """It could not be taken in whole. If there is none newer, what is left of it may go now."""
        service = self.service(snapshot.service)
        if service.snapshot is None or service.snapshot is snapshot:
            service.update(snapshot)

    # --- errors of ours --------------------------------------------------------------------------

    def failed(self, where: str, error: Exception, peer: Peer | None, now: float) -> None:
        """A bug of ours has shown itself while `peer` was handled, or none: that connection ends, the others go on.

        Never raises. `where`: what was being done, for people.
        """
        self._context.errors.note(where, error, now)
        self.recover(error, peer, now)

    def recover(self, error: Exception, peer: Peer | None, now: float) -> None:
        """`failed` for what has been noted already."""
        context = self._context
        context.now = now
        if peer is not None:
            peer.now = now
            try:
                # Without memory its output may have been cut short: whatever is written behind it would be misread.
                recovery.end_connection(context, peer, isinstance(error, MemoryError))
            except Exception as again:
                context.errors.note("recovery", again, now)
                peer.abort()
        try:
            recovery.mend(context, self.services.values(), self.peers())
        except Exception as again:
            context.errors.note("recovery", again, now)

    # --- connections -----------------------------------------------------------------------------

    def accept(self, key: ServicePort, now: float) -> Downstream:
        """A client has connected, meaning this Service port."""
        context = self._context
        context.now = now
        service = self.service(key)
        downstream = Downstream(context, service)
        downstream.now = now
        context.totals.downstreams_accepted += 1
        service.downstreams += 1
        self.downstreams[downstream] = None
        downstream.touch()
        try:
            self._unfinished.accepted(downstream)
            service.connect()
            if self.draining:
                context.after(DRAIN_STAY, _StayOver(self, downstream))
        except Exception as error:
            self.failed("accept", error, downstream, now)
        return downstream

    def connected(self, upstream: Upstream, now: float) -> None:
        """A dial has been answered."""
        self._context.now = now
        upstream.now = now
        upstream.connected = True
        upstream.touch()

    def received(self, peer: Peer, data: bytes, now: float) -> None:
        context = self._context
        context.now = now
        try:
            peer.feed(data, now)
            peer.touch()
            self._unfinished.received(peer)
            if context.held > MAX_HELD_IN_ALL:
                self._relieve()
        except Exception as error:
            self.failed("receive", error, peer, now)

    def socket_state(self, peer: Peer, unsent: i64, now: float) -> None:
        """After a write: how many octets the socket has not taken yet."""
        self._context.now = now
        peer.now = now
        try:
            peer.socket_state(unsent)
        except Exception as error:
            self.failed("write", error, peer, now)

    def stalled(self, upstream: Upstream, stalled: bool, now: float) -> None:
        """The other end's machine has stopped to acknowledge what we send, or has begun again."""
        self._context.now = now
        try:
            upstream.backend.stalled(upstream, stalled)
        except Exception as error:
            self.failed("stall", error, upstream, now)

    def lost(self, peer: Peer, why: str, now: float) -> None:
        """The socket is closed, by either side, or could not be opened. Exactly once a connection."""
        self._context.now = now
        peer.gone = True
        peer.finished = True
        totals = self._context.totals.upstream_errors
        if isinstance(peer, Downstream):
            totals = self._context.totals.downstream_errors
            if peer in self.downstreams:
                del self.downstreams[peer]
                peer.service.downstreams -= 1
        elif isinstance(peer, Upstream):
            self._upstreams.pop(peer, None)
        if peer.error_code:
            totals[peer.error_code] = totals.get(peer.error_code, 0) + 1
        try:
            peer.settle_unsent()
            self._unfinished.lost(peer)
            if isinstance(peer, Upstream):
                peer.abandon(why)
            else:
                assert isinstance(peer, Downstream)
                peer.abandon()
        except Exception as error:
            self.failed("close", error, peer, now)

    # --- what all connections together may keep --------------------------------------------------

    def peers(self) -> list[Peer]:
        """All whose socket is not closed yet."""
        return [*self.downstreams, *self._upstreams]

    def _relieve(self) -> None:
        """Too much is held: end the connections that make us hold most."""
        while self._context.held > MAX_HELD_IN_ALL:
            heaviest: Peer | None = None
            for peer in self.peers():
                if not peer.gone and (heaviest is None or peer.weight() > heaviest.weight()):
                    heaviest = peer
            if heaviest is None:
                return
            heaviest.give_up(f"most of over {MAX_HELD_IN_ALL} octets held in all")

    # --- what the caller is to do ----------------------------------------------------------------

    def take_dials(self) -> Sequence[Upstream]:
        found = self._context.dials
        if found:
            self._context.dials = []
            for upstream in found:
                if not upstream.gone:
                    self._upstreams[upstream] = None
        return found

    def restless(self) -> bool:
        """Whether `take_dials` or `take_touched` has something."""
        context = self._context
        return len(context.touched) > 0 or len(context.dials) > 0

    def flush_wanted(self) -> bool:
        """Whether so much output waits that it should be written before more is read."""
        return self._context.flush_wanted

    def take_touched(self) -> list[Peer]:
        """Connections with something to write or to close. Writing may touch more: ask until it is empty."""
        self._context.flush_wanted = False
        found = list(self._context.touched)
        self._context.touched.clear()
        for peer in found:
            peer.untouch()
        return found

    def deadline(self) -> float:
        return self._context.deadline()

    def tick(self, now: float) -> None:
        context = self._context
        context.now = now
        timer = context.next_due()
        while timer is not None:
            try:
                timer.fire()
            except Exception as error:
                self._timer_failed(timer, error, now)
            timer = context.next_due()

    def _timer_failed(self, timer: Timer, error: Exception, now: float) -> None:
        try:
            stream = timer.stream()
            if stream is not None:
                stream.service.cut(stream)
            if timer.needed():
                self._context.after(AGAIN_AFTER, timer)
        except Exception as again:
            self._context.errors.note("recovery", again, now)
        self.failed("timer", error, timer.peer(), now)

    # --- drain -----------------------------------------------------------------------------------

    def drain(self, now: float) -> None:
        """Graceful shutdown: GOAWAY to every client; streams run to their end."""
        self._context.now = now
        self.draining = True
        for downstream in list(self.downstreams):
            try:
                if downstream.peer_ready:
                    downstream.drain()
                else:
                    self._context.after(DRAIN_STAY, _StayOver(self, downstream))
            except Exception as error:
                self.failed("drain", error, downstream, now)
        self._context.after(DRAIN_GRACE, _DrainGraceOver(self))

    def stay_over(self, downstream: Downstream) -> None:
        """A client that connected late has been here for long enough."""
        downstream.drain()
        self._context.after(DRAIN_GRACE, _DrainGraceOver(self))

    def drain_grace_over(self) -> None:
        for downstream in list(self.downstreams):
            if downstream.draining:
                try:
                    downstream.drain_now()
                except Exception as error:
                    self.failed("drain", error, downstream, self._context.now)

    def held(self) -> int:
        """Octets of DATA taken from one side and not yet written to the other."""
        held: i64 = 0
        for downstream in self.downstreams:
            held += downstream.held_for + downstream.held_back
        return held

    def kept(self) -> dict[str, int]:
        """What the bounds over all connections count (`context`), now."""
        context = self._context
        return {
            "streams": context.streams,
            "held": context.held,
            "lent": context.lent,
            "blocks": context.blocks_held,
            "replay": context.replay_held,
            "blocks under way": context.blocks_under_way,
        }

    def open_streams(self) -> int:
        """Streams not yet over on the clients' side."""
        return sum(int(downstream.streams.count()) for downstream in self.downstreams)


@final
class _DrainGraceOver(Timer):
    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._engine = engine

    def fire(self) -> None:
        self._engine.drain_grace_over()


@final
class _StayOver(Timer):
    def __init__(self, engine: Engine, downstream: Downstream) -> None:
        super().__init__()
        self._engine = engine
        self._downstream = downstream

    def fire(self) -> None:
        self._engine.stay_over(self._downstream)

    def peer(self) -> Peer | None:
        return self._downstream


@final
class _UpdateAgain(Timer):
    def __init__(self, engine: Engine, snapshot: Snapshot) -> None:
        super().__init__()
        self._engine = engine
        self._snapshot = snapshot

    def fire(self) -> None:
        self._engine.update_again(self._snapshot)
