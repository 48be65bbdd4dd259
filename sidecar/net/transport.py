"""Byte streams for everything that is not the data plane: the API server (with TLS) and the admin port."""

from __future__ import annotations

import socket
import ssl
from typing import Final, Protocol, final

from sidecar.net import sockets
from sidecar.net.channel import Channel
from sidecar.net.loop import Loop

# From dial to the end of the TLS handshake; an API server that comes back to all its clients at once is slow.
DIAL_TIMEOUT: Final = 10.0
# Unsent output of one such stream; a reader that lets more pile up is closed. /status of 10,000 endpoints fits.
MAX_UNSENT: Final = 8_388_608


class Handler(Protocol):
    """Receives from a transport. `lost` comes at most once and last."""

    def connected(self, now: float) -> None: ...

    def received(self, data: bytes, now: float) -> None: ...

    def lost(self, reason: str, now: float) -> None: ...


class Streams:
    """Opens and accepts transports on one loop and watches their time-outs."""

    def __init__(self, loop: Loop) -> None:
        self.loop: Final = loop
        self._timed: dict[PlainTransport, float] = {}

    def dial(
        self, host: str, port: int, handler: Handler, tls: ssl.SSLContext | None, server_name: str
    ) -> PlainTransport:
        """Raises nothing: a dial that fails at once is reported as `lost` by the next `tick`."""
        try:
            sock = sockets.dial(host, port)
        except OSError as error:
            return self._failed(handler, sockets.describe(error))
        if tls is None:
            transport = PlainTransport(self, sock, handler, True)
        else:
            transport = TlsTransport(self, sock, handler, tls, server_name)
        self._timed[transport] = self.loop.now() + DIAL_TIMEOUT
        return transport

    def adopt(self, sock: socket.socket) -> PlainTransport:
        """An accepted connection; give it its handler with `attach`."""
        sockets.tune(sock)
        return PlainTransport(self, sock, _Nobody(), False)

    def _failed(self, handler: Handler, why: str) -> PlainTransport:
        # A socket that never gets anywhere stands in, so that the caller has something to close.
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        transport = PlainTransport(self, sock, handler, True)
        transport.failure = why
        transport.loop.forget(sock)
        self._timed[transport] = 0.0
        return transport

    def limit(self, transport: PlainTransport, until: float) -> None:
        self._timed[transport] = until

    def settled(self, transport: PlainTransport) -> None:
        self._timed.pop(transport, None)

    def deadline(self) -> float:
        return min(self._timed.values(), default=float("inf"))

    def tick(self, now: float) -> None:
        for transport in [t for t, at in self._timed.items() if at <= now]:
            del self._timed[transport]
            transport.timed_out(now)


class PlainTransport(Channel):
    def __init__(self, streams: Streams, sock: socket.socket, handler: Handler, connecting: bool) -> None:
        super().__init__(streams.loop, sock, connecting)
        self.failure: str = ""
        self._streams = streams
        self._handler = handler

    def attach(self, handler: Handler) -> None:
        self._handler = handler

    def opened(self, now: float) -> None:
        self._streams.settled(self)
        self._handler.connected(now)

    def received(self, data: bytes, now: float) -> None:
        self._handler.received(data, now)

    def lost(self, why: str, now: float) -> None:
        self._streams.settled(self)
        self._handler.lost(why, now)

    def write(self, data: bytes) -> None:
        super().write(data)
        if self.unsent() > MAX_UNSENT:
            self._streams.limit(self, 0.0)  # ends at the next tick, not under the caller's feet

    def close(self) -> None:
        super().close()
        self._streams.settled(self)

    def timed_out(self, now: float) -> None:
        self.drop(self.failure or "did not answer in time", now)


@final
class TlsTransport(PlainTransport):
    """TLS through ssl.MemoryBIO, so that one loop serves all. ALPN must choose h2."""

    def __init__(
        self, streams: Streams, sock: socket.socket, handler: Handler, tls: ssl.SSLContext, server_name: str
    ) -> None:
        super().__init__(streams, sock, handler, True)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = tls.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)
        self._secure: bool = False
        self._early: bytes = b""  # written before the handshake was done

    def opened(self, now: float) -> None:
        self._shake_hands(now)

    def received(self, data: bytes, now: float) -> None:
        self._incoming.write(data)
        if not self._secure:
            self._shake_hands(now)
        if self._secure and not self.closed:
            self._read_plain(now)

    def _shake_hands(self, now: float) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._send_out()
            return
        except ssl.SSLError as error:
            self._send_out()
            self.drop(
                f"TLS: {error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else error.reason}",
                now,
            )
            return
        except OSError as error:
            self.drop(f"TLS: {error}", now)
            return
        self._send_out()
        if self._tls.selected_alpn_protocol() != "h2":
            self.drop("TLS: the server does not speak h2", now)
            return
        self._secure = True
        self._streams.settled(self)
        early, self._early = self._early, b""
        self._handler.connected(now)
        self.write(early)

    def _read_plain(self, now: float) -> None:
        while not self.closed:
            try:
                data = self._tls.read(65_536)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                self.drop("closed the connection", now)
                return
            except ssl.SSLError as error:
                self.drop(f"TLS: {error.reason}", now)
                return
            if not data:
                self.drop("closed the connection", now)
                return
            self._handler.received(data, now)
        self._send_out()

    def write(self, data: bytes) -> None:
        if self.closed or not data:
            return
        if not self._secure:
            self._early += data
            return
        self._tls.write(data)
        self._send_out()

    def _send_out(self) -> None:
        data = self._outgoing.read()
        if data:
            PlainTransport.write(self, data)


@final
class _Nobody:
    def connected(self, now: float) -> None:
        pass

    def received(self, data: bytes, now: float) -> None:
        pass

    def lost(self, reason: str, now: float) -> None:
        pass
