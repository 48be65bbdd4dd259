"""A small blocking driver for a Source over real sockets, for tests. The product's own is in sidecar/net."""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Callable

from sidecar.balance.endpoints import Snapshot
from sidecar.discovery.source import Handler, Resolution, Source


class SocketTransport:
    """TCP, with TLS where it is asked for: the handshake goes through memory, so nothing blocks."""

    def __init__(
        self, host: str, port: int, handler: Handler, tls: ssl.SSLContext | None, server_name: str
    ) -> None:
        self.handler = handler
        self.up = False
        self.closed = False
        self._pending = b""
        self._out = b""
        self._tls_in, self._tls_out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = tls.wrap_bio(self._tls_in, self._tls_out, server_hostname=server_name) if tls else None
        self.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        self.socket.connect_ex((host, port))
        self._connecting = True

    def write(self, data: bytes) -> None:
        self._pending += data
        self._push()

    def close(self) -> None:
        self._push()
        self._drop()

    def wants_write(self) -> bool:
        return self._connecting or bool(self._out)

    def ready(self, now: float) -> None:
        """The socket has something to say, or room."""
        try:
            if self._connecting:
                error = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if error:
                    raise OSError(error, "connect failed")
                self._connecting = False
                if self._tls is None:
                    self._is_up(now)
            self._pull(now)
            self._push()
        except OSError as error:
            self._drop()
            self.handler.lost(str(error), now)

    def _is_up(self, now: float) -> None:
        self.up = True
        self.handler.connected(now)

    def _pull(self, now: float) -> None:
        try:
            data = self.socket.recv(262144)
        except BlockingIOError:
            data = None
        if self._tls is None:
            if data:
                self.handler.received(data, now)
        else:
            if data:
                self._tls_in.write(data)
            if not self.up and not self._handshake(now):
                pass
            else:
                self._decrypt(now)
        if data == b"" and not self.closed:
            raise OSError(0, "closed by the server")

    def _handshake(self, now: float) -> bool:
        assert self._tls is not None
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        if self._tls.selected_alpn_protocol() != "h2":
            raise OSError(0, "the server does not speak h2")
        self._is_up(now)
        return True

    def _decrypt(self, now: float) -> None:
        assert self._tls is not None
        while not self.closed:
            try:
                plain = self._tls.read(262144)
            except ssl.SSLWantReadError:
                return
            if not plain:
                raise OSError(0, "closed by the server")
            self.handler.received(plain, now)

    def _push(self) -> None:
        if self.closed:
            return
        if self._pending and self.up:
            if self._tls is None:
                self._out += self._pending
            else:
                self._tls.write(self._pending)
            self._pending = b""
        self._out += self._tls_out.read()
        if self._out and not self._connecting:
            try:
                self._out = self._out[self.socket.send(self._out) :]
            except BlockingIOError:
                return
            except OSError:
                self._out = b""  # the loss is seen by the next read

    def _drop(self) -> None:
        self.closed = True
        self.socket.close()


class Driver:
    """Runs one Source. `dial` is its Dial; everything it yields is kept in `log` with the time it came."""

    def __init__(self) -> None:
        self.transports: list[SocketTransport] = []
        self.log: list[tuple[float, Snapshot | Resolution]] = []
        self.source: Source | None = None

    def dial(
        self, host: str, port: int, handler: Handler, tls: ssl.SSLContext | None, server_name: str
    ) -> SocketTransport:
        transport = SocketTransport(host, port, handler, tls, server_name)
        self.transports.append(transport)
        return transport

    def run_until(self, done: Callable[[], bool], seconds: float) -> bool:
        """Turn the loop until `done` or until `seconds` have passed; says whether it was done."""
        give_up = time.monotonic() + seconds
        assert self.source is not None
        while True:
            self._take()
            if done():
                return True
            now = time.monotonic()
            if now >= give_up:
                return False
            self.transports = [t for t in self.transports if not t.closed]
            wait = max(0.0, min(self.source.deadline(), give_up) - now)
            writers = [t.socket for t in self.transports if t.wants_write()]
            sockets = [t.socket for t in self.transports]
            readable, writable, _ = select.select(sockets, writers, [], wait)
            for transport in list(self.transports):
                if not transport.closed and (transport.socket in readable or transport.socket in writable):
                    transport.ready(time.monotonic())
            self.source.tick(time.monotonic())

    def _take(self) -> None:
        assert self.source is not None
        now = time.monotonic()
        self.log += [(now, event) for event in self.source.events()]

    def snapshots(self) -> list[Snapshot]:
        return [event for _, event in self.log if isinstance(event, Snapshot)]

    def resolutions(self) -> list[Resolution]:
        return [event for _, event in self.log if isinstance(event, Resolution)]
