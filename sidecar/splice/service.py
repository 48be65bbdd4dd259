"""One Service port: its backends, the streams that wait for one, and how each stream ends."""

from __future__ import annotations

from typing import Final, cast, final

from mypy_extensions import i64

from sidecar.balance.endpoints import Endpoint, ServicePort, Snapshot
from sidecar.balance.picker import SHARED_METHOD, LeastOpenStreams
from sidecar.splice import localreply, outliers, replies, states
from sidecar.splice.backend import Backend
from sidecar.splice.context import Context, Timer
from sidecar.splice.replay import drop_request, rewind
from sidecar.splice.stats import StreamStats
from sidecar.splice.stream import Stream
from sidecar.wire import frames

# A call is answered UNAVAILABLE within 3 s where there is no endpoint; this leaves the answer its time.
QUEUE_TIMEOUT: Final = 2.5
# Seconds by which sums of times may differ for being rounded.
EARLY: Final = 0.001
# Streams that wait for an endpoint, with their first 64 KiB each; more would be a memory leak with a name.
MAX_QUEUED: Final = 10_000
# A6 has a client send again once what no server has begun. Between rollouts of several backends one call can
# meet more than one GOAWAY, so here it is three times; then the client is told REFUSED_STREAM.
MAX_REFUSALS: Final[i64] = 3
# Endpoints connected to as soon as they are known. Beyond, each is connected to when it is first picked.
EAGER_CONNECTIONS: Final = 128


