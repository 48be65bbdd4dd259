"""TLS to the API server."""

from __future__ import annotations

import socket
import ssl
from typing import final

from sidecar.net.transport import Handler, PlainTransport, Streams


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
