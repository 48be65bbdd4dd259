"""One HTTP/2 connection, without sockets: bytes in, frames understood, hooks called, bytes out.

`Connection` knows the rules that hold whatever the streams mean: framing, the preface, SETTINGS, PING,
header blocks and their CONTINUATIONs, the connection's own window, and what floods are. A subclass gives
the hooks (`headers_received` and the like) their meaning. After `feed` the caller writes `take_output()`
and closes the socket once `finished` is set.
"""

from __future__ import annotations

from typing import Final

from librt.strings import read_i32_be
from mypy_extensions import i64

from sidecar.wire import frames
from sidecar.wire.blocks import Block
from sidecar.wire.faults import ConnectionFault
from sidecar.wire.frames import HEADER_LENGTH
from sidecar.wire.headers import HeaderReader
from sidecar.wire.memo import BlockMemo
from sidecar.wire.output import Output
from sidecar.wire.primitives import CompressionError
from sidecar.wire.table import MAX_HEADER_LIST, HeaderListTooLargeError

# Metadata of 64 KiB, with its names and with base64's third on top, fits; floods of CONTINUATION end here.
MAX_HEADER_BLOCK: Final[i64] = 131_072
# A block of MAX_HEADER_BLOCK takes 8 full frames. Small ones are legal; so many serve nobody.
MAX_BLOCK_FRAMES: Final[i64] = 64
# The connection's window must never be what holds up a stream; streams have their own. It bounds what one peer
# may send for streams that have no endpoint yet.
CONNECTION_WINDOW: Final[i64] = 16_777_216
# What a backend may send of a response before it is given more: 90 readers that stop leave less than 3 MB of first
# windows here. A response that is longer waits a round trip to the backend where HTTP/2's own 64 KiB would not; one of
# more than those waits in either case.
RESPONSE_WINDOW: Final[i64] = 32_768
# Output a peer caused and does not read: acknowledgements, resets, headers. DATA is bounded by credit.
MAX_UNREAD_OUTPUT: Final[i64] = 4_194_304

_PREFACE: Final = frames.PREFACE


