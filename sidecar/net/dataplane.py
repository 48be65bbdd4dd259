"""The engine's connections on real sockets: listeners, dials, reads, one write a turn."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import Final, final

from mypy_extensions import i64

from sidecar.balance.endpoints import ServicePort
from sidecar.net import sockets
from sidecar.net.channel import Channel
from sidecar.net.loop import READ, Loop, Plane, Watcher
from sidecar.splice.context import NEVER
from sidecar.splice.engine import Engine
from sidecar.splice.peer import Peer
from sidecar.splice.upstream import Upstream

log: Final = logging.getLogger(__name__)

# Connections taken from the backlog in one turn.
ACCEPTS_PER_TURN: Final = 64
# A connection on which nothing came back for this long since something was sent is looked at, this often, until
# something does: one system call of a microsecond.
LOOK_INTERVAL: Final = 0.5
# So often in a row what was sent timed out: with Linux' least time-out of 200 ms, doubled each time, that is after
# 1.4 s. Four packets lost by chance are one call in a million at a loss of 3 %, and cost no call even then.
STALLED_AFTER_TIMEOUTS: Final[i64] = 3
# Clients' connections at once. An application has a handful; ten thousand is a leak, and costs 20 MB here.
MAX_CONNECTIONS: Final = 10_000
# Of the files the process may open, clients get so much at most: the rest is for backends, the API server and probes.
CLIENTS_SHARE_OF_FILES: Final = 0.75


@final
class PeerChannel(Channel):
    """A socket and the engine's connection on it."""

    def __init__(self, plane: DataPlane, sock: socket.socket, peer: Peer, connecting: bool) -> None:
        super().__init__(plane.loop, sock, connecting)
        self.peer: Final = peer
        # Of a backend: when something was first sent since something came; -1: nothing was.
        self.asked_at: float = -1.0
        self._plane: Final = plane
        self._upstream: bool = isinstance(peer, Upstream)
        self._stalled: bool = False

    def routine(self) -> bool:
        return True

    def opened(self, now: float) -> None:
        peer = self.peer
        assert isinstance(peer, Upstream)
        self._plane.engine.connected(peer, now)

    def received(self, data: bytes, now: float) -> None:
        self.asked_at = -1.0
        if self._stalled:
            self._set_stalled(False, now)
        engine = self._plane.engine
        engine.received(self.peer, data, now)
        if engine.flush_wanted():
            self._plane.flush_touched(now)

    def lost(self, why: str, now: float) -> None:
        self._plane.forget(self.peer)
        self._plane.engine.lost(self.peer, why, now)

    def drained(self, now: float) -> None:
        self._plane.engine.socket_state(self.peer, 0, now)
        if self.peer.finished:
            self.peer.touch()

    def failed(self, error: Exception, now: float) -> None:
        self._plane.recover(self, error, now)

    def flush(self, now: float) -> None:
        """Write what the turn left in the connection's output."""
        peer = self.peer
        if self._connecting:
            if peer.gone:
                self._plane.close(self, now)
            return
        pieces = peer.take_output()
        if pieces:
            if self.asked_at < 0.0 and self._upstream:
                self.asked_at = now
                self._plane.look_later(now)
            before = len(self._unsent)
            if not self.write_pieces(pieces):
                peer.not_written()
            unsent: i64 = len(self._unsent)
            if unsent or before or peer.has_waiting():
                self._plane.engine.socket_state(peer, unsent, now)
        if peer.finished:
            pieces = peer.take_output()  # what `socket_state` had to say
            if pieces and not peer.gone:
                self.write_pieces(pieces)
            if self._unsent and peer.ended_idle and not (peer.gone or peer.error_code):
                return  # the end of its last answers: however slowly it reads, it is closed when they are out
            self._plane.close(self, now)

    def look(self, now: float) -> None:
        """Does anybody still acknowledge what we send?"""
        again: i64 = sockets.sent_again(self.sock)
        if again < 0:
            self.asked_at = -1.0
        if self._stalled:
            if again <= 0:
                self._set_stalled(False, now)
        elif again >= STALLED_AFTER_TIMEOUTS:
            self._set_stalled(True, now)

    def _set_stalled(self, stalled: bool, now: float) -> None:
        peer = self.peer
        assert isinstance(peer, Upstream)
        self._stalled = stalled
        where = peer.backend.endpoint.address
        log.info("%s %s", where, "acknowledges nothing" if stalled else "acknowledges again")
        self._plane.engine.stalled(peer, stalled, now)


