"""One HTTP/1.1 connection (RFC 9112) to the admin port: bytes in, bytes out, with a bound on everything."""

from __future__ import annotations

import math
from typing import Final, NamedTuple, Protocol

import h11

# A scraper's request is a few hundred bytes and a browser's 1-2 KiB; cookies of other things on localhost
# make it larger. nginx allows 8 KiB too.
MAX_REQUEST_HEAD_BYTES: Final = 8 * 1024
# No route wants a body; an empty form or {} is no reason to be unfriendly.
MAX_REQUEST_BODY_BYTES: Final = 1024
# Pipelined requests kept while one waits for its turn. More can wait in the kernel of whoever sends them.
MAX_PIPELINED_BYTES: Final = 16 * 1024
# Requests of one connection answered before others, the data plane above all, get their turn.
MAX_REQUESTS_PER_TURN: Final = 8
# From the first byte of a request to its last. Fixed, not extended by each byte, so that sending slowly
# (slowloris) holds a connection no longer than silence does.
REQUEST_TIMEOUT_SECONDS: Final = 5.0
# Between requests: longer than the usual scrape intervals of 15-60 s, so that a scraper keeps its connection.
IDLE_TIMEOUT_SECONDS: Final = 75.0
# For a peer to take an answer. It stops reading, it loses the connection.
WRITE_TIMEOUT_SECONDS: Final = 10.0
# How soon to look again whether an answer has left. An answer fits most socket buffers, so this is rare.
UNSENT_POLL_SECONDS: Final = 0.02

TEXT_TYPE: Final = "text/plain; charset=utf-8"
_SECURITY_HEADERS: Final = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)


class Transport(Protocol):
    """An accepted connection. `close` flushes what was written, then closes; the owner bounds the time a
    peer has to take it. `AdminConnection.lost` is not called after it."""

    def write(self, data: bytes) -> None: ...

    def unsent(self) -> int:
        """Bytes written here that the kernel has not taken yet."""

    def close(self) -> None: ...


class Ask(NamedTuple):
    """A request, as far as the routes look at it."""

    method: str
    path: str  # without the query
    host: str | None
    origin: str | None
    accept: str
    loopback: bool  # the peer is on this machine, or rather in this pod


class Reply(NamedTuple):
    status: int
    body: str | bytes
    content_type: str = TEXT_TYPE
    headers: tuple[tuple[str, str], ...] = ()


class Answering(Protocol):
    """What a connection needs of AdminServer."""

    def turn_for(self, ask: Ask, now: float) -> float: ...

    def reply(self, ask: Ask, now: float) -> Reply: ...

    def ended(self, connection: AdminConnection) -> None: ...


