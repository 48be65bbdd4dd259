"""Byte streams for everything that is not the data plane: the API server and the admin port."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Final, Protocol, final

from sidecar.net import sockets
from sidecar.net.channel import Channel
from sidecar.net.loop import Loop
from sidecar.splice.context import NEVER

if TYPE_CHECKING:
    import ssl

# From dial to the end of the TLS handshake; an API server that comes back to all its clients at once is slow.
DIAL_TIMEOUT: Final = 10.0
# Unsent output of one such stream; a reader that lets more pile up is closed. /status of 10,000 endpoints fits.
MAX_UNSENT: Final = 8_388_608


def _nowhere() -> socket.socket:
    found = socket.socket()
    os.close(found.detach())
    return found


_NOWHERE: Final = _nowhere()


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
            # Imported late: with a file source nothing here speaks TLS, and ssl takes 3 MB.
            from sidecar.net.tls import TlsTransport

            transport = TlsTransport(self, sock, handler, tls, server_name)
        self._timed[transport] = self.loop.now() + DIAL_TIMEOUT
        return transport

    def adopt(self, sock: socket.socket) -> PlainTransport:
        """An accepted connection; give it its handler with `attach`."""
        sockets.tune_accepted(sock)
        return PlainTransport(self, sock, _Nobody(), False)

    def _failed(self, handler: Handler, why: str) -> PlainTransport:
        # A socket without a file stands in, so that the caller has something to close. (There may be no file left.)
        transport = PlainTransport(self, _NOWHERE, handler, True)
        transport.failure = why
        self._timed[transport] = 0.0
        return transport

    def limit(self, transport: PlainTransport, until: float) -> None:
        self._timed[transport] = until

    def settled(self, transport: PlainTransport) -> None:
        self._timed.pop(transport, None)

    def deadline(self) -> float:
        return min(self._timed.values(), default=NEVER)

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
class _Nobody:
    def connected(self, now: float) -> None:
        pass

    def received(self, data: bytes, now: float) -> None:
        pass

    def lost(self, reason: str, now: float) -> None:
        pass
