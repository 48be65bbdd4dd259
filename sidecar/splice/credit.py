"""Credit across two connections (RFC 9113 section 5.2): what the sink's peer has granted is lent to the source's.

A stream's first window is always lent again. What goes beyond it is bounded: for each stream, for each sink and for
all of them together, so that readers which stop cannot leave more than that here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mypy_extensions import i64

from sidecar.splice import states
from sidecar.splice.context import MAX_HELD_IN_ALL
from sidecar.wire import frames

if TYPE_CHECKING:
    from sidecar.splice.peer import Peer
    from sidecar.splice.stream import Half

# The most credit a sender is lent ahead of its receiver's reading: what a stalled stream can leave here.
# At 1 ms from pod to pod it still carries 512 MB a second a stream.
LEND_LIMIT: Final[i64] = 524_288
# Credit beyond first windows, for all streams at once: what readers who all stop at once can leave here, beside their
# first windows. Sixteen streams at LEND_LIMIT, and the others at 32 MB a second where a round trip takes a millisecond.
MAX_LENT_IN_ALL: Final[i64] = 8_388_608
# The same on one peer's word: half of it, so that nobody can take all.
MAX_LENT_FOR: Final[i64] = 4_194_304
# The same to streams whose reader has not shown yet that it reads: a large window is granted in a moment, by one who
# never means to read too.
MAX_LENT_UNREAD: Final[i64] = 524_288


def lend(source: Peer, half: Half) -> None:
    """Grant `source`, the half's, what the sink's peer has granted and is not lent yet."""
    sink = half.sink
    if half.state != states.OPEN or sink is None or source.gone:
        return
    if sink.unsent > 0:  # what the socket has not taken counts as not read either
        sink.owed[half] = None
        return
    context = source.context
    outstanding = half.held_size + half.source_window
    sink.lent_for -= half.lent
    context.lent -= half.lent
    limit = half.first_window + lendable(sink, half)
    if limit > LEND_LIMIT:
        limit = LEND_LIMIT
    if half.sink_window < limit:
        limit = half.sink_window
    grant = limit - outstanding
    if grant > 0:
        outstanding += grant
    half.lent = outstanding - half.first_window if outstanding > half.first_window else 0
    sink.lent_for += half.lent
    context.lent += half.lent
    if grant <= 0:
        return
    # At least 1, or a sender without credit would never have any again.
    half.lend_below = (limit + 1) // 2
    half.source_window += grant
    frames.write_window_update(source.out, half.source_id, grant)
    source.touch()


def lend_if_low(half: Half) -> None:
    """`lend` where the half's source has not much left."""
    source = half.source
    if source is not None and half.source_window < half.lend_below:
        lend(source, half)


def lendable(sink: Peer, half: Half) -> i64:
    """Credit beyond its first window that the half may still be lent on the word of `sink`'s peer."""
    context = sink.context
    room = (MAX_LENT_IN_ALL if half.is_read else MAX_LENT_UNREAD) - context.lent
    if MAX_LENT_FOR - sink.lent_for < room:
        room = MAX_LENT_FOR - sink.lent_for
    if room <= 0 or context.held > MAX_HELD_IN_ALL // 2:
        return 0
    return room


def lend_owed(sink: Peer) -> None:
    """Its socket has taken all it was given: lend what was put off until then."""
    owed = list(sink.owed)
    sink.owed.clear()
    for half in owed:
        lend_if_low(half)


def settle_lent(sink: Peer, half: Half) -> None:
    """The half's source has ended: of what was lent on the word of `sink`'s peer only what is held still counts."""
    before = half.lent
    left = half.held_size - half.first_window
    half.lent = left if left > 0 else 0
    sink.lent_for += half.lent - before
    sink.context.lent += half.lent - before