class AdminConnection:
    """Made by `AdminServer.accept`. `received` any number of times, then at most one `lost`. Bytes and calls
    that come after the end are ignored. Never raises, whatever the bytes."""

    def __init__(
        self, server: Answering, transport: Transport, peer_host: str, loopback: bool, now: float
    ) -> None:
        self.peer_host = peer_host
        self.last_active = now
        self._server = server
        self._transport = transport
        self._loopback = loopback
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_REQUEST_HEAD_BYTES)
        self._ask: Ask | None = None  # read, or being read, and not answered yet
        self._whole = False  # its body too
        self._body_bytes = 0
        self._begun = False  # some bytes of a request are here
        self._no_more = False  # the peer has closed its side
        self._ended = False
        self._idle_until = now
        self._times_out_at = now + REQUEST_TIMEOUT_SECONDS
        self._resumes_at = math.inf

    def received(self, data: bytes, now: float) -> None:
        """Bytes from the peer; b"" if it will send no more: what it has asked is still answered."""
        if self._ended or self._no_more:
            return
        self.last_active = now
        if not data:
            self._no_more = True
            if not self._whole:
                self.end()
            return
        if not self._begun:
            self._begun = True
            self._times_out_at = now + REQUEST_TIMEOUT_SECONDS
        self._h11.receive_data(data)
        if self._resumes_at == math.inf:
            self._advance(now)
        if not self._ended and len(self._h11.trailing_data[0]) > MAX_PIPELINED_BYTES:
            self.end()

    def lost(self, reason: str, now: float) -> None:
        """The connection is gone; nothing is written any more."""
        if not self._ended:
            self._ended = True
            self._server.ended(self)

    def tick(self, now: float) -> None:
        """Go on with what waited, or give up on a peer that is too slow."""
        if self._ended:
            return
        if now >= self._resumes_at:
            self._resumes_at = math.inf
            self._advance(now)
        if self._ended or now < self._times_out_at or self._resumes_at != math.inf:
            return
        if self._begun:
            self._fail(408, f"no whole request within {REQUEST_TIMEOUT_SECONDS:g} s")
        elif now < self._idle_until and not self._transport.unsent():
            self._times_out_at = self._idle_until
        else:
            self.end()

    def deadline(self) -> float:
        """When `tick` is wanted next; infinity once ended."""
        if self._ended:
            return math.inf
        return self._times_out_at if self._resumes_at == math.inf else self._resumes_at

    def end(self) -> None:
        """Close after what was written."""
        if not self._ended:
            self._ended = True
            self._transport.close()
            self._server.ended(self)

    def _advance(self, now: float) -> None:
        """Answer what has come, as far as the turn, the server's pace and the peer's reading allow."""
        for _ in range(MAX_REQUESTS_PER_TURN):
            if not self._whole:
                self._read(now)
            if self._ended or not self._whole or self._ask is None:
                return
            if self._transport.unsent():
                if now >= self._times_out_at:
                    self.end()
                else:
                    self._resumes_at = now + UNSENT_POLL_SECONDS
                return
            turn = self._server.turn_for(self._ask, now)
            if turn > now:
                self._times_out_at = max(self._times_out_at, turn + WRITE_TIMEOUT_SECONDS)
                self._resumes_at = turn
                return
            self._answer(self._ask, now)
            if self._ended or not self._begun:
                return
        self._resumes_at = now

    def _read(self, now: float) -> None:
        """Take events until a request is whole, or the bytes are used up."""
        try:
            while True:
                event = self._h11.next_event()
                if isinstance(event, h11.Request):
                    if not event.http_version.startswith(b"1."):
                        version = event.http_version.decode()
                        self._fail(505, f"HTTP/{version} is not spoken here; HTTP/1.0 and HTTP/1.1 are")
                        return
                    self._ask = self._asked(event)
                    if self._h11.they_are_waiting_for_100_continue:
                        self._send(h11.InformationalResponse(status_code=100, headers=[]))
                elif isinstance(event, h11.Data):
                    self._body_bytes += len(event.data)
                    if self._body_bytes > MAX_REQUEST_BODY_BYTES:
                        self._fail(413, f"a request's body may have {MAX_REQUEST_BODY_BYTES} bytes")
                        return
                elif isinstance(event, h11.EndOfMessage):
                    self._whole = True
                    self._times_out_at = now + WRITE_TIMEOUT_SECONDS
                    return
                else:  # NEED_DATA; PAUSED and ConnectionClosed do not come before an answer
                    return
        except h11.RemoteProtocolError as error:
            self._fail(error.error_status_hint, str(error))

    def _asked(self, request: h11.Request) -> Ask:
        fields = {name: value.decode("latin-1") for name, value in request.headers}
        path = request.target.decode("latin-1").partition("?")[0]
        host = fields.get(b"host")
        scheme, separator, rest = path.partition("://")
        if separator and scheme.lower() in ("http", "https"):  # absolute-form: its authority beats Host
            host, slash, tail = rest.partition("/")
            path = slash + tail or "/"
        return Ask(
            method=request.method.decode("latin-1"),
            path=path,
            host=host,
            origin=fields.get(b"origin"),
            accept=fields.get(b"accept", ""),
            loopback=self._loopback,
        )

    def _answer(self, ask: Ask, now: float) -> None:
        self._write(self._server.reply(ask, now), head=ask.method == "HEAD")
        self._ask = None
        self._whole = False
        self._body_bytes = 0
        if self._ended:
            return
        self._begun = bool(self._h11.trailing_data[0])
        if self._no_more and not self._begun:
            self.end()
            return
        self._idle_until = now + IDLE_TIMEOUT_SECONDS
        self._times_out_at = now + (REQUEST_TIMEOUT_SECONDS if self._begun else WRITE_TIMEOUT_SECONDS)
        self._h11.start_next_cycle()

    def _fail(self, status: int, why: str) -> None:
        """Answer a request that is none, and close."""
        if self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            head = self._ask is not None and self._ask.method == "HEAD"
            self._write(Reply(status, why + "\n", headers=(("Connection", "close"),)), head=head)
        self.end()

    def _write(self, reply: Reply, *, head: bool) -> None:
        body = reply.body.encode("utf-8", "replace") if isinstance(reply.body, str) else reply.body
        headers = [
            ("Content-Type", reply.content_type),
            ("Content-Length", str(len(body))),
            *_SECURITY_HEADERS,
            *reply.headers,
        ]
        reason = _REASONS.get(reply.status, "")
        response = h11.Response(status_code=reply.status, headers=headers, reason=reason)
        sent = [self._h11.send(response) or b""]
        if body and not head:
            sent.append(self._h11.send(h11.Data(data=body)) or b"")
        sent.append(self._h11.send(h11.EndOfMessage()) or b"")
        self._transport.write(b"".join(sent))
        if self._h11.our_state is h11.MUST_CLOSE:
            self.end()

    def _send(self, event: h11.InformationalResponse) -> None:
        self._transport.write(self._h11.send(event) or b"")


_REASONS: Final = {
    200: "OK",
    202: "Accepted",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    421: "Misdirected Request",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}
