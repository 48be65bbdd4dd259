"""An honest HTTP/2 endpoint: what a client and a server have in common. It holds the engine to the RFC."""

from __future__ import annotations

import random
from typing import Any

import hpack
import rawhttp2 as wire

from simulator.clock import Clock, Violation
from simulator.network import End

READ_SIZE = 65_536
# DATA is cut into frames while less than this waits for the socket; the rest stays with its stream.
OUTPUT_HIGH = 65_536
DEFAULT_WINDOW = 65_535
LEAST_PADDED = 40
# What no honest peer may be told (RFC 9113 section 7): each of them says that it broke a rule.
ACCUSATIONS = {
    wire.PROTOCOL_ERROR: "PROTOCOL_ERROR",
    wire.FLOW_CONTROL_ERROR: "FLOW_CONTROL_ERROR",
    wire.SETTINGS_TIMEOUT: "SETTINGS_TIMEOUT",
    wire.STREAM_CLOSED: "STREAM_CLOSED",
    wire.FRAME_SIZE_ERROR: "FRAME_SIZE_ERROR",
    wire.COMPRESSION_ERROR: "COMPRESSION_ERROR",
    wire.ENHANCE_YOUR_CALM: "ENHANCE_YOUR_CALM",
}
_DECODED: dict[bytes, wire.Fields] = {}
MAX_DECODED = 4096
MAX_BLOCK_DECODED = 1024
# Of the frames of DATA that arrive, so many set off a PING, as grpc-go's probe of the bandwidth does.
PROBES = 0.03
PROBE = b"probe"

Fields = tuple[tuple[str, str], ...]


def decoded(block: bytes) -> Fields:
    """A block of the engine's, which carries no state: a decoder without a table and without a past reads it."""
    found = _DECODED.get(block)
    if found is None:
        decoder = hpack.Decoder(max_header_list_size=1 << 20)
        decoder.header_table_size = 0
        found = wire.as_text(list(decoder.decode(block, raw=True)))
        if len(_DECODED) >= MAX_DECODED:
            _DECODED.clear()
        if len(block) <= MAX_BLOCK_DECODED:
            _DECODED[block] = found
    return found  # type: ignore[return-value]


class Reader(wire.FrameReader):
    """The playbook's strict reader, with blocks looked up where they were read before."""

    def decode(self, block: bytes) -> wire.Fields:
        updates = block[:1] == b"\x20"
        assert updates == (len(self.blocks) == 1), "a table size update is due once, ahead of the first block"
        return decoded(block)


class Stream:
    """One stream as this endpoint sees it."""

    def __init__(self, number: int, send_window: int, receive_window: int) -> None:
        self.number = number
        self.send_window = send_window
        self.receive_window = receive_window
        self.outbox = bytearray()
        self.end: bytes | None = None  # behind the outbox: b"" END_STREAM on DATA, else the trailers' block
        self.sent_end = False
        self.got_end = False
        self.reset = False  # by us
        self.unread = 0  # octets of DATA its program has not taken
        self.stalled = False  # its program reads nothing for now
        # For the program's use.
        self.call: Any = None
        self.answered = False
        self.http_status = -1
        self.text = b""  # of a body that is not the call's
        self.said = 0  # messages sent
        self.asked = 0  # and how many of them had their answer noticed
        self.handling: Any = None

    def over(self) -> bool:
        return self.reset or (self.sent_end and self.got_end)