class Connection(Output):
    """The half of HTTP/2 below streams. `is_server`: the peer is a client and sends the preface."""

    def __init__(self, memo: BlockMemo, is_server: bool, max_streams: i64) -> None:
        super().__init__()
        self.now: float = 0.0
        self.is_server: bool = is_server
        # Set once nothing more is to be said: flush the output, then close.
        self.finished: bool = False
        self.error_code: i64 = frames.NO_ERROR  # of the GOAWAY we sent for a fault of the peer's
        self.error_message: str = ""
        self.peer_ready: bool = False  # its SETTINGS have arrived
        self.peer_initial_window: i64 = frames.DEFAULT_WINDOW
        self.peer_max_streams: i64 = frames.MAX_STREAM_ID  # unlimited until said, section 6.5.2
        self.peer_max_header_list: i64 = frames.UNLIMITED  # the same; octets as Block.list_size counts them
        self.send_window: i64 = frames.DEFAULT_WINDOW
        self.receive_window: i64 = CONNECTION_WINDOW
        self.held_back: i64 = 0  # octets of the peer's DATA that count as not read yet
        self._headers = HeaderReader(memo)
        self._rest: bytes = b""
        self.incomplete_since: float = 0.0  # while `is_incomplete`: since when
        self._preface_seen: bool = not is_server
        # A header block under way.
        self._block_stream: i64 = 0
        self._block_end_stream: bool = False
        self._block_parts: list[bytes] = []
        self._block_size: i64 = 0
        self._block_frames: i64 = 0
        if not is_server:
            self.out.write(_PREFACE)
        settings = [(int(frames.HEADER_TABLE_SIZE), 0), (int(frames.MAX_HEADER_LIST_SIZE), MAX_HEADER_LIST)]
        if is_server:
            settings.append((int(frames.MAX_CONCURRENT_STREAMS), int(max_streams)))
        else:
            settings.append((int(frames.ENABLE_PUSH), 0))
            settings.append((int(frames.INITIAL_WINDOW_SIZE), RESPONSE_WINDOW))
        frames.write_settings(self.out, settings)
        frames.write_window_update(self.out, 0, CONNECTION_WINDOW - frames.DEFAULT_WINDOW)

    # --- hooks -----------------------------------------------------------------------------------

    def headers_received(self, stream_id: i64, block: Block, end_stream: bool) -> None:
        raise NotImplementedError

    def data_received(self, stream_id: i64, payload: bytes, flow_length: i64, end_stream: bool) -> None:
        """`flow_length` counts padding too (section 6.9.1)."""
        raise NotImplementedError

    def reset_received(self, stream_id: i64, code: i64) -> None:
        raise NotImplementedError

    def window_received(self, stream_id: i64, increment: i64) -> None:
        """Credit for one stream; `increment` 0 is a stream error."""
        raise NotImplementedError

    def window_opened(self) -> None:
        """The connection's send window has grown."""
        raise NotImplementedError

    def initial_window_changed(self, difference: i64) -> None:
        """All open streams of this connection have that much more (or less) credit (section 6.9.2)."""
        raise NotImplementedError

    def settings_received(self) -> None:
        raise NotImplementedError

    def goaway_received(self, last_stream_id: i64, code: i64, debug: bytes) -> None:
        raise NotImplementedError

    def ping_acknowledged(self, payload: bytes) -> None:
        raise NotImplementedError

    def stream_fault(self, stream_id: i64, code: i64, message: str) -> None:
        """The peer broke a rule that ends one stream (section 5.4.2)."""
        raise NotImplementedError

    def failing(self) -> None:
        """The connection is about to end for a fault of the peer's; streams are to be settled."""
        raise NotImplementedError

    # --- input -----------------------------------------------------------------------------------

    def feed(self, data: bytes, now: float) -> None:
        """Take bytes from the peer. A fault of the peer's ends in GOAWAY and `finished`; nothing is raised."""
        self.now = now
        if self.finished:
            return
        begun = self._block_stream != 0
        used: i64 = 0
        try:
            if self._rest:
                begun = True
                used = self._complete(data)
                if used == 0:
                    data = self._rest + data
                elif self.finished:
                    return
            used = self._parse(data, used)
        except ConnectionFault as fault:
            self.fail(fault.code, fault.message)
            return
        except CompressionError as error:
            self.fail(frames.COMPRESSION_ERROR, str(error))
            return
        except HeaderListTooLargeError:
            self.fail(frames.ENHANCE_YOUR_CALM, f"a header list over {MAX_HEADER_LIST} octets")
            return
        if used == len(data):
            self._rest = b""
        else:
            self._rest = data[used:]
        if not begun or (used > 0 and self._block_stream == 0):
            self.incomplete_since = now
        if self.receive_window < CONNECTION_WINDOW // 2:
            self.replenish()

    def _complete(self, data: bytes) -> i64:
        """Take the frame that began in the read before, without copying all that has come behind it.

        How many octets of `data` were its own; 0 if this is not to be had so cheaply.
        """
        rest = self._rest
        have: i64 = len(rest)
        if have < HEADER_LENGTH or not self._preface_seen:
            return 0
        missing = HEADER_LENGTH + (i64(read_i32_be(rest, 0)) >> 8 & 0xFFFFFF) - have
        if missing <= 0 or missing >= len(data):
            return 0
        self._parse(rest + data[:missing], 0)
        return missing

    def fail(self, code: i64, message: str) -> None:
        """End the connection for a fault of the peer's."""
        if self.finished:
            return
        self.error_code = code
        self.error_message = message
        self.failing()
        frames.write_goaway(self.out, self.last_peer_stream(), code, message.encode()[:128])
        self.finished = True
        self._rest = b""
        self._block_stream = 0
        self._block_parts = []

    def break_off(self) -> None:
        """End the connection for a fault of ours: say so, if anything may still be said."""
        if not self.finished:
            frames.write_goaway(
                self.out, self.last_peer_stream(), frames.INTERNAL_ERROR, b"internal error of the proxy"
            )
            self.finished = True
        self._rest = b""
        self._block_stream = 0
        self._block_parts = []

    def is_incomplete(self) -> bool:
        """Whether a frame or a header block has begun and not ended."""
        return len(self._rest) > 0 or self._block_stream != 0

    def block_under_way(self) -> i64:
        """Octets of a header block that has begun and not ended, frame headers included; 0 if there is none."""
        if self._block_stream == 0:
            return 0
        return self._block_size + self._block_frames * HEADER_LENGTH

    def last_peer_stream(self) -> i64:
        """The highest stream of the peer's that was or may be acted on, for GOAWAY."""
        return 0

    def _parse(self, data: bytes, at: i64) -> i64:
        """Take the frames from `at` on; up to where."""
        end: i64 = len(data)
        if not self._preface_seen:
            if not data.startswith(_PREFACE):
                if _PREFACE.startswith(data):
                    return 0
                raise ConnectionFault(frames.PROTOCOL_ERROR, "no HTTP/2 preface")
            self._preface_seen = True
            at = frames.PREFACE_LENGTH
        while end - at >= HEADER_LENGTH:
            word: i64 = i64(read_i32_be(data, at))
            length: i64 = (word >> 8) & 0xFFFFFF
            kind: i64 = word & 0xFF
            if length > frames.MAX_FRAME:
                if not self.peer_ready and data.startswith(b"HTTP/"):
                    raise ConnectionFault(frames.PROTOCOL_ERROR, "it speaks HTTP/1, not HTTP/2")
                raise ConnectionFault(frames.FRAME_SIZE_ERROR, f"a frame of {length} octets")
            body = at + HEADER_LENGTH
            if end - body < length:
                break
            flags: i64 = data[at + 4]
            stream_id: i64 = i64(read_i32_be(data, at + 5))
            stream_id &= 0x7FFFFFFF
            at = body + length
            if self._block_stream != 0 and (kind != frames.CONTINUATION or stream_id != self._block_stream):
                raise ConnectionFault(frames.PROTOCOL_ERROR, "a header block is interrupted")
            if kind == frames.DATA:
                self._data(data, body, length, flags, stream_id)
            elif kind == frames.HEADERS:
                self._headers_frame(data, body, length, flags, stream_id)
            else:
                self._other(data, body, length, kind, flags, stream_id)
            if self.finished:
                return end
        return at

    def _data(self, data: bytes, body: i64, length: i64, flags: i64, stream_id: i64) -> None:
        if not self.peer_ready:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if stream_id == 0:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "DATA on stream 0")
        start = body
        stop = body + length
        if flags & frames.PADDED:
            if length == 0:
                raise ConnectionFault(frames.FRAME_SIZE_ERROR, "padding without its length")
            pad: i64 = data[body]
            if pad >= length:
                raise ConnectionFault(frames.PROTOCOL_ERROR, "padding longer than its frame")
            start += 1
            stop -= pad
        if length > self.receive_window:
            raise ConnectionFault(frames.FLOW_CONTROL_ERROR, "DATA beyond the connection's window")
        self.receive_window -= length
        ends = flags & frames.END_STREAM != 0
        if stop == start and not ends:
            self.allowance.nuisance("empty DATA", self.now)
        elif length > 0:
            self.allowance.earn()
        self.data_received(stream_id, data[start:stop], length, ends)

    def _headers_frame(self, data: bytes, body: i64, length: i64, flags: i64, stream_id: i64) -> None:
        if not self.peer_ready:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if stream_id == 0:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "HEADERS on stream 0")
        start = body
        stop = body + length
        if flags & (frames.PADDED | frames.PRIORITY_FLAG):
            if flags & frames.PADDED:
                start += 1
            if flags & frames.PRIORITY_FLAG:
                start += 5
            if start > stop:
                raise ConnectionFault(
                    frames.FRAME_SIZE_ERROR, f"padded or prioritised HEADERS of {length} octets"
                )
            if flags & frames.PADDED:
                stop -= i64(data[body])
                if start > stop:
                    raise ConnectionFault(frames.PROTOCOL_ERROR, "padding longer than its frame")
            if flags & frames.PRIORITY_FLAG:
                parent: i64 = i64(read_i32_be(data, start - 5))
                if parent & 0x7FFFFFFF == stream_id:
                    self._self_dependent(stream_id, data[start:stop])
                    return
        end_stream = flags & frames.END_STREAM != 0
        if flags & frames.END_HEADERS:
            self.headers_received(stream_id, self._headers.read(data[start:stop]), end_stream)
            return
        self.incomplete_since = self.now  # whatever was incomplete before it has ended
        self._block_stream = stream_id
        self._block_end_stream = end_stream
        self._block_parts = [data[start:stop]]
        self._block_size = stop - start
        self._block_frames = 1

    def _self_dependent(self, stream_id: i64, block: bytes) -> None:
        # RFC 7540 section 5.3.1, which RFC 9113 does not repeat and h2spec asks for. The decoder sees the block.
        self._headers.read(block)
        self.stream_fault(stream_id, frames.PROTOCOL_ERROR, "a stream that depends on itself")

    def _continuation(self, data: bytes, body: i64, length: i64, flags: i64, stream_id: i64) -> None:
        if self._block_stream == 0:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        self._block_size += length
        self._block_frames += 1
        if self._block_size > MAX_HEADER_BLOCK or self._block_frames > MAX_BLOCK_FRAMES:
            raise ConnectionFault(
                frames.ENHANCE_YOUR_CALM,
                f"a header block over {MAX_HEADER_BLOCK} octets or {MAX_BLOCK_FRAMES} frames",
            )
        self._block_parts.append(data[body : body + length])
        if flags & frames.END_HEADERS:
            block = b"".join(self._block_parts)
            self._block_parts = []
            self._block_stream = 0
            self.headers_received(stream_id, self._headers.read(block), self._block_end_stream)

    def _other(self, data: bytes, body: i64, length: i64, kind: i64, flags: i64, stream_id: i64) -> None:
        if not self.peer_ready and (kind != frames.SETTINGS or flags & frames.ACK):
            raise ConnectionFault(frames.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if kind == frames.WINDOW_UPDATE:
            self._window_update(data, body, length, stream_id)
        elif kind == frames.RST_STREAM:
            if stream_id == 0:
                raise ConnectionFault(frames.PROTOCOL_ERROR, "RST_STREAM on stream 0")
            _expect_length("RST_STREAM", length, 4)
            self.reset_received(stream_id, _u32(data, body))
        elif kind == frames.SETTINGS:
            self._settings(data, body, length, flags, stream_id)
        elif kind == frames.PING:
            self._ping(data, body, length, flags, stream_id)
        elif kind == frames.CONTINUATION:
            self._continuation(data, body, length, flags, stream_id)
        elif kind == frames.GOAWAY:
            if stream_id != 0:
                raise ConnectionFault(frames.PROTOCOL_ERROR, "GOAWAY on a stream")
            if length < 8:
                raise ConnectionFault(frames.FRAME_SIZE_ERROR, f"GOAWAY of {length} octets")
            self.allowance.settings("GOAWAY", self.now)
            last: i64 = i64(read_i32_be(data, body))
            self.goaway_received(last & 0x7FFFFFFF, _u32(data, body + 4), data[body + 8 : body + length])
        elif kind == frames.PRIORITY:
            self.allowance.nuisance("PRIORITY", self.now)
            if stream_id == 0:
                raise ConnectionFault(frames.PROTOCOL_ERROR, "PRIORITY on stream 0")
            if length != 5:
                self.stream_fault(stream_id, frames.FRAME_SIZE_ERROR, f"PRIORITY of {length} octets")
                return
            parent: i64 = i64(read_i32_be(data, body))
            if parent & 0x7FFFFFFF == stream_id:
                self.stream_fault(stream_id, frames.PROTOCOL_ERROR, "a stream that depends on itself")
        elif kind == frames.PUSH_PROMISE:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "PUSH_PROMISE, which was not enabled")
        else:
            self.allowance.nuisance("unknown frames", self.now)  # ignored, section 4.1

    def _window_update(self, data: bytes, body: i64, length: i64, stream_id: i64) -> None:
        _expect_length("WINDOW_UPDATE", length, 4)
        increment: i64 = i64(read_i32_be(data, body))
        increment &= 0x7FFFFFFF
        self.allowance.credit_received(increment, self.now)
        if stream_id != 0:
            self.window_received(stream_id, increment)
            return
        if increment == 0:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
        self.send_window += increment
        if self.send_window > frames.MAX_WINDOW:
            raise ConnectionFault(frames.FLOW_CONTROL_ERROR, "the connection's window exceeds 2^31-1")
        self.window_opened()

    def _settings(self, data: bytes, body: i64, length: i64, flags: i64, stream_id: i64) -> None:
        self.allowance.settings("SETTINGS", self.now)
        if stream_id != 0:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & frames.ACK:
            _expect_length("SETTINGS acknowledgement", length, 0)
            self._headers.acknowledged = True
            return
        if length % 6:
            raise ConnectionFault(frames.FRAME_SIZE_ERROR, f"SETTINGS of {length} octets")
        # Ahead of anything the values set off: peers count by them from the acknowledgement on (section 6.5.3).
        frames.write_settings_ack(self.out)
        before = self.peer_initial_window
        at = body
        while at < body + length:
            identifier: i64 = (i64(data[at]) << 8) | i64(data[at + 1])
            self._setting(identifier, _u32(data, at + 2))
            at += 6
        # Once a frame, whatever it says in between: each change is a walk over all streams.
        if self.peer_initial_window != before:
            self.initial_window_changed(self.peer_initial_window - before)
        self.peer_ready = True
        self.settings_received()

    def _setting(self, identifier: i64, value: i64) -> None:
        if identifier == frames.INITIAL_WINDOW_SIZE:
            if value > frames.MAX_WINDOW:
                raise ConnectionFault(frames.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE over 2^31-1")
            self.peer_initial_window = value
        elif identifier == frames.MAX_CONCURRENT_STREAMS:
            self.peer_max_streams = value
        elif identifier == frames.MAX_HEADER_LIST_SIZE:
            self.peer_max_header_list = value
        elif identifier == frames.MAX_FRAME_SIZE:
            if not frames.MAX_FRAME <= value <= 0xFFFFFF:
                raise ConnectionFault(frames.PROTOCOL_ERROR, "MAX_FRAME_SIZE out of range")
        elif identifier == frames.ENABLE_PUSH and (value > 1 or (value == 1 and not self.is_server)):
            raise ConnectionFault(frames.PROTOCOL_ERROR, "ENABLE_PUSH out of range")

    def _ping(self, data: bytes, body: i64, length: i64, flags: i64, stream_id: i64) -> None:
        self.allowance.nuisance("PING", self.now)
        if stream_id != 0:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "PING on a stream")
        _expect_length("PING", length, 8)
        payload = data[body : body + 8]
        if flags & frames.ACK:
            self.ping_acknowledged(payload)
        else:
            frames.write_ping(self.out, payload, True)

    # --- output ----------------------------------------------------------------------------------

    def replenish(self) -> None:
        """Grow the connection's receive window again, but for what is held back."""
        grant = CONNECTION_WINDOW - self.receive_window - self.held_back
        if grant >= CONNECTION_WINDOW // 4 and not self.finished:
            self.receive_window += grant
            frames.write_window_update(self.out, 0, grant)


def _u32(data: bytes, at: i64) -> i64:
    value: i64 = i64(read_i32_be(data, at))
    return value & 0xFFFFFFFF


def _expect_length(what: str, length: i64, expected: i64) -> None:
    if length != expected:
        raise ConnectionFault(frames.FRAME_SIZE_ERROR, f"{what} of {length} octets")
