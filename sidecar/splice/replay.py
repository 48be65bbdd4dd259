"""What is kept of a request until its answer comes, to be sent again if a backend has not begun it (gRFC A6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mypy_extensions import i64

from sidecar.splice import states
from sidecar.splice.context import MAX_REPLAY_IN_ALL, Context
from sidecar.splice.stream import Half, Stream, join
from sidecar.wire import frames

if TYPE_CHECKING:
    from sidecar.splice.peer import Peer

# What a backend may have been sent of a request before it grants anything: its initial window, by default.
# A request that fits can be sent to another backend whole; one that has outgrown it cannot.
REPLAY_LIMIT: Final[i64] = frames.DEFAULT_WINDOW
# Header blocks of one client's unanswered requests: 40 calls with 64 KiB of metadata each, or thousands with less.
MAX_BLOCKS_FROM: Final[i64] = 2_621_440
# Blocks up to this are not counted: they are in the memo, or no larger than the stream they belong to.
SMALL_BLOCK: Final[i64] = 1024
# Copies of one client's request bodies, 24 of the largest; one beyond this cannot be sent again, and that is all.
MAX_REPLAY_FROM: Final[i64] = 1_572_864


def keep_copy(half: Half, replay: list[bytes], payload: bytes, size: i64) -> None:
    """The request's body may have to be sent again, as long as there is room for a copy."""
    source = half.source
    if source is None:
        drop_copy(half)
        return
    context = source.context
    if (
        half.replay_size + size > REPLAY_LIMIT
        or source.replay_from + size > MAX_REPLAY_FROM
        or context.replay_held + size > MAX_REPLAY_IN_ALL
    ):
        drop_copy(half)
        return
    join(replay, payload, size)
    half.replay_size += size
    source.replay_from += size
    context.replay_held += size


def keep_block(stream: Stream, peer: Peer) -> None:
    """Count the header block of a client's new stream; `drop_request` gives it back."""
    block = stream.block
    if block is not None:
        size: i64 = len(block)
        if size > SMALL_BLOCK:
            peer.blocks_from += size
            peer.context.blocks_held += size


def drop_request(stream: Stream) -> None:
    """The stream will not be sent again, or is over: keep its request no longer."""
    block = stream.block
    source = stream.request.source
    if block is not None and source is not None:
        stream.block = None
        size: i64 = len(block)
        if size > SMALL_BLOCK:
            source.blocks_from -= size
            source.context.blocks_held -= size
    drop_copy(stream.request)


def drop_copy(half: Half) -> None:
    """Of a request's body."""
    source = half.source
    if half.replay is not None and source is not None:
        half.replay = None
        source.replay_from -= half.replay_size
        source.context.replay_held -= half.replay_size
        half.replay_size = 0


def rewind(stream: Stream, context: Context) -> None:
    """Refused: what was sent of the request is held again, ahead of what is held still, as if none had been."""
    request = stream.request
    replay = request.replay
    stream.advance(states.REFUSE)
    request.state = states.next_half(request.state, states.REWIND)
    pieces = (replay or []) + (request.held or [])
    trailers = request.trailers
    drop_copy(request)
    sink = request.sink
    if sink is not None:
        sink.drop_outbound(stream, request)
        request.sink = None
    if pieces:
        request.held = pieces
    request.trailers = trailers
    request.replay = []
    request.held_size = sum(map(len, pieces)) + (len(trailers) if trailers is not None else 0)
    context.held += request.held_size
    if request.source is not None:
        request.source.held_back += request.held_size