@final
class Service:
    def __init__(self, context: Context, key: ServicePort) -> None:
        self.key: Final = key
        self.name: Final = str(key)
        self.backends: dict[tuple[str, int], Backend] = {}
        self.retiring: list[Backend] = []
        self.snapshot: Snapshot | None = None
        self.waiting: dict[Stream, None] = {}  # no endpoint to be had
        self.downstreams: i64 = 0
        self.stats: Final = StreamStats()  # as the application sees it, answers made here included
        self.context: Final = context
        self._balancer = LeastOpenStreams(context.random.shuffle)

    # --- endpoints -------------------------------------------------------------------------------

    def update(self, snapshot: Snapshot) -> None:
        """Take a whole snapshot in place of the one before."""
        self.snapshot = snapshot
        wanted: dict[tuple[str, int], Endpoint] = {(e.host, e.port): e for e in snapshot.endpoints}
        gone_keys = [
            key
            for key, backend in self.backends.items()
            if key not in wanted or _moved(backend.endpoint, wanted[key])
        ]
        leaving = {(b.endpoint.host, b.endpoint.port): b for b in self.retiring}
        gone = [self.backends.pop(key) for key in gone_keys]
        self.retiring.extend(gone)
        for key, endpoint in wanted.items():
            known = self.backends.get(key)
            if known is None:
                known = self._returning(endpoint, leaving) or Backend(self.context, self, endpoint)
                self.backends[key] = known
            known.endpoint = endpoint
        self._balancer.update(self.backends.values())
        if self.downstreams or self.waiting:
            self.connect()
        for backend in gone:
            streams = backend.take_pending()
            backend.retire()
            self.backend_idle(backend)
            for stream in streams:
                self._pick_again(stream)
        self._retry_waiting()

    def _returning(self, endpoint: Endpoint, leaving: dict[tuple[str, int], Backend]) -> Backend | None:
        """The backend that had left and is back, if it still has streams: they count on, or the next ones would all
        go where most are."""
        backend = leaving.get((endpoint.host, endpoint.port))
        if backend is None or _moved(backend.endpoint, endpoint):
            return None
        self.retiring.remove(backend)
        backend.reinstate()
        return backend

    def connect(self) -> None:
        """Have connections ready before they are needed."""
        for at, backend in enumerate(list(self.backends.values())):
            if at >= EAGER_CONNECTIONS:
                break
            backend.dial_if_needed()

    def resumed(self, backend: Backend) -> None:
        """It takes streams (again)."""
        if not backend.retired and not backend.in_rotation:
            self._balancer.resume(backend)
            self._retry_waiting()

    def suspended(self, backend: Backend) -> None:
        """Nothing new for it until it is resumed; what waited for it looks elsewhere."""
        self._balancer.suspend(backend)
        for stream in backend.take_pending():
            self._pick_again(stream)

    def backend_idle(self, backend: Backend) -> None:
        """A retired backend may have closed its last connection."""
        if not backend.upstreams and backend in self.retiring:
            self.retiring.remove(backend)

    # --- streams come ----------------------------------------------------------------------------

    def stuck(self) -> bool:
        """Calls wait, and no endpoint is connected that they could be for."""
        return bool(self.waiting) and not any(backend.connected() for backend in self.backends.values())

    def queued(self) -> int:
        """Streams that no backend has yet."""
        return len(self.waiting) + sum(len(backend.pending) for backend in self.backends.values())

    def opened(self, stream: Stream) -> None:
        """A client has opened a stream."""
        self.stats.started += 1
        self.open(stream)

    def open(self, stream: Stream) -> None:
        """Give a new stream, or one that was not begun, to the endpoint that should have it."""
        slot = self._balancer.pick(stream.path if stream.is_grpc else SHARED_METHOD)
        if slot is None:
            self._wait(stream)
            return
        stream.slot = slot
        backend = cast(Backend, slot.member)
        stream.backend = backend
        backend.take(stream)

    def _wait(self, stream: Stream) -> None:
        if self.context.ejection is not None and outliers.recall(self.backends.values()):
            self.open(stream)
            return
        if len(self.waiting) >= MAX_QUEUED:
            localreply.answer(
                stream, replies.UNAVAILABLE, f"{MAX_QUEUED} calls already wait; {self._trouble()}"
            )
            return
        self.waiting[stream] = None
        self.expire_later(stream)

    def expire_later(self, stream: Stream) -> None:
        """A stream that waits is answered in the end, whatever it waits for."""
        now = self.context.now
        if stream.expires > now:
            return
        stream.expires = now + QUEUE_TIMEOUT
        if 0.0 <= stream.deadline < stream.expires:
            stream.expires = stream.deadline
        self.context.after(stream.expires - now, _Expiry(self, stream))

    def expired(self, stream: Stream) -> None:
        if stream.phase != states.QUEUED or stream.down is None:
            return
        if stream.expires - self.context.now > EARLY:
            return  # it waits anew, since it was refused; that has a time-out of its own
        if 0.0 <= stream.deadline <= stream.expires:
            localreply.answer(
                stream, replies.DEADLINE_EXCEEDED, f"deadline passed while waiting; {self._trouble()}"
            )
        else:
            localreply.answer(stream, replies.UNAVAILABLE, self._trouble())

    def _trouble(self) -> str:
        snapshot = self.snapshot
        if snapshot is None:
            return f"evenstream: endpoints of {self.name} are not known yet"
        if not snapshot.exists:
            return f"evenstream: there is no Service {self.name}"
        if not self.backends:
            return f"evenstream: {self.name} has no ready endpoint"
        errors = [f"{b.endpoint.address}: {b.last_error}" for b in self.backends.values() if b.last_error]
        text = f"evenstream: none of {len(self.backends)} endpoints of {self.name} can take the call"
        return f"{text} ({errors[0]})" if errors else text

    def _retry_waiting(self) -> None:
        while self.waiting and self._balancer.in_rotation > 0:
            stream = next(iter(self.waiting))
            del self.waiting[stream]
            self.open(stream)
            if stream in self.waiting:
                return  # there was room for none after all

    def _pick_again(self, stream: Stream) -> None:
        self._release(stream)
        self.open(stream)

    # --- streams end -----------------------------------------------------------------------------

    def half_done(self, stream: Stream) -> None:
        """A half has been passed on to its end: is the stream over on either side?"""
        request = stream.request.state
        response = stream.response.state
        up = stream.up
        if up is not None and (request == states.DONE or request == states.RESET) and response != states.OPEN:
            if self.context.ejection is not None:
                outliers.judge(self, stream.backend, stream.grpc_status == replies.UNAVAILABLE)
            self.leave(stream)
            up.forget(stream)
        down = stream.down
        if down is not None and response == states.DONE:
            if request == states.RESET:
                down.reset(stream.down_id, frames.NO_ERROR)  # what the client still sends is not wanted
            if request != states.OPEN:
                stream.down = None
                down.answered()
                down.forget(stream)
        if stream.up is None and stream.down is None and stream.phase != states.CLOSED:
            stream.advance(states.CLOSE)
            self.stats.finished(stream.grpc_status, self.context.now - stream.opened_at)

    def leave(self, stream: Stream) -> None:
        """Over on the backend's side: count it."""
        backend = stream.backend
        if backend is not None and stream.up is not None:
            backend.stats.finished(stream.grpc_status, self.context.now - stream.opened_at)
        stream.up = None
        stream.response.source = None
        self._release(stream)

    def _release(self, stream: Stream) -> None:
        slot = stream.slot
        if slot is not None:
            stream.slot = None
            self._balancer.release(slot)

    def cancelled(self, stream: Stream, code: i64) -> None:
        """The client gave the stream up, or broke a rule on it; it is over on its side."""
        self.break_request(stream)
        answered = stream.response.state == states.DONE
        stream.response.state = states.next_half(stream.response.state, states.BREAK)
        down = stream.down
        if down is not None:
            down.drop_outbound(stream, stream.response)
            stream.down = None
            down.forget(stream)
        up = stream.up
        if up is not None:
            if answered:  # to its end: gRPC's clients so end a request that the server did not wait for
                outliers.judge(self, stream.backend, stream.grpc_status == replies.UNAVAILABLE)
            else:
                stream.grpc_status = replies.CANCELLED
            self.leave(stream)
            up.reset(stream.up_id, code)
            up.forget(stream)
        self.half_done(stream)

    def shed(self, stream: Stream) -> None:
        """One of its two sides does not read what comes: end this stream rather than the side's whole connection."""
        down = stream.down
        if down is not None:
            down.reset(stream.down_id, frames.ENHANCE_YOUR_CALM)
        self.cancelled(stream, frames.CANCEL)

    def break_request(self, stream: Stream) -> None:
        request = stream.request
        request.state = states.next_half(request.state, states.BREAK)
        drop_request(stream)
        sink = request.sink
        if sink is not None:
            sink.drop_outbound(stream, request)
            request.sink = None
        else:
            source = request.source
            if source is not None:
                source.released(request.held_size)
            self.context.held -= request.held_size
            request.discard()
        self.waiting.pop(stream, None)
        if stream.backend is not None:
            stream.backend.pending.pop(stream, None)
        if stream.up is None:
            self._release(stream)

    def reset_by_backend(self, stream: Stream, code: i64) -> None:
        """RST_STREAM from the backend; the stream is off its connection already."""
        if code == frames.REFUSED_STREAM and stream.phase == states.SENT:
            self.refused(stream, "refused the stream")
            return
        if stream.response.state == states.OPEN:
            if code != frames.CANCEL and code != frames.NO_ERROR:
                outliers.judge(self, stream.backend, True)
            self.leave(stream)
            self.reset_down(stream, code)
        else:
            self._backend_left(stream)

    def _backend_left(self, stream: Stream) -> None:
        """The answer is complete here, if not yet passed on; what is left of the request is not wanted."""
        outliers.judge(self, stream.backend, stream.grpc_status == replies.UNAVAILABLE)
        self.leave(stream)
        self.break_request(stream)
        self.half_done(stream)

    def reset_down(self, stream: Stream, code: i64) -> None:
        self.break_request(stream)
        half = stream.response
        half.state = states.next_half(half.state, states.BREAK)
        down = stream.down
        if down is not None:
            down.drop_outbound(stream, half)
            stream.down = None
            down.reset(stream.down_id, code)
            down.forget(stream)
        self.half_done(stream)

    def refused(self, stream: Stream, why: str) -> None:
        """The backend has not begun (gRFC A6): to another one, if all that was sent is still here."""
        backend = stream.backend
        request = stream.request
        if stream.phase != states.SENT:
            self.broken(stream, why)
            return
        if backend is not None:
            backend.stats.refused += 1
        stream.up = None
        stream.expires = -1.0
        self._release(stream)
        stream.refusals += 1
        if request.replay is None or stream.block is None or stream.refusals > MAX_REFUSALS:
            self.reset_down(stream, frames.REFUSED_STREAM)
            return
        self.context.totals.retried += 1
        rewind(stream, self.context)
        self._open_elsewhere(stream, backend)

    def _open_elsewhere(self, stream: Stream, refuser: Backend | None) -> None:
        """Pick again, another endpoint if there is one: the refuser may well have the fewest streams."""
        if refuser is None or not refuser.in_rotation:
            self.open(stream)
            return
        self._balancer.suspend(refuser)
        alone = self._balancer.in_rotation == 0
        if alone:
            self._balancer.resume(refuser)
        self.open(stream)
        if not alone:
            self.resumed(refuser)  # and what found no other endpoint after all goes to this one

    def broken(self, stream: Stream, why: str) -> None:
        """The backend's connection is lost or it broke a rule; the stream is off its connection already."""
        backend = stream.backend
        if stream.response.state != states.OPEN:
            self._backend_left(stream)
            return
        if backend is not None:
            backend.stats.failed += 1
            outliers.judge(self, backend, True)
        where = backend.endpoint.address if backend is not None else "?"
        self.leave(stream)
        localreply.answer(stream, replies.UNAVAILABLE, f"evenstream: endpoint {where} of {self.name} {why}")

    def cut(self, stream: Stream) -> None:
        """End a stream that an error of ours left half way through a transition, whatever its state.

        What the two connections and the balancer count is not looked at: `recovery` counts anew.
        """
        down, up = stream.down, stream.up
        self.waiting.pop(stream, None)
        backend = stream.backend
        if backend is not None:
            backend.pending.pop(stream, None)
        request, response = stream.request, stream.response
        for half in (request, response):
            half.state = states.RESET
            half.discard()
            half.lent = 0
            half.replay = None
            half.replay_size = 0
        stream.block = None
        stream.slot = None
        stream.down = None
        stream.up = None
        if stream.phase != states.CLOSED:
            stream.phase = states.CLOSED
            age = self.context.now - stream.opened_at
            self.stats.finished(stream.grpc_status, age)
            if up is not None and backend is not None:
                backend.stats.failed += 1
                backend.stats.finished(stream.grpc_status, age)
        owner = down or request.source or response.sink
        if owner is not None:
            owner.disown(stream, stream.down_id, frames.INTERNAL_ERROR)
        other = up or request.sink or response.source
        if other is not None:
            other.disown(stream, stream.up_id, frames.CANCEL)

    def recount(self, streams: list[Stream]) -> None:
        """These are the streams there are: count them anew, after an error of ours."""
        for backend in self.retiring:
            backend.open_streams = 0
        self._balancer.recount(slot for stream in streams if (slot := stream.slot) is not None)


def _moved(before: Endpoint, now: Endpoint) -> bool:
    """Whether the address is another pod's now. The connections are to the one that had it, and lead nowhere."""
    return before.pod != "" and now.pod != "" and before.pod != now.pod


@final
class _Expiry(Timer):
    def __init__(self, service: Service, stream: Stream) -> None:
        super().__init__()
        self._service = service
        self._stream = stream

    def fire(self) -> None:
        self._service.expired(self._stream)

    def stream(self) -> Stream | None:
        return self._stream