class Side:
    """Subclasses get `ready`, `headers`, `data`, `finished`, `was_reset`, `goaway`, `pong` and `lost`."""

    def __init__(
        self,
        clock: Clock,
        end: End,
        name: str,
        is_client: bool,
        settings: dict[int, int],
        window: int,
        rng: random.Random,
        pads: bool = False,
    ) -> None:
        """`window`: the connection's, for what it receives. `pads`: its DATA is padded."""
        self.clock = clock
        self.end = end
        self.name = name
        self.is_client = is_client
        self.random = rng
        self._pads = pads
        self._probes = 0
        self._unanswered: dict[bytes, float] = {}  # PINGs, and when they were sent
        self.closed = False
        self.peer_ready = False
        self.streams: dict[int, Stream] = {}
        self.buried: dict[int, str] = {}  # streams that are over: how
        self.peer_initial = DEFAULT_WINDOW
        self.send_window = DEFAULT_WINDOW
        self.receive_window = window  # the connection's
        self.initial = DEFAULT_WINDOW  # of streams: what the peer has acknowledged
        self.announced: list[dict[int, int]] = []  # settings on their way
        self.max_streams: int | None = None  # acknowledged
        self.frozen = False  # the whole program stands still
        self.connection_credit_at_once = rng.random() < 0.5  # grpc-go: at arrival; others: as it is read
        self._unread = 0  # of the connection
        self._out = bytearray()
        self._reader = Reader(preface=not is_client)
        end.owner = self._look
        if is_client:
            self._out += wire.PREFACE
        self.announce(settings)
        if window > DEFAULT_WINDOW:
            self.write(wire.window(0, window - DEFAULT_WINDOW))

    # --- out -------------------------------------------------------------------------------------

    def announce(self, settings: dict[int, int]) -> None:
        self.announced.append(settings)
        self.write(wire.settings(settings))

    def change(self, setting: int, value: int) -> None:
        """New SETTINGS in mid-connection."""
        if not self.closed and self.peer_ready:
            self.announce({setting: value})
            self.flush()

    def write(self, octets: bytes) -> None:
        self._out += octets

    def open(self, number: int) -> Stream:
        stream = Stream(number, self.peer_initial, self.initial)
        self.streams[number] = stream
        return stream

    def send(self, stream: Stream, data: bytes, end: bytes | None = None) -> None:
        """DATA as credit allows; `end` b"": END_STREAM with the last of it, else trailers' block behind it."""
        if stream.reset or stream.end is not None:
            return
        stream.outbox += data
        stream.end = end
        self._pump(stream)

    def _pump(self, stream: Stream) -> None:
        while stream.outbox and len(self._out) < OUTPUT_HIGH:
            room = min(stream.send_window, self.send_window, 16_384, len(stream.outbox))
            if room <= 0:
                return
            pad = self.random.randrange(20) if self._pads and room > LEAST_PADDED else -1
            size = room - pad - 1
            last = size == len(stream.outbox) and stream.end == b""
            self.write(wire.data(stream.number, bytes(stream.outbox[:size]), last, pad))
            del stream.outbox[:size]
            stream.send_window -= room
            self.send_window -= room
            if last:
                self._sent_end(stream)
                return
        if not stream.outbox and stream.end is not None and not stream.sent_end:
            if stream.end:
                self.write(wire.headers(stream.number, stream.end, True))
            else:
                self.write(wire.data(stream.number, b"", True))
            self._sent_end(stream)

    def _pump_all(self) -> None:
        for stream in list(self.streams.values()):
            if stream.outbox:
                self._pump(stream)

    def _sent_end(self, stream: Stream) -> None:
        stream.sent_end = True
        self._settle(stream)

    def _settle(self, stream: Stream) -> None:
        if stream.over() and self.streams.pop(stream.number, None) is not None:
            self.buried[stream.number] = "reset here" if stream.reset else "ended"
            self.released(stream)

    def reset(self, stream: Stream, code: int) -> None:
        if stream.number not in self.streams:
            return
        stream.reset = True
        stream.outbox.clear()
        self.write(wire.rst(stream.number, code))
        self._drop_unread(stream)
        self._settle(stream)

    def _drop_unread(self, stream: Stream) -> None:
        if not self.connection_credit_at_once:
            self._credit(stream.unread)
        stream.unread = 0

    def flush(self) -> None:
        if self.closed:
            return
        while self._out:
            taken = self.end.write(self._out)
            del self._out[:taken]
            if self._out:
                return
            self._pump_all()

    def close(self) -> None:
        """FIN, after what there is to say."""
        if not self.closed:
            self.flush()
            self.closed = True
            self.end.close()

    def abort(self) -> None:
        if not self.closed:
            self.closed = True
            self.end.abort()

    # --- in --------------------------------------------------------------------------------------

    def _look(self, end: End) -> None:
        if self.closed or self.frozen or not end.connected:
            if end.error and not self.closed and not self.frozen:
                self._over(end.error)
            return
        while end.inbox and not self.closed:
            for event in self._events(end.read(READ_SIZE)):
                if not self.closed:
                    self._event(event)
        self.flush()
        if self.closed:
            return
        if end.error:
            self._over(end.error)
        elif end.ended:
            self._over("closed the connection")

    def _over(self, why: str) -> None:
        self.closed = True
        self.end.close()
        self.lost(why)

    def thaw(self) -> None:
        self.frozen = False
        self._look(self.end)

    def _events(self, octets: bytes) -> list[wire.Event]:
        try:
            return self._reader.feed(octets)
        except (AssertionError, hpack.HPACKError) as error:
            raise Violation("http2", f"{self.name} was sent what it may not be: {error}") from error

    def _event(self, event: wire.Event) -> None:
        if isinstance(event, wire.Data):
            self._data(event)
        elif isinstance(event, wire.Headers):
            self._headers(event)
        elif isinstance(event, wire.Window):
            self._window(event)
        elif isinstance(event, wire.Reset):
            self._reset(event)
        elif isinstance(event, wire.Settings):
            self._settings(event)
        elif isinstance(event, wire.Ping):
            if event.ack:
                if self._unanswered.pop(event.payload, None) is None:
                    self.pong(event.payload)
            else:
                self.write(wire.ping(event.payload, True))
        elif isinstance(event, wire.Goaway):
            if event.code != wire.NO_ERROR:
                raise Violation("accused", f"{self.name} was told GOAWAY {event.code}: {event.debug!r}")
            self.goaway(event.last)

    def _find(self, number: int, what: str) -> Stream | None:
        """The open stream; None if a late frame of a stream that was reset here is to be ignored."""
        stream = self.streams.get(number)
        if stream is None:
            how = self.buried.get(number, "never opened")
            if how != "reset here":
                raise Violation("http2", f"{self.name}: {what} on stream {number}, which was {how}")
        elif stream.got_end:
            raise Violation("http2", f"{self.name}: {what} on stream {number} after END_STREAM")
        return stream

    def _headers(self, event: wire.Headers) -> None:
        if not self.is_client and event.stream not in self.streams and event.stream not in self.buried:
            stream: Stream | None = self._opened(event)
        else:
            stream = self._find(event.stream, "HEADERS")
        if stream is None:
            return
        if event.end:
            stream.got_end = True
        self.headers(stream, event.fields, event.end)
        self._settle(stream)

    def _opened(self, event: wire.Headers) -> Stream:
        if self.max_streams is not None and len(self.streams) >= self.max_streams:
            raise Violation("bounds", f"{self.name}: more than {self.max_streams} concurrent streams")
        return self.open(event.stream)

    def _data(self, event: wire.Data) -> None:
        size = len(event.payload)
        self.receive_window -= size
        if self.receive_window < 0:
            raise Violation("credit", f"{self.name}: DATA beyond the connection's window")
        stream = self._find(event.stream, "DATA")
        if stream is None:
            self._credit(size)
            return
        stream.receive_window -= size
        if size and stream.receive_window < 0:  # SETTINGS can make it negative
            raise Violation("credit", f"{self.name}: DATA beyond the window of stream {event.stream}")
        stream.unread += size
        stream.got_end = event.end
        if self.connection_credit_at_once:
            self._credit(size)
        if self.random.random() < PROBES:
            self._probe()
        self.data(stream, event.payload, event.end)
        if not stream.stalled:
            self.take(stream)
        self._settle(stream)

    def _probe(self) -> None:
        self._probes += 1
        payload = b"%s%03d" % (PROBE, self._probes % 1000)
        self._unanswered[payload] = self.clock.now
        self.write(wire.ping(payload))

    def check_pings(self) -> None:
        """Each must have been answered long ago."""
        if self._unanswered and not self.closed:
            raise Violation("ping", f"{self.name}: {len(self._unanswered)} PINGs were not answered")

    def take(self, stream: Stream) -> None:
        """The stream's program reads all there is."""
        size, stream.unread = stream.unread, 0
        if size and not self.connection_credit_at_once:
            self._credit(size)
        if (
            not stream.got_end
            and not stream.reset
            and self.initial - stream.receive_window > self.initial // 2
        ):
            grant = self.initial - stream.receive_window
            stream.receive_window += grant
            self.write(wire.window(stream.number, grant))

    def stall(self, stream: Stream, seconds: float) -> None:
        """Read nothing of this stream for so long."""
        stream.stalled = True

        def over() -> None:
            stream.stalled = False
            if not self.closed and not stream.reset:
                self.take(stream)
                self.flush()

        self.clock.after(seconds, over)

    def _credit(self, size: int) -> None:
        self._unread += size
        if self._unread > DEFAULT_WINDOW // 4:
            self.receive_window += self._unread
            self.write(wire.window(0, self._unread))
            self._unread = 0

    def _window(self, event: wire.Window) -> None:
        if event.stream == 0:
            self.send_window += event.increment
            if self.send_window > 0x7FFFFFFF:
                raise Violation("credit", f"{self.name}: the connection's window exceeds 2^31-1")
            self._pump_all()
            return
        stream = self.streams.get(event.stream)
        if stream is None:
            if event.stream not in self.buried:
                raise Violation("http2", f"{self.name}: WINDOW_UPDATE on an idle stream")
            return
        stream.send_window += event.increment
        if stream.send_window > 0x7FFFFFFF:
            raise Violation("credit", f"{self.name}: the window of stream {event.stream} exceeds 2^31-1")
        self._pump(stream)

    def _reset(self, event: wire.Reset) -> None:
        if event.code in ACCUSATIONS:
            raise Violation(
                "accused", f"{self.name}: stream {event.stream} reset with {ACCUSATIONS[event.code]}"
            )
        stream = self.streams.pop(event.stream, None)
        if stream is None:
            if event.stream not in self.buried:
                raise Violation("http2", f"{self.name}: RST_STREAM on an idle stream")
            return
        self.buried[event.stream] = "reset by the peer"
        stream.reset = True
        self._drop_unread(stream)
        self.was_reset(stream, event.code)
        self.released(stream)

    def _settings(self, event: wire.Settings) -> None:
        if event.ack:
            if not self.announced:
                raise Violation("http2", f"{self.name}: SETTINGS acknowledged twice")
            acknowledged = self.announced.pop(0)
            if wire.INITIAL_WINDOW_SIZE in acknowledged:
                difference = acknowledged[wire.INITIAL_WINDOW_SIZE] - self.initial
                self.initial += difference
                for stream in self.streams.values():
                    stream.receive_window += difference
                    if not stream.stalled:
                        self.take(stream)
            self.max_streams = acknowledged.get(wire.MAX_CONCURRENT_STREAMS, self.max_streams)
            return
        if wire.INITIAL_WINDOW_SIZE in event.values:
            difference = event.values[wire.INITIAL_WINDOW_SIZE] - self.peer_initial
            self.peer_initial += difference
            for stream in self.streams.values():
                stream.send_window += difference
        self.write(wire.settings(ack=True))
        self._pump_all()
        if not self.peer_ready:
            self.peer_ready = True
            self.ready()

    # --- hooks -----------------------------------------------------------------------------------

    def ready(self) -> None:
        """The peer's first SETTINGS have come."""

    def headers(self, stream: Stream, fields: Fields, end: bool) -> None:
        raise NotImplementedError

    def data(self, stream: Stream, payload: bytes, end: bool) -> None:
        raise NotImplementedError

    def was_reset(self, stream: Stream, code: int) -> None:
        raise NotImplementedError

    def released(self, stream: Stream) -> None:
        """The stream is over on this connection."""

    def goaway(self, last: int) -> None:
        raise NotImplementedError

    def pong(self, payload: bytes) -> None:
        """Our PING was answered."""

    def lost(self, why: str) -> None:
        raise NotImplementedError
