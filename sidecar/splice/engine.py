"""The engine: all connections of one sidecar, without sockets and without a clock.

Call order. After any call the caller, once a turn: connects each of `take_dials()` and reports `connected`
or `lost`; writes `take_output()` of each of `take_touched()`, reports what the socket did not take with
`socket_state`, and closes the socket once a `finished` connection has no output left (at once if it is
`gone`). `tick` is due at `deadline()`. Whoever can see a connection's packets tells `stalled`. Nothing here
raises for what a peer does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

from mypy_extensions import i64

from sidecar.balance.endpoints import ServicePort, Snapshot
from sidecar.balance.outlier import Ejection
from sidecar.splice.context import MAX_BLOCKS_UNDER_WAY, MAX_HELD_IN_ALL, Context, Timer
from sidecar.splice.downstream import Downstream
from sidecar.splice.peer import Peer
from sidecar.splice.service import Service
from sidecar.splice.stats import Totals
from sidecar.splice.upstream import Upstream
from sidecar.wire import frames
from sidecar.wire.memo import BlockMemo

# A client has its preface and SETTINGS ready when it connects; ten seconds allow for a machine that swaps.
HANDSHAKE_TIMEOUT: Final = 10.0
# For a frame or header block from its first octet to its last. Peers write them whole; this allows for a network
# that loses packets for a while.
INCOMPLETE_TIMEOUT: Final = 30.0
# A client answers the PING of a graceful GOAWAY in a round trip; one that does not is told all the same.
DRAIN_GRACE: Final = 1.0
# A client that connects during the drain has calls to make still, and is sent away only so much later: gRPC's C-core
# takes a GOAWAY before its first call for a connection that could not be made, and fails its calls.
DRAIN_STAY: Final = 0.5


@final
class Engine:
    def __init__(self, seed: int) -> None:
        self._context = Context(seed)
        self.services: dict[ServicePort, Service] = {}
        self.downstreams: dict[Downstream, None] = {}
        self.draining: bool = False
        # Whether the timer is under way: one does for all connections.
        self._handshakes_timed: bool = False
        self._incomplete_timed: bool = False

    @property
    def totals(self) -> Totals:
        return self._context.totals

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
        self.service(snapshot.service).update(snapshot)

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
        if not self._handshakes_timed:
            self._handshakes_timed = True
            context.after(HANDSHAKE_TIMEOUT, _HandshakesOver(self))
        context.handshakes[downstream] = now + HANDSHAKE_TIMEOUT
        service.connect()
        if self.draining:
            context.after(DRAIN_STAY, _StayOver(self, downstream))
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
        peer.feed(data, now)
        peer.touch()
        block = peer.block_under_way()
        if block != peer.block_counted:
            self._count_block(peer, block)
        if not self._incomplete_timed and peer.is_incomplete():
            self._incomplete_timed = True
            context.after(INCOMPLETE_TIMEOUT, _IncompleteOver(self))
        if context.held > MAX_HELD_IN_ALL:
            self._relieve()

    def socket_state(self, peer: Peer, unsent: i64, now: float) -> None:
        """After a write: how many octets the socket has not taken yet."""
        self._context.now = now
        peer.now = now
        peer.socket_state(unsent)

    def stalled(self, upstream: Upstream, stalled: bool, now: float) -> None:
        """The other end's machine has stopped to acknowledge what we send, or has begun again."""
        self._context.now = now
        upstream.backend.stalled(upstream, stalled)

    def lost(self, peer: Peer, why: str, now: float) -> None:
        """The socket is closed, by either side, or could not be opened. Exactly once a connection."""
        self._context.now = now
        peer.gone = True
        peer.finished = True
        peer.settle_unsent()
        self._count_block(peer, 0)
        if isinstance(peer, Upstream):
            totals = self._context.totals.upstream_errors
            peer.abandon(why)
        else:
            assert isinstance(peer, Downstream)
            totals = self._context.totals.downstream_errors
            if peer in self.downstreams:
                del self.downstreams[peer]
                peer.service.downstreams -= 1
            peer.abandon()
        if peer.error_code:
            totals[peer.error_code] = totals.get(peer.error_code, 0) + 1

    # --- what all connections together may keep --------------------------------------------------

    def _peers(self) -> list[Peer]:
        found: list[Peer] = list(self.downstreams)
        for service in self.services.values():
            for backend in [*service.backends.values(), *service.retiring]:
                found += backend.upstreams
        return found

    def _relieve(self) -> None:
        """Too much is held: end the connections that make us hold most."""
        while self._context.held > MAX_HELD_IN_ALL:
            heaviest: Peer | None = None
            for peer in self._peers():
                if not peer.finished and (heaviest is None or peer.weight() > heaviest.weight()):
                    heaviest = peer
            if heaviest is None:
                return
            heaviest.give_up(f"most of over {MAX_HELD_IN_ALL} octets held in all")

    def _count_block(self, peer: Peer, octets: i64) -> None:
        context = self._context
        context.blocks_under_way += octets - peer.block_counted
        peer.block_counted = octets
        while context.blocks_under_way > MAX_BLOCKS_UNDER_WAY:
            oldest: Peer | None = None
            for each in self._peers():
                if each.block_counted > 0 and (
                    oldest is None or each.incomplete_since < oldest.incomplete_since
                ):
                    oldest = each
            if oldest is None:
                return
            why = f"the oldest of over {MAX_BLOCKS_UNDER_WAY} octets of header blocks that do not end"
            self._end_incomplete(oldest, why)

    def _end_incomplete(self, peer: Peer, why: str) -> None:
        self._context.blocks_under_way -= peer.block_counted
        peer.block_counted = 0
        peer.fail(frames.ENHANCE_YOUR_CALM, why)
        peer.touch()

    def incomplete_over(self) -> None:
        """End what has been incomplete for too long; look again when the next can be."""
        now = self._context.now
        next_at = 0.0
        for peer in self._peers():
            if not peer.is_incomplete():
                continue
            until = peer.incomplete_since + INCOMPLETE_TIMEOUT
            if until <= now:
                why = f"a frame or header block not complete within {INCOMPLETE_TIMEOUT:g} s"
                self._end_incomplete(peer, why)
            elif next_at == 0.0 or until < next_at:
                next_at = until
        self._incomplete_timed = next_at > 0.0
        if self._incomplete_timed:
            self._context.after(next_at - now, _IncompleteOver(self))

    def handshakes_over(self) -> None:
        """End the connections of clients that have not said SETTINGS in time."""
        handshakes = self._context.handshakes
        self._handshakes_timed = False
        while handshakes:
            downstream = next(iter(handshakes))
            until = handshakes[downstream]
            if until > self._context.now:
                self._handshakes_timed = True
                self._context.after(until - self._context.now, _HandshakesOver(self))
                return
            del handshakes[downstream]
            if not downstream.finished:
                downstream.fail(frames.SETTINGS_TIMEOUT, f"no SETTINGS within {HANDSHAKE_TIMEOUT:g} s")
                downstream.touch()

    # --- what the caller is to do ----------------------------------------------------------------

    def take_dials(self) -> Sequence[Upstream]:
        found = self._context.dials
        if found:
            self._context.dials = []
        return found

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
        self._context.now = now
        self._context.fire_due()

    # --- drain -----------------------------------------------------------------------------------

    def drain(self, now: float) -> None:
        """Graceful shutdown: GOAWAY to every client; streams run to their end."""
        self._context.now = now
        self.draining = True
        for downstream in self.downstreams:
            if downstream.peer_ready:
                downstream.drain()
            else:
                self._context.after(DRAIN_STAY, _StayOver(self, downstream))
        self._context.after(DRAIN_GRACE, _DrainGraceOver(self))

    def stay_over(self, downstream: Downstream) -> None:
        """A client that connected late has been here for long enough."""
        downstream.drain()
        self._context.after(DRAIN_GRACE, _DrainGraceOver(self))

    def drain_grace_over(self) -> None:
        for downstream in list(self.downstreams):
            if downstream.draining:
                downstream.drain_now()

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
            "blocks": context.blocks_held,
            "replay": context.replay_held,
            "blocks under way": context.blocks_under_way,
        }

    def open_streams(self) -> int:
        """Streams not yet over on the clients' side."""
        return sum(int(downstream.streams.count()) for downstream in self.downstreams)


@final
class _HandshakesOver(Timer):
    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._engine = engine

    def fire(self) -> None:
        self._engine.handshakes_over()


@final
class _IncompleteOver(Timer):
    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._engine = engine

    def fire(self) -> None:
        self._engine.incomplete_over()


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