class DataPlane(Plane):
    """Runs an engine's sockets."""

    def __init__(self, loop: Loop, engine: Engine, files: int = sockets.FILES_WANTED) -> None:
        """`files`: how many the process may have open."""
        self.loop: Final = loop
        loop.errors = engine.errors
        self.client_files: Final = int(files * CLIENTS_SHARE_OF_FILES)
        self.most_connections: Final = min(MAX_CONNECTIONS, self.client_files)
        self.engine: Final = engine
        self._channels: dict[Peer, PeerChannel] = {}
        self._listeners: list[Listener] = []
        self._look_at: float = NEVER

    def listen(self, host: str, port: int, service: ServicePort) -> None:
        """A listener whose connections all mean `service`. Raises PortInUseError."""

        def accept(sock: socket.socket, now: float) -> None:
            self.adopt(sock, service, now)

        self._listeners.append(Listener(self.loop, sockets.listen(host, port), accept))

    def full(self) -> bool:
        return len(self.engine.downstreams) >= self.most_connections

    def adopt(self, sock: socket.socket, service: ServicePort, now: float, first_bytes: bytes = b"") -> None:
        """Take over a client's socket, with what was already read from it."""
        if self.full():
            log.warning("a client's connection is closed at once: %d are open", self.most_connections)
            sock.close()
            return
        sockets.tune_accepted(sock)
        peer = self.engine.accept(service, now)
        try:
            self._channels[peer] = PeerChannel(self, sock, peer, False)
        except Exception:
            self.engine.lost(peer, "internal error", now)
            raise
        if first_bytes:
            self.engine.received(peer, first_bytes, now)

    def turn_end(self, now: float) -> float:
        """The engine's timers; then dial and write what the turn asked for, and what that sets off too."""
        engine = self.engine
        if engine.deadline() <= now:
            engine.tick(now)
        if self._look_at <= now:
            self._look(now)
        while engine.restless():
            for upstream in engine.take_dials():
                self._dial(upstream, now)
            self.flush_touched(now)
        due: float = engine.deadline()
        return due if due < self._look_at else self._look_at

    def flush_touched(self, now: float) -> None:
        """Write what connections have to say. Opens no socket, so it may be called while the loop hands out events."""
        for peer in self.engine.take_touched():
            channel = self._channels.get(peer)
            if channel is not None:
                try:
                    channel.flush(now)
                except Exception as error:
                    self.engine.errors.note("write", error, now)
                    self.recover(channel, error, now)

    def recover(self, channel: PeerChannel, error: Exception, now: float) -> None:
        """A bug of ours, noted already, while the connection was handled: it ends, at once if it was about to."""
        peer = channel.peer
        again = peer.finished
        self.engine.recover(error, peer, now)
        if again:
            self.forget(peer)
            channel.abort()
            self.engine.lost(peer, "internal error", now)

    def look_later(self, now: float) -> None:
        if self._look_at == NEVER:
            self._look_at = now + LOOK_INTERVAL

    def _look(self, now: float) -> None:
        """Look at the connections on which nothing has come back for a while."""
        self._look_at = NEVER
        for channel in list(self._channels.values()):
            if channel.asked_at >= 0.0:
                if now - channel.asked_at >= LOOK_INTERVAL:
                    try:
                        channel.look(now)
                    except Exception as error:
                        self.engine.errors.note("look", error, now)
                        self.recover(channel, error, now)
                self.look_later(now)

    def _dial(self, upstream: Upstream, now: float) -> None:
        if upstream.gone:
            return
        endpoint = upstream.backend.endpoint
        try:
            sock = sockets.dial(endpoint.host, endpoint.port)
            self._channels[upstream] = PeerChannel(self, sock, upstream, True)
        except OSError as error:
            self.engine.lost(upstream, sockets.describe(error), now)
        except Exception as error:
            self.engine.errors.note("dial", error, now)
            self.engine.lost(upstream, "cannot be dialled: an internal error of the sidecar", now)

    def forget(self, peer: Peer) -> None:
        self._channels.pop(peer, None)

    def close(self, channel: PeerChannel, now: float) -> None:
        """The engine is done with the connection."""
        peer = channel.peer
        self.forget(peer)
        if peer.gone:
            channel.abort()
        else:
            channel.close()
        self.engine.lost(peer, "closed", now)

    def abort_all(self) -> None:
        """Close all listeners and connections now."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        for channel in list(self._channels.values()):
            channel.abort()
        self._channels.clear()


@final
class Listener(Watcher):
    def __init__(
        self, loop: Loop, sock: socket.socket, accept: Callable[[socket.socket, float], None]
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._accept = accept
        loop.watch(sock, self, int(READ))

    def ready(self, events: i64, now: float) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                sock, _ = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in sockets.OUT_OF_RESOURCES:
                    continue  # a client that has left already
                # It would be ready again in every turn, so it is not watched for a while; clients wait meanwhile.
                log.warning("cannot accept a connection: %s", sockets.describe(error))
                self._loop.change(self._sock, 0)
                self._loop.rest(self)
                return
            sock.setblocking(False)
            try:
                self._accept(sock, now)
            except Exception as fault:
                self._loop.errors.note("accept", fault, now)
                sock.close()

    def failed(self, error: Exception, now: float) -> None:
        # The same would come in every turn.
        self._loop.change(self._sock, 0)
        self._loop.rest(self)

    def expire(self) -> None:
        self._loop.change(self._sock, int(READ))

    def close(self) -> None:
        self._loop.leave(self)
        self._loop.forget(self._sock)
        self._sock.close()
