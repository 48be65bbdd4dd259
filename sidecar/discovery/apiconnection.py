"""One HTTP/2 connection to the API server: GETs whose answers may never end. Sans-IO, on `h2`.

Order of calls: `dial` first, then the Transport drives `connected`, `received` and `lost`; `request` only
between `connected` and the end. Every entry point ends by telling `Owner.turn`, where the owner makes its
next requests and calls `flush`.
"""

from __future__ import annotations

import contextlib
import math
import ssl
from typing import Any, Final, NamedTuple, Protocol

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from sidecar.discovery.frames import Frames, Goaway, NotHttp2Error
from sidecar.discovery.source import Dial, Transport

# TCP and TLS, on a loaded node too; client-go gives TLS alone 10 s.
CONNECT_SECONDS: Final = 10.0
# Nothing heard for this long: ask. Nothing heard for so long after that: dead (client-go: 30 s and 15 s). With
# the first wait of a backoff, a sidecar is back within 35 s of an API server that vanished without a word.
PING_AFTER_SECONDS: Final = 20.0
PING_ANSWER_SECONDS: Final = 10.0
# From the request to the status line: lists wait in the API server's queues for up to 15 s by default.
ANSWER_SECONDS: Final = 30.0
# For the whole body of a list: the API server gives up on a request after 60 s.
BODY_SECONDS: Final = 60.0
# Large lists come in few round trips; what arrives is parsed and acknowledged at once, so this is not held.
WINDOW_BYTES: Final = 1024 * 1024
# RFC 9113 section 6.5.2 recommends at least 100; assumed until the server's SETTINGS say what it is.
STREAMS_BEFORE_SETTINGS: Final = 100
_RETRY_AFTER_DIGITS: Final = 6
# After a GOAWAY, for lists that are on their way: any other is asked again on the next connection.
DRAIN_SECONDS: Final = 2.0
CONNECTING: Final = "connecting"
LIVE: Final = "live"
DRAINING: Final = "draining"
OVER: Final = "over"
_USER_AGENT: Final = b"evenstream-sidecar"


class Exchange(Protocol):
    """Receives one answer. `ended` or `broken` comes last, exactly one of them, unless it was cancelled."""

    def answered(self, status: int, retry_after: float, now: float) -> None:
        """The status line; `retry_after` in seconds, 0 if the header is absent."""

    def body(self, data: bytes, now: float) -> bool:
        """A part of the body. False: no more of it is wanted, and nothing follows."""

    def ended(self, now: float) -> None: ...

    def broken(self, reason: str, connection: bool, now: float) -> None:
        """No answer, or only a part. `connection`: the whole connection is gone, not this exchange alone."""


class Owner(Protocol):
    def turn(self, now: float) -> None:
        """Something came in and was handled: act on it."""

    def refused(self, status: int) -> None:
        """A request was answered with this status, 401 or above."""

    def ended(self, reason: str, graceful: bool, now: float) -> None:
        """The connection is over; all exchanges have been told. `graceful`: the server asked for it."""


class _Stream:
    __slots__ = ("answered", "deadline", "endless", "exchange")

    def __init__(self, exchange: Exchange, endless: bool, deadline: float) -> None:
        self.exchange = exchange
        self.endless = endless
        self.deadline = deadline
        self.answered = False


