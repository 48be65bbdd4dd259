"""Clients and backends of raw frames, on real sockets: those who attack."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable

from rawhttp2 import PREFACE, Event, FrameReader, Goaway, Headers, settings


class Attacker:
    """A raw HTTP/2 connection. What it writes is what the test says; what comes back is parsed when asked for."""

    def __init__(self, port: int, greet: bool = True, receive_buffer: int = 0) -> None:
        """`receive_buffer`: octets; 0: the kernel's default, which grows to megabytes."""
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=20)
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader = FrameReader(preface=False)
        self.events: list[Event] = []
        self.ended = False
        if greet:
            self.send(PREFACE, settings(), settings(ack=True))

    def send(self, *octets: bytes) -> bool:
        """False once the sidecar has closed the connection."""
        try:
            self.sock.sendall(b"".join(octets))
        except (BrokenPipeError, ConnectionResetError):
            self.ended = True
        return not self.ended

    def read_some(self, seconds: float) -> None:
        """Take what comes within so long."""
        self.sock.settimeout(seconds)
        try:
            octets = self.sock.recv(1 << 20)
        except TimeoutError:
            return
        except ConnectionResetError:
            octets = b""
        finally:
            self.sock.settimeout(20)
        if not octets:
            self.ended = True
        self.events += self.reader.feed(octets)

    def read_until(self, condition: Callable[[], object], what: str, limit: float = 30.0) -> None:
        deadline = time.monotonic() + limit
        while not condition():
            assert time.monotonic() < deadline, f"not within {limit:g} s: {what}"
            assert not self.ended, f"the connection ended before: {what}; last {self.events[-3:]}"
            self.read_some(0.1)

    def read_to_the_end(self, limit: float = 30.0) -> None:
        deadline = time.monotonic() + limit
        while not self.ended:
            assert time.monotonic() < deadline, "the sidecar does not close the connection"
            self.read_some(0.1)

    def answered(self) -> int:
        return sum(isinstance(e, Headers) and e.end for e in self.events)

    def goaway(self) -> Goaway | None:
        found = [e for e in self.events if isinstance(e, Goaway)]
        return found[-1] if found else None

    def count(self, kind: type[Event]) -> int:
        return sum(isinstance(e, kind) for e in self.events)

    def close(self) -> None:
        self.sock.close()


class HostileBackend:
    """A server of raw frames: `script(connection)` runs in a thread for each connection, after the greeting."""

    def __init__(self, script: Callable[[HostileConnection], None]) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.address: tuple[str, int] = ("127.0.0.1", self.listener.getsockname()[1])
        self.connections: list[HostileConnection] = []
        self._script = script
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                connection = HostileConnection(sock)
                self.connections.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: HostileConnection) -> None:
        with contextlib.suppress(OSError):
            self._script(connection)

    def stop(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self._thread.join()
        for connection in self.connections:
            connection.sock.close()


class HostileConnection:
    """One connection of the sidecar to a hostile backend."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.reader = FrameReader(preface=True)
        self.events: list[Event] = []
        self.ended = False

    def send(self, *octets: bytes) -> None:
        """Raises OSError once the sidecar has closed the connection."""
        self.sock.sendall(b"".join(octets))

    def read(self) -> list[Event]:
        """The next events; empty once the sidecar has closed."""
        octets = self.sock.recv(1 << 16)
        self.ended = not octets
        found = self.reader.feed(octets)
        self.events += found
        return found

    def request(self) -> int:
        """Waits for the next request; its stream."""
        while True:
            for event in self.read():
                if isinstance(event, Headers):
                    return event.stream
            if self.ended:
                raise ConnectionResetError

    def told(self) -> int | None:
        """The code of the GOAWAY that ended the connection."""
        with contextlib.suppress(OSError):
            while not self.ended:
                self.read()
        found = [e for e in self.events if isinstance(e, Goaway)]
        return found[-1].code if found else None
