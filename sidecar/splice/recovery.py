"""After a bug of ours: end the connection it showed on, and set right what is left.

An exception leaves the stream it came in half way through a transition, and any count off by it. The streams of the
connection end as if it had been lost, each on its own; what cannot end that way is cut off without asking the tables
in `states`. Then nothing that was counted is believed: streams that stand nowhere are cut off too, and every sum is
taken anew from what is there. Costs a walk over all streams, once for each such error.
"""

from __future__ import annotations

from collections.abc import Iterable

from sidecar.splice import states
from sidecar.splice.context import Context
from sidecar.splice.downstream import Downstream
from sidecar.splice.peer import Peer
from sidecar.splice.replay import SMALL_BLOCK
from sidecar.splice.service import Service
from sidecar.splice.stream import Half, Stream
from sidecar.splice.upstream import Upstream
from sidecar.wire import frames

WHY = "lost its connection to an internal error of the sidecar"


def end_connection(context: Context, peer: Peer, at_once: bool) -> None:
    """End the peer's streams, and the connection with GOAWAY INTERNAL_ERROR, or `at_once`."""
    if peer.finished or at_once:
        peer.gone = True  # whatever it is that fails, do not have it tried again
        peer.finished = True
        peer.settle_unsent()
    peer.break_off()
    if isinstance(peer, Upstream):
        if not peer.connected:
            peer.gone = True
        _let_go(context, peer)
    for stream in peer.streams.values():
        _end_stream(context, stream, peer)
    peer.streams.take_all()
    peer.touch()


def _let_go(context: Context, upstream: Upstream) -> None:
    try:
        upstream.backend.lost(upstream, WHY)
    except Exception as error:
        context.errors.note("recovery", error, context.now)


def _end_stream(context: Context, stream: Stream, peer: Peer) -> None:
    """As if the connection had been lost, where the stream can still be trusted to end like that."""
    service = stream.service
    try:
        if stream.down is peer:
            service.cancelled(stream, frames.CANCEL)
        elif stream.response.state == states.OPEN and stream.response.held is None:
            peer.streams.remove(stream.up_id)
            service.broken(stream, WHY)
        else:  # an answer that is not passed on yet: it may lack what came when the error did
            service.cut(stream)
    except Exception as error:
        context.errors.note("recovery", error, context.now)
        service.cut(stream)


def all_streams(services: Iterable[Service], peers: Iterable[Peer]) -> list[Stream]:
    """Each stream that anything still remembers, once."""
    found: dict[Stream, None] = {}
    for peer in peers:
        found.update(dict.fromkeys(peer.streams.values()))
        found.update(dict.fromkeys(peer.waiting_streams()))
    for service in services:
        found.update(service.waiting)
        for backend in [*service.backends.values(), *service.retiring]:
            found.update(backend.pending)
    return list(found)


def mend(context: Context, services: Iterable[Service], peers: list[Peer]) -> None:
    """Cut off streams that stand nowhere and take all sums anew. Changes nothing where nothing is wrong."""
    services = list(services)
    streams = all_streams(services, peers)
    for stream in streams:
        if not _stands(stream):
            stream.service.cut(stream)
    streams = [stream for stream in streams if stream.phase != states.CLOSED]
    for service in services:
        service.recount([stream for stream in streams if stream.service is service])
        service.downstreams = 0
    _recount(context, streams, peers)
    for peer in peers:
        if isinstance(peer, Downstream):
            peer.service.downstreams += 1


def _stands(stream: Stream) -> bool:
    """Whether it can go on: both sides know it, and somebody will end each half that is not over."""
    down, up, request, response = stream.down, stream.up, stream.request, stream.response
    if stream.phase == states.CLOSED or (down is None and up is None):
        return False
    if down is not None and (down.gone or down.streams.find(stream.down_id) is not stream):
        return False
    if up is not None and (up.gone or up.streams.find(stream.up_id) is not stream):
        return False
    if up is None and response.state == states.OPEN:
        backend = stream.backend
        waits = stream in stream.service.waiting or (backend is not None and stream in backend.pending)
        if stream.phase != states.QUEUED or not waits:
            return False
    if down is None and response.state == states.OPEN:
        return False
    return _moves(request) and _moves(response)


def _moves(half: Half) -> bool:
    """Whether what it has will be passed on."""
    if half.held is not None:
        return len(half.held) > 0
    return half.state != states.ENDED or half.sink is None


def _recount(context: Context, streams: Iterable[Stream], peers: list[Peer]) -> None:
    context.streams = 0
    context.held = 0
    context.lent = 0
    context.blocks_held = 0
    context.replay_held = 0
    context.blocks_under_way = 0
    for peer in peers:
        peer.held_for = 0
        peer.held_back = 0
        peer.lent_for = 0
        peer.blocks_from = 0
        peer.replay_from = 0
        peer.streams.recount()
        context.held += peer.unsent
        context.blocks_under_way += peer.block_counted
        if peer.is_server:
            context.streams += peer.streams.count()
    for stream in streams:
        request = stream.request
        source = request.source
        block = stream.block
        if source is not None:
            source.held_back += request.held_size
            if request.replay is not None:
                source.replay_from += request.replay_size
                context.replay_held += request.replay_size
            if block is not None and len(block) > SMALL_BLOCK:
                source.blocks_from += len(block)
                context.blocks_held += len(block)
        for half in (request, stream.response):
            context.held += half.held_size
            sink = half.sink
            if sink is not None:
                sink.held_for += half.held_size
                sink.lent_for += half.lent
                context.lent += half.lent