class Target(NamedTuple):
    """Where to connect."""

    host: str
    port: int
    server_name: str

    @property
    def authority(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class ApiConnection:
    """A Handler. `state` is one of CONNECTING, LIVE, DRAINING (no more requests) and OVER."""

    def __init__(self, target: Target, owner: Owner, now: float) -> None:
        self._authority = target.authority.encode()
        self._target = target
        self._owner = owner
        self._transport: Transport | None = None
        self._streams: dict[int, _Stream] = {}
        self._connect_by = now + CONNECT_SECONDS
        self._ping_answer_by = math.inf
        self.state = CONNECTING
        self.last_received = math.nan
        self.live_since = math.nan
        self._frames = Frames()
        self._drained_by = ""
        self._drain_until = math.inf
        self.succeeded = False  # whether any request was answered 200
        config = h2.config.H2Configuration(client_side=True, header_encoding=None)
        self._h2 = h2.connection.H2Connection(config)
        codes = h2.settings.SettingCodes
        self._h2.local_settings = h2.settings.Settings(
            client=True, initial_values={codes.ENABLE_PUSH: 0, codes.INITIAL_WINDOW_SIZE: WINDOW_BYTES}
        )

    def dial(self, dial: Dial, tls: ssl.SSLContext | None) -> None:
        transport = dial(self._target.host, self._target.port, self, tls, self._target.server_name)
        if self.state == OVER:  # it was refused within the call
            transport.close()
            return
        self._transport = transport
        self.flush()

    # What the transport says

    def connected(self, now: float) -> None:
        if self.state != CONNECTING:
            return
        self.state = LIVE
        self.live_since = self.last_received = now
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(WINDOW_BYTES)
        self._owner.turn(now)

    def received(self, data: bytes, now: float) -> None:
        if self.state not in (LIVE, DRAINING):
            return
        self.last_received = now
        self._ping_answer_by = math.inf
        try:
            for piece in self._frames.feed(data):
                if isinstance(piece, Goaway):
                    self._goaway(piece, now)
                else:
                    self._feed(piece, now)
        except NotHttp2Error as error:
            self.end(str(error), now)
        except h2.exceptions.ProtocolError as error:
            self.end(f"protocol error: {error or type(error).__name__}", now)
        if self.state == DRAINING and not self._streams:
            self.end(self._drained_by, now)
        if self.state != OVER:
            self._owner.turn(now)
            self.flush()

    def lost(self, reason: str, now: float) -> None:
        self._transport = None
        self.end(reason, now)

    # What the owner asks

    def free_streams(self) -> int:
        """How many more requests the server takes now."""
        if self.state != LIVE:
            return 0
        theirs = self._h2.remote_settings.max_concurrent_streams
        allowed = STREAMS_BEFORE_SETTINGS if theirs >= 2**32 else theirs  # h2's way to say: not told
        return max(0, allowed - self._h2.open_outbound_streams)

    def request(self, path: str, token: str, exchange: Exchange, *, endless: bool, now: float) -> int:
        """GET `path`. `endless`: a watch, whose body has no time limit. Returns the stream's id."""
        stream_id = self._h2.get_next_available_stream_id()
        headers = [
            (b":method", b"GET"),
            (b":scheme", b"https"),
            (b":authority", self._authority),
            (b":path", path.encode("ascii")),
            (b"accept", b"application/json"),
            (b"user-agent", _USER_AGENT),
        ]
        if token:
            headers.append((b"authorization", b"Bearer " + token.encode("ascii")))
        self._h2.send_headers(stream_id, headers, end_stream=True)
        self._streams[stream_id] = _Stream(exchange, endless, now + ANSWER_SECONDS)
        return stream_id

    def cancel(self, stream_id: int) -> None:
        """Nothing more is wanted of this exchange, and it hears nothing more."""
        if self._streams.pop(stream_id, None) is not None:
            self._reset(stream_id)

    def tick(self, now: float) -> None:
        if self.state == CONNECTING and now >= self._connect_by:
            self.end(f"not connected within {CONNECT_SECONDS:.0f} s", now)
        if self.state not in (LIVE, DRAINING):
            return
        if now >= self._drain_until:
            self.end(self._drained_by, now)
            return
        if now >= self._ping_answer_by:
            self.end(f"no answer to PING within {PING_ANSWER_SECONDS:.0f} s", now)
            return
        if now >= self.last_received + PING_AFTER_SECONDS and self._ping_answer_by == math.inf:
            self._ping_answer_by = now + PING_ANSWER_SECONDS
            self._h2.ping(b"evenstrm")
        for stream_id, stream in list(self._streams.items()):
            if now >= stream.deadline:
                self.cancel(stream_id)
                stream.exchange.broken("no answer in time", False, now)
        self.flush()

    def deadline(self) -> float:
        """When `tick` is wanted. Costs a walk over the streams: to be kept by the caller."""
        if self.state == CONNECTING:
            return self._connect_by
        if self.state == OVER:
            return math.inf
        ping = self._ping_answer_by
        if ping == math.inf:
            ping = self.last_received + PING_AFTER_SECONDS
        return min(
            ping,
            self._drain_until,
            min((stream.deadline for stream in self._streams.values()), default=math.inf),
        )

    def flush(self) -> None:
        if self._transport is not None and self.state in (LIVE, DRAINING):
            data = self._h2.data_to_send()
            if data:
                self._transport.write(data)

    def end(self, reason: str, now: float) -> None:
        """Give the connection up and tell everybody. Idempotent."""
        if self.state == OVER:
            return
        self.close()
        streams, self._streams = self._streams, {}
        raised: Exception | None = None
        for stream in streams.values():
            try:
                stream.exchange.broken(reason, True, now)
            except Exception as error:  # a bug of ours; whoever is not told would wait for ever
                raised = error
        self._owner.ended(reason, bool(self._drained_by), now)
        if raised is not None:
            raise raised

    def close(self) -> None:
        """Close without telling anybody."""
        if self.state in (LIVE, DRAINING):
            self._h2.close_connection()
            self.flush()
        self.state = OVER
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def _feed(self, frames: bytes, now: float) -> None:
        if self.state == OVER:
            return
        for event in self._h2.receive_data(frames):
            self._handle(event, now)
            if self.state == OVER:
                return

    def _goaway(self, goaway: Goaway, now: float) -> None:
        """Make no more requests. Lists on their way may end; watches go on over the next connection."""
        if self.state == OVER:
            return
        code = _code(goaway.error_code)
        reason = f"GOAWAY from the API server ({code})"
        if goaway.error_code != h2.errors.ErrorCodes.NO_ERROR:
            self.end(reason, now)
            return
        if self.state == LIVE:
            self.state, self._drained_by, self._drain_until = DRAINING, reason, now + DRAIN_SECONDS
        for stream_id, stream in list(self._streams.items()):
            if stream_id > goaway.last_stream_id or (stream.endless and stream.answered):
                self.cancel(stream_id)
                stream.exchange.broken(reason, True, now)

    def _handle(self, event: h2.events.Event, now: float) -> None:
        if isinstance(event, h2.events.DataReceived):
            self._data(event, now)
        elif isinstance(event, h2.events.ResponseReceived):
            self._answered(event, now)
        elif isinstance(event, h2.events.StreamEnded):
            stream = self._streams.pop(event.stream_id, None)
            if stream is not None:
                stream.exchange.ended(now)
        elif isinstance(event, h2.events.StreamReset):
            stream = self._streams.pop(event.stream_id, None)
            if stream is not None:
                stream.exchange.broken(
                    f"reset by the API server ({_code(event.error_code or 0)})", False, now
                )

    def _answered(self, event: h2.events.ResponseReceived, now: float) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None:
            return
        headers = dict(event.headers)
        status = _digits(headers.get(b":status", b""))
        stream.answered = status == 200
        draining = self.state == DRAINING
        if status == 200:
            self.succeeded = True
        elif status >= 401:
            self._owner.refused(status)
        stream.deadline = math.inf if stream.endless and status == 200 else now + BODY_SECONDS
        # RFC 9110 section 10.2.3 allows a date too; the API server writes seconds.
        stream.exchange.answered(status, float(_digits(headers.get(b"retry-after", b""))), now)
        if draining and stream.endless and status == 200:  # it began as the connection was ending
            self.cancel(event.stream_id)
            stream.exchange.broken(self._drained_by, True, now)

    def _data(self, event: h2.events.DataReceived, now: float) -> None:
        # At once: nothing is held here, and a stalled window would stall every other watch.
        self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        stream = self._streams.get(event.stream_id)
        if stream is not None and event.data and not stream.exchange.body(event.data, now):
            self.cancel(event.stream_id)

    def _reset(self, stream_id: int) -> None:
        # Closed: the server ended it in the same bytes.
        with contextlib.suppress(h2.exceptions.StreamClosedError):
            self._h2.reset_stream(stream_id, h2.errors.ErrorCodes.CANCEL)


def _digits(value: Any) -> int:
    """A header's number; 0 for anything else."""
    text = bytes(value)
    return int(text) if text.isdigit() and len(text) <= _RETRY_AFTER_DIGITS else 0


def _code(code: int) -> str:
    """An HTTP/2 error code's name (RFC 9113 section 7), or its number."""
    try:
        return h2.errors.ErrorCodes(code).name
    except ValueError:
        return str(code)
