"""A client's connection to us: requests in, responses out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from mypy_extensions import i64

from sidecar.splice import states
from sidecar.splice.context import MAX_BLOCKS_IN_ALL, MAX_STREAMS_IN_ALL, Context
from sidecar.splice.peer import RESET_BY_PEER, RESET_BY_US, Peer
from sidecar.splice.replay import MAX_BLOCKS_FROM, SMALL_BLOCK, keep_block
from sidecar.splice.stream import Stream
from sidecar.wire import frames
from sidecar.wire.blocks import Block
from sidecar.wire.budget import Budget
from sidecar.wire.faults import ConnectionFault

if TYPE_CHECKING:
    from sidecar.splice.service import Service

# Opaque octets of the PING that follows the first GOAWAY; its answer shows that the client has read it.
_DRAIN_PING: Final = b"evendrai"
# Servers allow a client 100 to unlimited; behind us stand many, so the limit only bounds our memory: 4.5 MB.
MAX_STREAMS: Final[i64] = 5_000
# Streams a client may reset (CVE-2023-44487, rapid reset). An answered stream earns one back.
RESETS: Final[i64] = 1000
RESETS_PER_SECOND: Final = 100.0
# What makes a reset rapid: the stream is younger than this, nothing of an answer has come, and it is not the
# client's own deadline that ended it. Deadlines end streams by the thousand when a backend stalls, so those count
# only below DEADLINE_RESET_AGE, where they cannot be told from the attack; above, MAX_STREAMS bounds the rate.
RAPID_RESET_AGE: Final = 1.0
DEADLINE_RESET_AGE: Final = 0.01
# A client's timer starts before its request gets here and its clock is read coarsely.
DEADLINE_SLACK: Final = 0.75
# Streams a client may make us reset by breaking rules (CVE-2025-8671, MadeYouReset). Honest clients never do.
FAULTS: Final[i64] = 100
FAULTS_PER_SECOND: Final = 10.0


@final
class Downstream(Peer):
    def __init__(self, context: Context, service: Service) -> None:
        super().__init__(context, True, MAX_STREAMS)
        self.service: Final = service
        self._last_id: i64 = 0
        self._refuse_above: i64 = frames.MAX_STREAM_ID  # the last stream of the final GOAWAY
        self._peer_leaving: bool = False
        self._resets = Budget(RESETS, RESETS_PER_SECOND)
        self._faults = Budget(FAULTS, FAULTS_PER_SECOND)

    def is_idle(self, stream_id: i64) -> bool:
        return stream_id & 1 == 0 or stream_id > self._last_id

    def last_peer_stream(self) -> i64:
        return self._last_id

    # --- hooks -----------------------------------------------------------------------------------

    def headers_received(self, stream_id: i64, block: Block, end_stream: bool) -> None:
        if stream_id & 1 == 0:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "a client's stream with an even number")
        if stream_id <= self._last_id:
            self._later_headers(stream_id, block, end_stream)
            return
        self._last_id = stream_id
        if not self._may_open(stream_id, len(block.raw)):
            self.reset(stream_id, frames.REFUSED_STREAM)
            return
        fault = block.request_fault()
        if not fault and end_stream and block.content_length > 0:
            fault = "content-length does not add up"
        if fault:
            self.stream_fault(stream_id, frames.PROTOCOL_ERROR, fault)
            return
        stream = Stream(self.service, self, stream_id, block, self.now)
        self.streams.add(stream_id, stream)
        self.context.streams += 1
        keep_block(stream, self)
        if end_stream:
            stream.request.state = states.next_half(stream.request.state, states.END)
        self.service.opened(stream)

    def _may_open(self, stream_id: i64, size: i64) -> bool:
        """Whether there is room for one more stream with a header block of so many octets."""
        if stream_id > self._refuse_above:
            if not self._resets.spend(self.now):
                raise ConnectionFault(frames.ENHANCE_YOUR_CALM, "too many streams after GOAWAY")
            return False
        large = size > SMALL_BLOCK
        if self.streams.count() >= MAX_STREAMS or (large and self.blocks_from + size > MAX_BLOCKS_FROM):
            if not self._faults.spend(self.now):
                what = f"more than {MAX_STREAMS} streams or {MAX_BLOCKS_FROM} octets of their headers"
                raise ConnectionFault(frames.ENHANCE_YOUR_CALM, what)
            return False
        context = self.context
        return context.streams < MAX_STREAMS_IN_ALL and (
            not large or context.blocks_held + size <= MAX_BLOCKS_IN_ALL
        )

    def _later_headers(self, stream_id: i64, block: Block, end_stream: bool) -> None:
        stream = self.streams.find(stream_id)
        if stream is None:
            kind = self.epitaph(stream_id)
            if kind == RESET_BY_US:
                return
            if kind == RESET_BY_PEER:
                self.stream_fault(stream_id, frames.STREAM_CLOSED, "HEADERS after RST_STREAM")
                return
            raise ConnectionFault(frames.STREAM_CLOSED, "HEADERS on a closed stream")
        half = stream.request
        if half.state != states.OPEN:
            if half.state != states.RESET:
                self.stream_fault(stream_id, frames.STREAM_CLOSED, "HEADERS after END_STREAM")
            return
        fault = block.trailers_fault()
        if not end_stream:
            fault = fault or "a second header block without END_STREAM"
        elif half.content_length > 0:
            fault = fault or "content-length does not add up"
        if fault:
            self.stream_fault(stream_id, frames.PROTOCOL_ERROR, fault)
            return
        self.end_received(stream, half, block.raw)

    def stream_fault(self, stream_id: i64, code: i64, message: str) -> None:
        if not self._faults.spend(self.now):
            raise ConnectionFault(frames.ENHANCE_YOUR_CALM, "too many stream errors, last: " + message)
        if stream_id & 1 == 0:
            raise ConnectionFault(code, message)  # RST_STREAM may not go to an idle stream (section 6.4)
        if stream_id > self._last_id:
            self._last_id = stream_id
        stream = self.streams.find(stream_id)
        self.reset(stream_id, code)
        if stream is not None:
            self.service.cancelled(stream, frames.CANCEL)

    def stream_reset(self, stream: Stream, code: i64) -> None:
        if self._is_rapid(stream) and not self._resets.spend(self.now):
            raise ConnectionFault(frames.ENHANCE_YOUR_CALM, "too many streams reset")
        self.service.cancelled(stream, code)

    def _is_rapid(self, stream: Stream) -> bool:
        age = self.now - stream.opened_at
        if age >= RAPID_RESET_AGE or stream.phase == states.ANSWERED:
            return False
        given = stream.deadline - stream.opened_at
        return stream.deadline < 0.0 or age < DEADLINE_RESET_AGE or age < given * DEADLINE_SLACK

    def settings_received(self) -> None:
        self.context.handshakes.pop(self, None)

    def goaway_received(self, last_stream_id: i64, code: i64, debug: bytes) -> None:
        # The client opens nothing more; it closes when its streams are over, or we do.
        self._peer_leaving = True
        self.close_if_idle()

    def ping_acknowledged(self, payload: bytes) -> None:
        if payload == _DRAIN_PING:
            self.drain_now()

    def failing(self) -> None:
        self.abandon()

    # --- ends ------------------------------------------------------------------------------------

    def answered(self) -> None:
        """A stream of this client's was answered to its end: it is no mere nuisance."""
        self._resets.earn(1.0)

    def abandon(self) -> None:
        """The client is gone: what it asked for is cancelled at the backends."""
        for stream in self.streams.values():
            self.service.cancelled(stream, frames.CANCEL)
        self.streams.take_all()
        self.context.handshakes.pop(self, None)

    def forget(self, stream: Stream) -> None:
        """Both halves are over on this side."""
        if self.streams.remove(stream.down_id):
            self.context.streams -= 1
        self.close_if_idle()

    def drain(self) -> None:
        """Graceful shutdown (RFC 9113 section 6.8): announce it, then name the last stream a round trip later."""
        if self.draining or self.finished:
            return
        self.draining = True
        frames.write_goaway(self.out, frames.MAX_STREAM_ID, frames.NO_ERROR, b"draining")
        frames.write_ping(self.out, _DRAIN_PING, False)
        self.touch()

    def drain_now(self) -> None:
        """The second step: streams that come later are refused; the connection ends with the last it has."""
        if self.finished or self._refuse_above != frames.MAX_STREAM_ID:
            return
        self.draining = True
        self._refuse_above = self._last_id
        frames.write_goaway(self.out, self._last_id, frames.NO_ERROR, b"draining")
        self.touch()
        self.close_if_idle()

    def close_if_idle(self) -> None:
        leaving = self._peer_leaving or self._refuse_above != frames.MAX_STREAM_ID
        if leaving and self.streams.count() == 0:
            self.ended_idle = self.ended_idle or not self.finished
            self.finished = True
            self.touch()
