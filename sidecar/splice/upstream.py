"""Our connection to a backend: requests out, responses in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from mypy_extensions import i64

from sidecar.splice import localreply, states
from sidecar.splice.context import Context
from sidecar.splice.peer import FLUSH_AT, RESET_BY_US, Peer
from sidecar.splice.replay import drop_request
from sidecar.splice.stream import Stream
from sidecar.wire import fields, frames
from sidecar.wire.blocks import Block
from sidecar.wire.budget import Budget
from sidecar.wire.connection import RESPONSE_WINDOW
from sidecar.wire.faults import ConnectionFault

if TYPE_CHECKING:
    from sidecar.splice.backend import Backend

FIRST_STREAM: Final[i64] = 1
LAST_STREAM: Final[i64] = frames.MAX_STREAM_ID - 1
# 1xx header blocks for one request. Real ones come once or twice; each is passed on unbounded by credit.
MAX_INFORMATIONAL: Final[i64] = 8
# A response of one frame never sinks its credit so far and so never costs a WINDOW_UPDATE.
RESPONSE_LEND_BELOW: Final[i64] = 12_288
# Streams a backend may break rules on before the whole connection is given up.
FAULTS: Final[i64] = 100
FAULTS_PER_SECOND: Final = 10.0
# Output of ours that a backend has not read: with more, new streams go to other connections or wait. Header blocks
# are not flow-controlled; without this a burst of large ones would run into MAX_UNREAD_OUTPUT.
MAX_REQUESTS_UNREAD: Final[i64] = 524_288
# Opaque octets of the PING that asks a connection in doubt whether its backend is there.
_DOUBT_PING: Final = b"evenwell"
# No second one sooner: gRPC servers count PINGs that come more often as bad behaviour (gRFC A8).
_DOUBT_INTERVAL: Final = 300.0


@final
class Upstream(Peer):
    def __init__(self, context: Context, backend: Backend) -> None:
        super().__init__(context, False, 0)
        self.backend: Final = backend
        self.connected: bool = False
        self.ready_at: float = -1.0  # when its SETTINGS came; -1: not yet
        self.has_served: bool = False  # answered a stream, or kept one when it said GOAWAY
        self.stalled: bool = False  # what we send is not even acknowledged: nothing new until it is
        self.in_doubt: bool = False  # another one to the same pod is stalled: this one is being asked
        self.next_id: i64 = FIRST_STREAM
        self._never_sent: i64 = FIRST_STREAM  # from here on nothing of the streams has left
        self._never_sent_before: i64 = FIRST_STREAM  # the same before the last `take_output`
        self.room_wanted: bool = False  # streams were turned away because it is congested
        self._last_taken: i64 = frames.MAX_STREAM_ID  # of the backend's latest GOAWAY
        self._faults = Budget(FAULTS, FAULTS_PER_SECOND)
        self._doubt_again_at: float = 0.0

    def is_idle(self, stream_id: i64) -> bool:
        return stream_id & 1 == 0 or stream_id >= self.next_id

    def in_use(self) -> bool:
        """Whether new streams may go here at all, once it is connected and as far as it has room."""
        return not self.draining and not self.stalled and not self.in_doubt

    def doubt(self) -> bool:
        """Ask it with a PING whether its backend is there; nothing new until it answers. False: not again so soon."""
        if self.context.now < self._doubt_again_at or self.in_doubt or not self.peer_ready:
            return False
        self._doubt_again_at = self.context.now + _DOUBT_INTERVAL
        self.in_doubt = True
        frames.write_ping(self.out, _DOUBT_PING, False)
        self.touch()
        return True

    def has_room(self) -> bool:
        """Whether one more stream may be opened now."""
        return (
            self.peer_ready
            and self.in_use()
            and not self.finished
            and not self.gone
            and self.streams.count() < self.peer_max_streams
            and not self.congested()
        )

    def congested(self) -> bool:
        """The backend does not read what it has been sent: no more requests until it does."""
        output = self.output_size()
        if output > FLUSH_AT:
            self.context.flush_wanted = True
        return self.unsent + output > MAX_REQUESTS_UNREAD

    def socket_state(self, unsent: i64) -> None:
        """Once the socket has taken what it was behind with, there is room for streams again."""
        super().socket_state(unsent)
        if self.room_wanted and not self.congested():
            self.room_wanted = False
            self.backend.room_again(self)

    def take_output(self) -> list[bytes]:
        self._never_sent_before = self._never_sent
        self._never_sent = self.next_id
        return super().take_output()

    def not_written(self) -> None:
        self._never_sent = self._never_sent_before

    def has_waiting(self) -> bool:
        return self.room_wanted or super().has_waiting()

    def send(self, stream: Stream) -> None:
        """Open the stream here: its header block goes out, and what is held of its request as credit allows."""
        stream_id = self.next_id
        self.next_id += 2
        if self.next_id > LAST_STREAM:
            # Numbers are used up (section 5.1.1): the next stream needs a new connection.
            self.draining = True
        stream.advance(states.SEND)
        stream.up = self
        stream.up_id = stream_id
        self.streams.add(stream_id, stream)
        request = stream.request
        request.sink = self
        request.sink_id = stream_id
        self.adopt_outbound(request)
        request.sink_window = self.peer_initial_window
        response = stream.response
        response.source = self
        response.source_id = stream_id
        response.first_window = RESPONSE_WINDOW
        response.source_window = RESPONSE_WINDOW
        response.lend_below = RESPONSE_LEND_BELOW
        ends = request.state == states.ENDED and request.held is None and request.trailers is None
        block = stream.block
        assert block is not None  # it is not answered yet
        self.write_headers(stream_id, block, ends)
        self.touch()
        if ends:
            request.state = states.next_half(request.state, states.PASS)
        elif request.held is not None:
            self.pump(stream, request)
        elif request.state == states.ENDED:
            self.pass_end(stream, request)

    # --- hooks -----------------------------------------------------------------------------------

    def headers_received(self, stream_id: i64, block: Block, end_stream: bool) -> None:
        stream = self.streams.find(stream_id)
        if stream is None:
            if self.is_idle(stream_id):
                raise ConnectionFault(frames.PROTOCOL_ERROR, "a response on a stream that was not opened")
            if self.epitaph(stream_id) != RESET_BY_US:
                raise ConnectionFault(frames.STREAM_CLOSED, "HEADERS on a closed stream")
            return
        half = stream.response
        if half.state != states.OPEN:
            self.stream_fault(stream_id, frames.STREAM_CLOSED, "HEADERS after END_STREAM")
            return
        if stream.phase == states.ANSWERED:
            fault = block.trailers_fault()
            if not end_stream:
                fault = fault or "a second header block without END_STREAM"
            elif half.content_length > 0:
                fault = fault or "content-length does not add up"
        else:
            fault = block.response_fault()
            if block.status < 100:
                fault = fault or "a :status below 100"
            elif block.status < 200 and (end_stream or block.status == 101):
                fault = fault or f"a {block.status} that cannot stand in HTTP/2"
            elif end_stream and block.content_length > 0 and not self._may_lack_body(stream, block):
                fault = fault or "content-length does not add up"
        if fault:
            self.stream_fault(stream_id, frames.PROTOCOL_ERROR, fault)
            return
        sink = half.sink
        if sink is not None:
            if sink.flooded():
                self.backend.service.shed(stream)
                return
            if block.list_size > sink.peer_max_header_list:
                most = sink.peer_max_header_list
                localreply.response_too_large(stream, block.list_size, most, end_stream)
                return
        if block.grpc_status >= 0:
            stream.grpc_status = block.grpc_status
        if stream.phase == states.ANSWERED:
            self.end_received(stream, half, block.raw)
        elif block.status < 200:
            stream.informed += 1
            if stream.informed > MAX_INFORMATIONAL:
                self.stream_fault(stream_id, frames.ENHANCE_YOUR_CALM, "too many informational responses")
                return
            stream.advance(states.INFORM)
            self._pass_block(stream, block, False)
        else:
            stream.advance(states.ANSWER)
            self.has_served = True
            # What it says of a body that need not come is not held against the end, wherever that is.
            lacks = end_stream or (block.content_length > 0 and self._may_lack_body(stream, block))
            half.content_length = -1 if lacks else block.content_length
            drop_request(stream)
            if end_stream:
                half.state = states.next_half(half.state, states.END)
            self._pass_block(stream, block, end_stream)

    def _may_lack_body(self, stream: Stream, answer: Block) -> bool:
        """Whether content-length may speak of what does not come (RFC 9110 section 8.6)."""
        if answer.status == 204 or answer.status == 304 or stream.block is None:
            return True
        request = self.context.memo.read(stream.block)
        return request.seen & (fields.HEAD | fields.CONNECT) != 0

    def _pass_block(self, stream: Stream, block: Block, end_stream: bool) -> None:
        half = stream.response
        sink = half.sink
        if sink is not None:
            sink.write_headers(half.sink_id, block.raw, end_stream)
            sink.touch()
        if end_stream:
            half.state = states.next_half(half.state, states.PASS)
            stream.service.half_done(stream)

    def stream_fault(self, stream_id: i64, code: i64, message: str) -> None:
        if not self._faults.spend(self.now):
            raise ConnectionFault(frames.ENHANCE_YOUR_CALM, "too many stream errors, last: " + message)
        if self.is_idle(stream_id):
            raise ConnectionFault(code, message)  # RST_STREAM may not go to an idle stream (section 6.4)
        stream = self.streams.find(stream_id)
        self.streams.remove(stream_id)
        self.reset(stream_id, code)
        if stream is not None:
            self.backend.service.broken(stream, "broke HTTP/2: " + message)
            self._one_less()

    def stream_reset(self, stream: Stream, code: i64) -> None:
        # Resets need no bound of their own: there is one for each stream that was sent, and refusals have MAX_REFUSALS.
        self.streams.remove(stream.up_id)
        self.backend.service.reset_by_backend(stream, code)
        self._one_less()

    def settings_received(self) -> None:
        self.backend.settings_received(self)

    def goaway_received(self, last_stream_id: i64, code: i64, debug: bytes) -> None:
        if last_stream_id > self._last_taken:
            raise ConnectionFault(
                frames.PROTOCOL_ERROR, "a GOAWAY that takes more streams than the one before"
            )
        self._last_taken = last_stream_id
        first = not self.draining
        self.draining = True
        refused = [s for s in self.streams.values() if s.up_id > last_stream_id]
        refused.sort(key=_number)
        for stream in refused:
            self.streams.remove(stream.up_id)
            # Sent again elsewhere: should it be answered here all the same, that is no reason to end the others.
            self.bury(stream.up_id, RESET_BY_US)
        if code == frames.NO_ERROR and self.streams.count() > 0:
            self.has_served = True
        if first:
            self.backend.draining(self)
        why = f"GOAWAY {frames.error_name(code)} {debug[:80].decode('utf-8', 'replace')}".rstrip()
        for stream in refused:
            self.backend.service.refused(stream, "was refused by " + why)
        self.close_if_idle()

    def ping_acknowledged(self, payload: bytes) -> None:
        if payload == _DOUBT_PING:
            self.backend.doubt_over(self)

    def failing(self) -> None:
        self.abandon(f"broke HTTP/2: {self.error_message}")

    # --- ends ------------------------------------------------------------------------------------

    def abandon(self, why: str) -> None:
        """The connection is lost: what was on it is settled, and the backend looks for another."""
        streams = self.streams.take_all()
        streams.sort(key=_number)
        self.backend.lost(self, why)
        service = self.backend.service
        for stream in streams:
            # Only where the socket is closed: else the output still goes out.
            if self.gone and stream.up_id >= self._never_sent:
                service.refused(stream, why)
            else:
                service.broken(stream, why)

    def forget(self, stream: Stream) -> None:
        """Both halves are over on this side."""
        if self.streams.remove(stream.up_id):
            self._one_less()

    def _one_less(self) -> None:
        if self.draining:
            self.close_if_idle()
        else:
            self.backend.room_again(self)

    def close_if_idle(self) -> None:
        if self.draining and self.streams.count() == 0 and not self.finished and not self.gone:
            frames.write_goaway(self.out, 0, frames.NO_ERROR, b"")
            self.finished = True
            self.touch()
            self.backend.lost(self, "closed when idle")


def _number(stream: Stream) -> int:
    return int(stream.up_id)
