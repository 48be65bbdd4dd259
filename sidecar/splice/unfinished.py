"""What peers begin and must end in time: handshakes, frames and header blocks. One timer of a kind does for all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from mypy_extensions import i64

from sidecar.splice.context import MAX_BLOCKS_UNDER_WAY, Context, Timer
from sidecar.splice.downstream import Downstream
from sidecar.splice.peer import Peer
from sidecar.wire import frames

if TYPE_CHECKING:
    from sidecar.splice.engine import Engine

# A client has its preface and SETTINGS ready when it connects; ten seconds allow for a machine that swaps.
HANDSHAKE_TIMEOUT: Final = 10.0
# For a frame or header block from its first octet to its last. Peers write them whole; this allows for a network
# that loses packets for a while.
INCOMPLETE_TIMEOUT: Final = 30.0


@final
class Unfinished:
    def __init__(self, engine: Engine, context: Context) -> None:
        self._engine: Final = engine
        self._context: Final = context
        # Whether the timer is under way.
        self._handshakes_timed: bool = False
        self._incomplete_timed: bool = False

    def accepted(self, downstream: Downstream) -> None:
        context = self._context
        if not self._handshakes_timed:
            self._handshakes_timed = True
            context.after(HANDSHAKE_TIMEOUT, _HandshakesOver(self))
        context.handshakes[downstream] = context.now + HANDSHAKE_TIMEOUT

    def received(self, peer: Peer) -> None:
        """It has been fed."""
        block = peer.block_under_way()
        if block != peer.block_counted:
            self._count(peer, block)
        if not self._incomplete_timed and peer.is_incomplete():
            self._incomplete_timed = True
            self._context.after(INCOMPLETE_TIMEOUT, _IncompleteOver(self))

    def lost(self, peer: Peer) -> None:
        self._count(peer, 0)

    def _count(self, peer: Peer, octets: i64) -> None:
        context = self._context
        context.blocks_under_way += octets - peer.block_counted
        peer.block_counted = octets
        while context.blocks_under_way > MAX_BLOCKS_UNDER_WAY:
            oldest: Peer | None = None
            for each in self._engine.peers():
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
        self._fail(peer, frames.ENHANCE_YOUR_CALM, why)

    def _fail(self, peer: Peer, code: i64, why: str) -> None:
        """End one of several connections; what goes wrong with it is not the others' affair."""
        try:
            peer.fail(code, why)
            peer.touch()
        except Exception as error:
            self._engine.failed("timer", error, peer, self._context.now)

    def incomplete_over(self) -> None:
        """End what has been incomplete for too long; look again when the next can be."""
        now = self._context.now
        self._incomplete_timed = False
        next_at = 0.0
        for peer in self._engine.peers():
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
                self._fail(downstream, frames.SETTINGS_TIMEOUT, f"no SETTINGS within {HANDSHAKE_TIMEOUT:g} s")


@final
class _HandshakesOver(Timer):
    def __init__(self, unfinished: Unfinished) -> None:
        super().__init__()
        self._unfinished = unfinished

    def fire(self) -> None:
        self._unfinished.handshakes_over()


@final
class _IncompleteOver(Timer):
    def __init__(self, unfinished: Unfinished) -> None:
        super().__init__()
        self._unfinished = unfinished

    def fire(self) -> None:
        self._unfinished.incomplete_over()
