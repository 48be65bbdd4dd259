"""What both roles of a connection share: DATA across two connections, and its credit.

`Downstream` is a client's connection to us, `Upstream` ours to a backend. For a Downstream the inbound half
of a stream is its request, for an Upstream its response.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mypy_extensions import i64

from sidecar.splice import states
from sidecar.splice.credit import lend, lend_if_low, lend_owed, settle_lent
from sidecar.splice.replay import keep_copy
from sidecar.splice.stream import Half, Stream
from sidecar.splice.streamtable import StreamTable
from sidecar.wire import frames
from sidecar.wire.connection import CONNECTION_WINDOW, MAX_UNREAD_OUTPUT, Connection
from sidecar.wire.faults import ConnectionFault

if TYPE_CHECKING:
    from sidecar.splice.context import Context

# DATA goes into the output while that is less than this, and while the socket has taken all that it was given; the rest
# is held by stream, where a reset can still take it back and other streams can overtake it.
OUTPUT_HIGH: Final[i64] = 262_144
# DATA held for one peer that does not take it: 1,000 responses with their first window. Then it is given up.
MAX_HELD_FOR: Final[i64] = 33_554_432
# Unread output with which no more answers' header blocks or trailers are added: their streams are reset instead, so
# that what one backend sends without end (or blows up by HPACK) does not end a client's whole connection.
MAX_BLOCKS_UNREAD: Final[i64] = 1_048_576
# Output with which the sockets are written to before more is read: what waits for the end of the turn is not unread.
FLUSH_AT: Final[i64] = 262_144
# Streams reset by us whose late frames are ignored, and streams the peer reset: the newest so many.
MAX_TOMBSTONES: Final = 1024

RESET_BY_US: Final = 1
RESET_BY_PEER: Final = 2


class Peer(Connection):
    def __init__(self, context: Context, is_server: bool, max_streams: i64) -> None:
        super().__init__(context.memo, is_server, max_streams)
        self.context: Final = context
        self.streams: Final = StreamTable(is_server)
        self.unsent: i64 = 0  # octets the socket has not taken, kept by the caller
        self.draining: bool = False
        self.ended_idle: bool = False  # a client's that is `finished` because all its streams are
        self.gone: bool = False  # the socket is closed or is to be closed at once: write nothing more
        self._touched = context.touched
        self._is_touched: bool = False
        self.held_for: i64 = 0  # octets of DATA held here for this peer
        self.lent_for: i64 = 0  # credit beyond a stream's first window lent on this peer's word
        self.blocks_from: i64 = 0  # octets of its unanswered requests' header blocks
        self.replay_from: i64 = 0  # octets of its requests' bodies kept to be sent again
        self.block_counted: i64 = 0  # of `block_under_way`, in the context's sum
        self.owed: dict[Half, None] = {}  # whose sources are to be lent more once the socket has taken all
        self._waiting: dict[Stream, None] = {}  # with something held that may not be written yet, in turn
        self._tombstones: dict[int, int] = {}
        self._forgotten: i64 = 0  # the highest stream whose tombstone had to make room

    def touch(self) -> None:
        """Have the caller look at this connection at the end of the turn."""
        if not self._is_touched:
            self._is_touched = True
            self._touched.append(self)

    def untouch(self) -> None:
        self._is_touched = False

    def inbound(self, stream: Stream) -> Half:
        return stream.request if self.is_server else stream.response

    def outbound(self, stream: Stream) -> Half:
        return stream.response if self.is_server else stream.request

    def reset(self, stream_id: i64, code: i64) -> None:
        """RST_STREAM; what the peer still sends on it is ignored."""
        if not self.gone and not self.finished:
            frames.write_rst_stream(self.out, stream_id, code)
            self.bury(stream_id, RESET_BY_US)
            self.touch()

    def bury(self, stream_id: i64, kind: int) -> None:
        if len(self._tombstones) >= MAX_TOMBSTONES:
            oldest: i64 = next(iter(self._tombstones))
            del self._tombstones[oldest]
            if oldest > self._forgotten:
                self._forgotten = oldest
        self._tombstones[stream_id] = kind

    def epitaph(self, stream_id: i64) -> int:
        """How a closed stream ended: RESET_BY_US, RESET_BY_PEER, or 0 for both sides' END_STREAM.

        Where that is no longer known it may have been our reset, and then late frames are no fault.
        """
        return self._tombstones.get(stream_id, RESET_BY_US if stream_id <= self._forgotten else 0)

    # --- DATA in ---------------------------------------------------------------------------------

    def data_received(self, stream_id: i64, payload: bytes, flow_length: i64, end_stream: bool) -> None:
        stream = self.streams.find(stream_id)
        if stream is None:
            self._data_for_no_stream(stream_id)
            return
        half = self.inbound(stream)
        if half.state != states.OPEN:
            if half.state != states.RESET:  # nobody wants it any more, and the peer cannot know yet
                self.stream_fault(stream_id, frames.STREAM_CLOSED, "DATA after END_STREAM")
            return
        if not self.is_server and stream.phase != states.ANSWERED:
            self.stream_fault(stream_id, frames.PROTOCOL_ERROR, "DATA before a response's headers")
            return
        half.source_window -= flow_length
        if half.source_window < 0:
            self.stream_fault(stream_id, frames.FLOW_CONTROL_ERROR, "DATA beyond the stream's window")
            return
        size: i64 = len(payload)
        if half.content_length >= 0:
            half.content_length -= size
            if half.content_length < 0 or (end_stream and half.content_length != 0):
                self.stream_fault(stream_id, frames.PROTOCOL_ERROR, "content-length does not add up")
                return
        if end_stream:
            half.state = states.next_half(half.state, states.END)
        if size > 0 or end_stream:
            self._forward(stream, half, payload, size)
        if end_stream:
            if half.lent > 0 and half.sink is not None:
                settle_lent(half.sink, half)
            if half.held is not None:
                stream.service.half_done(stream)
        elif half.source_window < half.lend_below:
            lend(self, half)

    def _data_for_no_stream(self, stream_id: i64) -> None:
        if self.is_idle(stream_id):
            raise ConnectionFault(frames.PROTOCOL_ERROR, "DATA on an idle stream")
        if self.epitaph(stream_id) == RESET_BY_US:
            return
        self.stream_fault(stream_id, frames.STREAM_CLOSED, "DATA on a closed stream")

    def is_idle(self, stream_id: i64) -> bool:
        """Whether the stream has not been opened yet (section 5.1.1)."""
        raise NotImplementedError

    def end_received(self, stream: Stream, half: Half, trailers: bytes) -> None:
        """The source ends its half with trailers."""
        sink = half.sink
        if sink is not None and sink.flooded():
            stream.service.shed(stream)
            return
        half.state = states.next_half(half.state, states.END)
        half.trailers = trailers
        if half.lent > 0 and sink is not None:
            settle_lent(sink, half)
        if sink is not None and half.held is None:
            sink.pass_end(stream, half)
        else:
            size: i64 = len(trailers)
            half.held_size += size
            self._count_held(half, size)
            stream.service.half_done(stream)

    # --- DATA across -----------------------------------------------------------------------------

    def _forward(self, stream: Stream, half: Half, payload: bytes, size: i64) -> None:
        sink = half.sink
        if (
            sink is not None
            and half.held is None
            and (
                size == 0  # an END_STREAM alone needs no window (section 6.9.1), and no room to speak of
                or (
                    size <= half.sink_window
                    and size <= sink.send_window
                    and sink.unsent == 0
                    and sink.output_size() < OUTPUT_HIGH
                )
            )
        ):
            sink.pass_data(stream, half, payload, size)
            return
        half.hold(payload, size)
        self._count_held(half, size)
        if sink is None:
            return
        if sink.held_for > MAX_HELD_FOR and sink.is_server:
            sink.give_up(f"over {MAX_HELD_FOR} octets of DATA unread")
            return
        sink.pump(stream, half)

    def _count_held(self, half: Half, size: i64) -> None:
        """So much more of this peer's, the source's, is held.

        Of a client it counts as not read, so that its connection's window bounds it (CONNECTION_WINDOW). A backend's
        window is for all clients, and none of them may close it; there the bound is the sink's, MAX_HELD_FOR.
        """
        self.context.held += size
        if self.is_server:
            self.held_back += size
        if half.sink is not None:
            half.sink.held_for += size

    def _count_taken(self, half: Half, size: i64) -> None:
        """So much less is held for this peer, the sink."""
        half.held_size -= size
        self.held_for -= size
        self.context.held -= size
        if half.source is not None:
            half.source.released(size)

    def pass_data(self, stream: Stream, half: Half, payload: bytes, size: i64) -> None:
        """Write to this peer what both of its windows allow; with the half's end if this is the last of it."""
        half.sink_window -= size
        half.passed += size
        self.send_window -= size
        if half.replay is not None:
            keep_copy(half, half.replay, payload, size)
        last = half.state == states.ENDED and half.held is None and half.trailers is None
        self.write_data(half.sink_id, payload, last)
        self.touch()
        if last:
            half.state = states.next_half(half.state, states.PASS)
            stream.service.half_done(stream)

    def pass_end(self, stream: Stream, half: Half) -> None:
        """Nothing is held any more and the source has ended: say so to this peer."""
        trailers = half.trailers
        if half.held_size > 0:  # the trailers
            self._count_taken(half, half.held_size)
        if trailers is not None:
            self.write_headers(half.sink_id, trailers, True)
        else:
            self.write_data(half.sink_id, b"", True)
        self.touch()
        half.state = states.next_half(half.state, states.PASS)
        stream.service.half_done(stream)

    def pump(self, stream: Stream, half: Half) -> None:
        """Write to this peer all it may be sent of what is held for it."""
        while self._pump_one(stream, half):
            pass
        self._wait_turn(stream, half)

    def pump_all(self) -> None:
        """The connection may write again: a frame for each stream in turn, until it may not.

        Costs as much as it writes, however many streams wait.
        """
        while (
            self._waiting and self.send_window > 0 and self.unsent == 0 and self.output_size() < OUTPUT_HIGH
        ):
            stream = next(iter(self._waiting))
            half = self.outbound(stream)
            self._pump_one(stream, half)
            self._waiting.pop(stream, None)  # behind those that got nothing
            self._wait_turn(stream, half)

    def _wait_turn(self, stream: Stream, half: Half) -> None:
        # A half whose own window is closed is woken by its WINDOW_UPDATE, not by the connection's.
        if half.held is not None and half.sink_window > 0 and half.sink is self:
            self._waiting[stream] = None

    def _pump_one(self, stream: Stream, half: Half) -> bool:
        """Write one held piece, or as much of it as credit allows. False: nothing could be written."""
        held = half.held
        if held is None:
            return False
        payload = held[0]
        size: i64 = len(payload)
        room = half.sink_window
        if self.send_window < room:
            room = self.send_window
        if size > 0 and (room <= 0 or self.unsent > 0 or self.output_size() >= OUTPUT_HIGH):
            return False
        if size > room and size > 0:
            held[0] = payload[room:]
            payload = payload[:room]
            size = room
        else:
            del held[0]
            if not held:
                half.held = None
        self._count_taken(half, size)
        if half.lent > 0 and half.state == states.ENDED:
            settle_lent(self, half)
        self.pass_data(stream, half, payload, size)
        if half.held is None and half.state == states.ENDED:
            self.pass_end(stream, half)
        lend_if_low(half)
        return True

    def drop_outbound(self, stream: Stream, half: Half) -> None:
        """The half is over: what is held for this peer, its sink, goes nowhere."""
        self._waiting.pop(stream, None)
        self.owed.pop(half, None)
        self._count_taken(half, half.held_size)
        self.lent_for -= half.lent
        self.context.lent -= half.lent
        half.lent = 0
        half.discard()

    def adopt_outbound(self, half: Half) -> None:
        """This peer becomes the half's sink; what was held for nobody yet is now held for it."""
        self.held_for += half.held_size

    def released(self, size: i64) -> None:
        """Octets of this peer's are no longer held: they have been passed on, or go nowhere."""
        if not self.is_server:
            return
        self.held_back -= size
        if size and self.receive_window < CONNECTION_WINDOW // 2 and not self.gone:
            self.replenish()
            self.touch()

    # --- credit for what we send -----------------------------------------------------------------

    def window_received(self, stream_id: i64, increment: i64) -> None:
        stream = self.streams.find(stream_id)
        if stream is None:
            if self.is_idle(stream_id):
                raise ConnectionFault(frames.PROTOCOL_ERROR, "WINDOW_UPDATE on an idle stream")
            return
        if increment == 0:
            self.stream_fault(stream_id, frames.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
            return
        half = self.outbound(stream)
        half.sink_window += increment
        if half.sink_window > frames.MAX_WINDOW:
            self.stream_fault(stream_id, frames.FLOW_CONTROL_ERROR, "the stream's window exceeds 2^31-1")
            return
        if increment <= half.passed:
            half.is_read = True
        self._credit_changed(stream, half)

    def _credit_changed(self, stream: Stream, half: Half) -> None:
        if half.held is not None:
            self.pump(stream, half)
        lend_if_low(half)

    def initial_window_changed(self, difference: i64) -> None:
        for stream in self.streams.values():
            half = self.outbound(stream)
            half.sink_window += difference
            if half.sink_window > frames.MAX_WINDOW:
                raise ConnectionFault(frames.FLOW_CONTROL_ERROR, "a stream's window exceeds 2^31-1")
            if difference > 0:
                self._credit_changed(stream, half)

    def window_opened(self) -> None:
        if self._waiting:
            self.pump_all()

    def socket_state(self, unsent: i64) -> None:
        """How much of the output waits for the socket. A peer that makes us speak and does not listen is cut off."""
        self.context.held += unsent - self.unsent
        self.unsent = unsent
        if unsent > MAX_UNREAD_OUTPUT:
            self.give_up(f"over {MAX_UNREAD_OUTPUT} octets of output unread")
        elif unsent == 0:
            if self._waiting:
                self.pump_all()
            if self.owed:
                lend_owed(self)

    def give_up(self, why: str) -> None:
        """The peer does not read: end the connection without waiting for it."""
        self.fail(frames.ENHANCE_YOUR_CALM, why)
        self.gone = True
        self.settle_unsent()
        self.touch()

    def abort(self) -> None:
        """Have the socket closed at once; nothing more is said. The streams are the caller's affair."""
        self.gone = True
        self.finished = True
        self.touch()

    def not_written(self) -> None:
        """The socket is broken, and of the last `take_output` nothing has left."""

    def settle_unsent(self) -> None:
        """The socket is closed: what it had not taken goes nowhere."""
        self.context.held -= self.unsent
        self.unsent = 0

    def weight(self) -> i64:
        """Octets kept on this peer's account: what it does not read, and what it has sent that nobody reads.

        A backend answers only for its socket; what is held for it is the clients' doing.
        """
        return self.held_for + self.held_back + self.unsent if self.is_server else self.unsent

    def flooded(self) -> bool:
        """So much waits for this peer's socket that no more header blocks are to be added."""
        output = self.output_size()
        if output > FLUSH_AT:
            self.context.flush_wanted = True
        return self.unsent + output > MAX_BLOCKS_UNREAD

    def waiting_streams(self) -> list[Stream]:
        """The streams of which something is held for this peer that may be written in its turn."""
        return list(self._waiting)

    def disown(self, stream: Stream, stream_id: i64, code: i64) -> None:
        """Forget the stream, whatever its state, and reset it if that can still be said."""
        self._waiting.pop(stream, None)
        if self.streams.find(stream_id) is stream:
            self.streams.remove(stream_id)
            self.reset(stream_id, code)

    def has_waiting(self) -> bool:
        """Whether something is held, or owed, only until the socket takes more: `socket_state` is wanted."""
        return len(self._waiting) > 0 or len(self.owed) > 0

    # --- ends ------------------------------------------------------------------------------------

    def reset_received(self, stream_id: i64, code: i64) -> None:
        stream = self.streams.find(stream_id)
        if stream is None:
            if self.is_idle(stream_id):
                raise ConnectionFault(frames.PROTOCOL_ERROR, "RST_STREAM on an idle stream")
            return
        self.bury(stream_id, RESET_BY_PEER)
        self.stream_reset(stream, code)

    def stream_reset(self, stream: Stream, code: i64) -> None:
        """The peer has ended one of its streams."""
        raise NotImplementedError
