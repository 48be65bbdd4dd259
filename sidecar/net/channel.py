"""A socket with its unsent output: what every kind of connection here is built on."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Final

from mypy_extensions import i64

from sidecar.net import sockets
from sidecar.net.loop import BROKEN, READ, WRITE, Loop, Watcher

# One read takes what a fast peer can have in flight on loopback without starving the others in the turn.
READ_SIZE: Final[i64] = 65_536
# The same for a peer that has filled that: it sends in bulk, and fewer reads cost less. Twice the credit of one stream
# would be no use.
BULK_READ_SIZE: Final[i64] = 262_144
# By number, a read or write takes some 900 instructions less than by the methods of a socket; looked up once.
_READ: Final = os.read
_WRITE: Final = os.write
_WRITEV: Final = os.writev
# Linux takes 1,024 pieces in one gathering write (IOV_MAX).
MAX_PIECES: Final = 1024


class Channel(Watcher):
    """A connected or connecting stream socket. Subclasses get `opened`, `received` and `lost` (once, last)."""

    def __init__(self, loop: Loop, sock: socket.socket, connecting: bool) -> None:
        self.loop: Final = loop
        self.sock: Final = sock
        # -1 once closed, for the number may soon be another's.
        self._fd: int = sock.fileno()
        self.closed: bool = False
        self._connecting: bool = connecting
        self._closing: bool = False  # close once the output is out
        self._shutting: bool = False  # half-close once the output is out
        self._reading: bool = True
        self._mask: i64 = WRITE if connecting else READ
        self._unsent: bytes = b""
        self._read_size: i64 = READ_SIZE
        if sock.fileno() >= 0:
            loop.watch(sock, self, int(self._mask))

    # --- for subclasses --------------------------------------------------------------------------

    def opened(self, now: float) -> None:
        """The dial has succeeded."""

    def received(self, data: bytes, now: float) -> None:
        raise NotImplementedError

    def ended(self, now: float) -> None:
        """The peer will send nothing more. The default takes it for the end of the connection."""
        self.drop("closed the connection", now)

    def lost(self, why: str, now: float) -> None:
        raise NotImplementedError

    def drained(self, now: float) -> None:
        """All output has been taken by the socket after some had to wait."""

    # --- for owners ------------------------------------------------------------------------------

    def unsent(self) -> int:
        return len(self._unsent)

    def write(self, data: bytes) -> None:
        """Send what the socket takes now and the rest when it can. Never raises: a broken socket shows as `lost`."""
        if data:
            self._send(data)

    def _send(self, data: bytes) -> bool:
        if self.closed:
            return False
        if self._unsent or self._connecting:
            self._unsent += data
            return True
        try:
            sent = _WRITE(self._fd, data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return False  # the loop will report it
        if sent < len(data):
            self._unsent = data[sent:]
            self._set_mask()
        return True

    def write_pieces(self, pieces: list[bytes]) -> bool:
        """`write` for output in pieces, without joining them where the socket takes all.

        False: the socket is broken, and nothing of them has left.
        """
        count = len(pieces)
        if count == 1:
            return self._send(pieces[0])
        if self.closed or self._unsent or self._connecting or count > MAX_PIECES:
            return self._send(b"".join(pieces))
        try:
            sent = _WRITEV(self._fd, pieces)
        except BlockingIOError:
            sent = 0
        except OSError:
            return False  # the loop will report it
        rest = b"".join(pieces)[sent:] if sent < sum(map(len, pieces)) else b""
        if rest:
            self._unsent = rest
            self._set_mask()
        return True

    def set_reading(self, reading: bool) -> None:
        if reading != self._reading:
            self._reading = reading
            if not self._connecting:
                self._set_mask()

    def close(self) -> None:
        """Flush, half-close, and close when the peer has closed too; `lost` does not follow.

        Closing at once, with input unread, would make the kernel send RST, and that can overtake our last
        words. A peer that does not close in time is not waited for longer than Loop.linger does.
        """
        if self.closed or self._closing:
            return
        if self._connecting:
            self.abort()
            return
        self._closing = True
        self._reading = True
        self._set_mask()
        self.end_output()
        self.loop.linger(self)

    def end_output(self) -> None:
        """Half-close: nothing more is written. What waits still goes out first."""
        self._shutting = True
        if not self._unsent and not self._connecting and not self.closed:
            with contextlib.suppress(OSError):  # the peer may be gone
                self.sock.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        """Close now; `lost` does not follow."""
        if not self.closed:
            self.closed = True
            self._fd = -1
            self._unsent = b""
            if self._closing:
                self.loop.leave(self)
            self.loop.forget(self.sock)
            self.sock.close()

    def give_away(self) -> socket.socket:
        """Let go of the socket without closing it; `lost` does not follow. Nothing may be unsent."""
        self.closed = True
        self._fd = -1
        self.loop.forget(self.sock)
        return self.sock

    def drop(self, why: str, now: float) -> None:
        """Close now and report it."""
        if not self.closed:
            silent = self._closing
            self.abort()
            if not silent:
                self.lost(why, now)

    # --- from the loop ---------------------------------------------------------------------------

    def expire(self) -> None:
        self.abort()

    def failed(self, error: Exception, now: float) -> None:
        self.drop("internal error", now)

    def ready(self, events: i64, now: float) -> None:
        if self._connecting:
            self._finish_dial(now)
            return
        # Reading comes first: a write that fails is the end, and the peer's last words may be here already.
        if events & READ and self._reading:
            self._read(now)
        elif events & BROKEN:
            self.drop(sockets.connect_error(self.sock) or "closed the connection", now)
        if events & WRITE and not self.closed:
            self._flush(now)

    def _finish_dial(self, now: float) -> None:
        why = sockets.connect_error(self.sock)
        if why:
            self.drop(why, now)
            return
        self._connecting = False
        unsent = self._unsent
        self._unsent = b""
        self._mask = 0
        self._set_mask()
        self.opened(now)
        self.write(unsent)
        if self._shutting:
            self.end_output()

    def _read(self, now: float) -> None:
        try:
            data = _READ(self._fd, int(self._read_size))
        except BlockingIOError:
            return
        except OSError as error:
            self.drop(sockets.describe(error), now)
            return
        size: i64 = len(data)
        if size >= READ_SIZE:
            self._read_size = BULK_READ_SIZE
        elif self._read_size != READ_SIZE:
            self._read_size = READ_SIZE
        if self._closing:
            if not data:
                self.drop("closed the connection", now)
        elif data:
            self.received(data, now)
        else:
            self.ended(now)

    def _flush(self, now: float) -> None:
        data = self._unsent
        if data:
            try:
                sent = _WRITE(self._fd, data)
            except BlockingIOError:
                return
            except OSError as error:
                self.drop(sockets.describe(error), now)
                return
            self._unsent = data[sent:]
        if not self._unsent:
            self._set_mask()
            if self._shutting:
                self.end_output()
            if not self._closing:
                self.drained(now)

    def _set_mask(self) -> None:
        mask: i64 = READ if self._reading else 0
        if self._unsent:
            mask |= WRITE
        if mask != self._mask:
            self._mask = mask
            self.loop.change(self.sock, int(mask))
