"""One endpoint with our connections to it: dialling, backing off, retiring."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from mypy_extensions import i64

from sidecar.balance.endpoints import Endpoint
from sidecar.balance.outlier import Record
from sidecar.balance.picker import Member
from sidecar.splice import localreply
from sidecar.splice.context import Context, Timer
from sidecar.splice.peer import RESET_BY_US
from sidecar.splice.stats import StreamStats
from sidecar.splice.stream import Stream
from sidecar.splice.upstream import Upstream

if TYPE_CHECKING:
    from sidecar.splice.peer import Peer
    from sidecar.splice.service import Service

# From dial to the backend's SETTINGS. A pod that is there answers in a millisecond.
CONNECT_TIMEOUT: Final = 3.0
# While a connection takes no longer than this, streams wait for it, so that the first burst is even too;
# after it they go to endpoints that are connected.
CONNECT_PATIENCE: Final = 0.25
# Between failed dials: doubled each time, with a fifth of jitter either way. An endpoint in the snapshot
# claims to be ready, so the wait stays short: shorter than a call's (QUEUE_TIMEOUT), which so sees at least one dial.
BACKOFF_FIRST: Final = 0.1
BACKOFF_MOST: Final = 2.0
BACKOFF_JITTER: Final = 0.2
# A connection that is lost sooner than this after it was ready, and has served no stream, counts as a failed dial: it
# may well be lost again. After one that did serve the next is wanted at once: servers end connections after so many
# requests, nginx after 1,000, which are soon made.
SETTLED_AFTER: Final = 1.0
# So long a connection is in doubt. If the pod is gone, its kernel's silence has shown on this one too by then.
DOUBT_TIMEOUT: Final = 3.0
# Where a backend limits its concurrent streams, so many connections are opened to get round it.
MAX_CONNECTIONS: Final = 8

IDLE: Final = "idle"
CONNECTING: Final = "connecting"
READY: Final = "ready"
BACKOFF: Final = "backoff"
DRAINING: Final = "draining"
EJECTED: Final = "ejected"


@final
class Backend(Member):
    def __init__(self, context: Context, service: Service, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self.service: Final = service
        self.stats: Final = StreamStats()
        self.upstreams: list[Upstream] = []
        self.pending: dict[Stream, None] = {}  # picked for this backend, waiting for a connection
        self.retired: bool = False  # gone from the snapshot: nothing new
        self.connect_failures: i64 = 0
        self.last_error: str = ""
        self.record: Final = Record()
        self._context = context
        self._dialling: Upstream | None = None
        self._failures: i64 = 0  # in a row
        self._another_at: float = 0.0  # when one more connection may be tried beside those there are
        # Out of rotation while any of these is set, or `record.ejected`.
        self._backing_off: bool = False
        self._impatient: bool = False  # a dial takes too long to wait for
        self._full: bool = False  # all connections there may be have all streams they may have

    def state(self) -> str:
        if self.retired:
            return DRAINING
        if self._backing_off:
            return BACKOFF
        if self.record.ejected:
            return EJECTED
        if self.connected():
            return READY
        return CONNECTING if self._dialling is not None else IDLE

    def take(self, stream: Stream) -> None:
        """Send a stream that was picked for this backend, now or as soon as a connection has room."""
        if not self.pending:
            for upstream in self.upstreams:
                if upstream.has_room():
                    self._send(upstream, stream)
                    if self.service.waiting:
                        self._look_ahead()
                    return
        self.pending[stream] = None
        self.service.expire_later(stream)
        self.dial_if_needed()

    def _send(self, upstream: Upstream, stream: Stream) -> None:
        if stream.list_size > upstream.peer_max_header_list:
            localreply.request_too_large(stream, upstream.peer_max_header_list)
            return
        self.stats.started += 1
        try:
            upstream.send(stream)
        except Exception:
            # A bug of ours. The stream need not be of the connection that is being handled, so it ends here. Whether
            # the backend has seen it is not known: no RST_STREAM, which for an idle stream would end its connection.
            upstream.streams.remove(stream.up_id)
            upstream.bury(stream.up_id, RESET_BY_US)
            stream.up = upstream
            self.service.cut(stream)
            raise

    def dial_if_needed(self) -> None:
        """Open a connection if there is none, or if none has room for what waits."""
        if self._dialling is not None or self._backing_off or self.retired:
            return
        usable = [u for u in self.upstreams if u.in_use()]
        if usable and not self.pending:
            return
        if not self._may_dial(usable):
            self._fill()
            return
        upstream = Upstream(self._context, self)
        self._dialling = upstream
        self.upstreams.append(upstream)
        self._context.totals.upstreams_dialled += 1
        self._context.dials.append(upstream)
        self._context.after(CONNECT_TIMEOUT, _ConnectTimeout(self, upstream))
        self._context.after(CONNECT_PATIENCE, _PatienceOver(self, upstream))

    def _fill(self) -> None:
        """There is no room, and no further connection to be had for now."""
        wait = self._another_at - self._context.now
        if wait > 0.0 and not self._full:
            self._context.after(wait, _BackoffOver(self))
        self._full = True
        self._rotate()

    def _look_ahead(self) -> None:
        """Calls wait. If there is room for no other, be out of rotation before the next one is turned away here: it
        would stand behind all the rest then, and so each would in its turn."""
        if self._dialling is None and not self._backing_off and not self.retired and not self._has_room():
            usable = [u for u in self.upstreams if u.in_use()]
            if usable and not self._may_dial(usable):
                self._fill()

    def _may_dial(self, usable: list[Upstream]) -> bool:
        """Whether one more connection can help: not a backend that does not read those it has."""
        congested = False
        for upstream in usable:
            if upstream.congested():
                upstream.room_wanted = True
                congested = True
        return (
            not congested
            and sum(not upstream.draining for upstream in self.upstreams) < MAX_CONNECTIONS
            and (not usable or self._context.now >= self._another_at)
        )

    def _rotate(self) -> None:
        """Be in rotation, or out of it with what waits here picked again."""
        if self._backing_off or self._impatient or self._full or self.record.ejected:
            self.service.suspended(self)
        else:
            self.service.resumed(self)

    def connected(self) -> bool:
        return any(u.peer_ready and u.in_use() for u in self.upstreams)

    def _has_room(self) -> bool:
        return any(upstream.has_room() for upstream in self.upstreams)

    # --- from its connections --------------------------------------------------------------------

    def settings_received(self, upstream: Upstream) -> None:
        """Its first SETTINGS make a connection usable; later ones may give it more room."""
        if upstream is self._dialling:
            self._dialling = None
            upstream.ready_at = self._context.now
            self._impatient = False
            self._backing_off = False
            self._rotate()
        self.room_again(upstream)

    def room_again(self, upstream: Upstream) -> None:
        while self.pending and upstream.has_room():
            stream = next(iter(self.pending))
            del self.pending[stream]
            self._send(upstream, stream)
        if self._full and upstream.has_room():
            self._full = False
            self._rotate()
        if self.pending:
            self.dial_if_needed()

    def stalled(self, upstream: Upstream, stalled: bool) -> None:
        """Nobody acknowledges what is sent there (any more), or somebody does again.

        A new connection tells whether it is the pod that is gone or only the way this one took; until it is up,
        streams wait for it as for any dial, and then go elsewhere. On its other connections perhaps nothing was
        sent that could have shown it: each is asked, and takes nothing new until it answers.
        """
        if upstream.stalled == stalled or upstream not in self.upstreams:
            return
        upstream.stalled = stalled
        if self.retired:
            return
        if stalled:
            self._context.totals.stalled += 1
            self.last_error = "acknowledges nothing"
            for other in self.upstreams:
                if other.in_use() and other.doubt():
                    self._context.after(DOUBT_TIMEOUT, _DoubtOver(self, other))
            self.dial_if_needed()
        else:
            self._in_use_again(upstream)

    def doubt_over(self, upstream: Upstream) -> None:
        """Its backend has answered, or its kernel has acknowledged the question."""
        if upstream.in_doubt:
            upstream.in_doubt = False
            if not self.retired and upstream in self.upstreams:
                self._in_use_again(upstream)

    def _in_use_again(self, upstream: Upstream) -> None:
        if self.connected():
            self._impatient = False
            self._backing_off = False
            self._rotate()
            self.room_again(upstream)

    def draining(self, upstream: Upstream) -> None:
        """The connection takes no more streams; those it has go on."""
        if upstream is self._dialling:
            self._dialling = None
        if not self.retired:
            self._one_less(upstream, "sent GOAWAY")

    def lost(self, upstream: Upstream, why: str) -> None:
        """The connection is gone, or was never made."""
        if upstream not in self.upstreams:
            return
        self.upstreams.remove(upstream)
        if upstream is self._dialling:
            self._dialling = None
            self.connect_failures += 1
        if self.retired:
            self.service.backend_idle(self)
        elif not upstream.draining:
            self._one_less(upstream, why)

    def _one_less(self, upstream: Upstream, why: str) -> None:
        """Dial again, at once if the connection had served, else after a wait."""
        self._full = False
        now = self._context.now
        settled = upstream.ready_at >= 0.0 and now - upstream.ready_at >= SETTLED_AFTER
        served = upstream.has_served or settled
        if served and not upstream.stalled:
            self._failures = 0
            self._rotate()
            self.dial_if_needed()
            return
        self.last_error = why
        self._failures += 1
        wait = min(BACKOFF_MOST, BACKOFF_FIRST * 2.0 ** float(min(self._failures - 1, 10)))
        wait *= 1.0 + BACKOFF_JITTER * (2.0 * self._context.random.random() - 1.0)
        if self.connected():
            # A further connection is not to be had: without room in the others there is none for a new stream until
            # one ends, or it is time to try again.
            self._another_at = now + wait
            self._full = not self._has_room()
        else:
            self._backing_off = True
        if self._full or self._backing_off:
            self._context.after(wait, _BackoffOver(self))
        self._rotate()

    def backoff_over(self) -> None:
        """Try again. Still out of rotation, until it is connected."""
        if self._backing_off:
            self._backing_off = False
            self._impatient = True
            self.dial_if_needed()
        elif self._full:
            self._full = False  # until another connection turns out not to be had
            self._rotate()
        elif self._impatient:
            self.dial_if_needed()  # which has failed when this was tried before

    def patience_over(self, upstream: Upstream) -> None:
        if upstream is not self._dialling:
            return
        if not self.connected():
            self._impatient = True
        elif not self._has_room():
            self._full = True
        self._rotate()

    def connect_timeout(self, upstream: Upstream) -> None:
        if upstream is self._dialling:
            upstream.abort()
            what = "did not answer SETTINGS" if upstream.connected else "did not accept the connection"
            upstream.abandon(f"{what} within {CONNECT_TIMEOUT:g} s")

    # --- from the service ------------------------------------------------------------------------

    def eject(self, base: float, why: str) -> None:
        """It rests, for `base` seconds the first time: nothing new; what it has goes on."""
        seconds = self.record.eject(base, self._context.now)
        self.last_error = f"ejected for {seconds:g} s: {why}"
        self._context.after(seconds, _EjectionOver(self))
        self._rotate()

    def ejection_over(self, early: bool) -> None:
        record = self.record
        now = self._context.now
        if record.ejected and (early or now >= record.until):
            record.back(now)
            self._rotate()

    def retire(self) -> None:
        """Gone from the snapshot: nothing new; what it has goes on to its end."""
        self.retired = True
        dialling = self._dialling
        if dialling is not None:
            self._dialling = None
            self.upstreams.remove(dialling)
            dialling.abort()
        for upstream in list(self.upstreams):
            upstream.draining = True
            upstream.close_if_idle()

    def reinstate(self) -> None:
        """Back in the snapshot: as new, but for the streams it still has, on connections that take no others."""
        self.retired = False
        self._failures = 0
        self._another_at = 0.0
        self._backing_off = False
        self._impatient = False
        self._full = False
        self.record.back(self._context.now)

    def take_pending(self) -> list[Stream]:
        """The streams that wait here, for another backend."""
        streams = list(self.pending)
        self.pending.clear()
        return streams


@final
class _ConnectTimeout(Timer):
    def __init__(self, backend: Backend, upstream: Upstream) -> None:
        super().__init__()
        self._backend = backend
        self._upstream = upstream

    def fire(self) -> None:
        self._backend.connect_timeout(self._upstream)

    def peer(self) -> Peer | None:
        return self._upstream


@final
class _PatienceOver(Timer):
    def __init__(self, backend: Backend, upstream: Upstream) -> None:
        super().__init__()
        self._backend = backend
        self._upstream = upstream

    def fire(self) -> None:
        self._backend.patience_over(self._upstream)


@final
class _DoubtOver(Timer):
    def __init__(self, backend: Backend, upstream: Upstream) -> None:
        super().__init__()
        self._backend = backend
        self._upstream = upstream

    def fire(self) -> None:
        self._backend.doubt_over(self._upstream)


@final
class _BackoffOver(Timer):
    def __init__(self, backend: Backend) -> None:
        super().__init__()
        self._backend = backend

    def fire(self) -> None:
        self._backend.backoff_over()

    def needed(self) -> bool:
        return True


@final
class _EjectionOver(Timer):
    def __init__(self, backend: Backend) -> None:
        super().__init__()
        self._backend = backend

    def fire(self) -> None:
        self._backend.ejection_over(early=False)

    def needed(self) -> bool:
        return True
