"""One stream across two connections: its two halves, and what it takes to send it again.

Data only; `peer`, `downstream`, `upstream` and `service` act on it through the tables in `states`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from mypy_extensions import i64

from sidecar.balance.picker import Slot
from sidecar.splice import states
from sidecar.wire import frames
from sidecar.wire.blocks import Block

if TYPE_CHECKING:
    from sidecar.splice.backend import Backend
    from sidecar.splice.downstream import Downstream
    from sidecar.splice.peer import Peer
    from sidecar.splice.service import Service
    from sidecar.splice.upstream import Upstream

# Held and copied pieces this short are joined: a piece costs some 60 octets beside its own.
JOIN_BELOW: Final[i64] = 4096
# A short call never sinks its credit so far and so never costs a WINDOW_UPDATE.
FIRST_LEND_BELOW: Final[i64] = 32_768


@final
class Half:
    """One direction. Credit is end to end: what the sink's peer granted, less what is held here, is lent to
    the source's peer, so that next to nothing is held."""

    def __init__(self, source: Peer | None, sink: Peer | None, sink_window: i64) -> None:
        self.state: i64 = states.OPEN
        self.source: Peer | None = source
        self.source_id: i64 = 0
        self.first_window: i64 = frames.DEFAULT_WINDOW  # what the source may send unasked
        self.source_window: i64 = frames.DEFAULT_WINDOW  # what it may still send
        self.sink: Peer | None = sink
        self.sink_id: i64 = 0
        self.sink_window: i64 = sink_window  # what the sink may still be sent
        self.passed: i64 = 0  # octets it has been sent
        self.is_read: bool = False  # its peer has given back credit for some of them
        self.lend_below: i64 = FIRST_LEND_BELOW
        self.held: list[bytes] | None = None
        self.held_size: i64 = 0
        self.trailers: bytes | None = None  # held behind DATA
        self.lent: i64 = 0  # of what the source may still send and what is held: beyond a first window
        self.replay: list[bytes] | None = None  # passed on, and kept until the backend answers
        self.replay_size: i64 = 0
        self.content_length: i64 = -1  # still to come; -1: not declared

    def hold(self, payload: bytes, size: i64) -> None:
        """Keep a piece behind those that are held already."""
        if self.held is None:
            self.held = [payload]
        else:
            join(self.held, payload, size)
        self.held_size += size

    def discard(self) -> None:
        self.held = None
        self.held_size = 0
        self.trailers = None


def join(pieces: list[bytes], payload: bytes, size: i64) -> None:
    """Put a piece behind others, as one with the last if both are short."""
    if pieces:
        last: i64 = len(pieces[-1])
        if last + size <= JOIN_BELOW:
            pieces[-1] = pieces[-1] + payload
            return
    if size > 0:
        pieces.append(payload)


@final
class Stream:
    """A call, from its request's header block to the last frame on either side."""

    def __init__(self, service: Service, down: Downstream, down_id: i64, block: Block, now: float) -> None:
        self.service: Final = service
        self.path: Final = block.path
        self.is_grpc: Final = block.is_grpc
        self.block: bytes | None = block.raw  # kept until the answer comes: it may be sent again
        self.list_size: Final = block.list_size
        self.phase: i64 = states.QUEUED
        self.down: Downstream | None = down  # None: over on the client's side
        self.down_id: Final = down_id
        self.up: Upstream | None = None  # None: not sent, or over on the backend's side
        self.up_id: i64 = 0
        self.backend: Backend | None = None
        self.slot: Slot | None = None  # the place in the balancer's count, while it is open
        self.opened_at: Final = now
        # When its grpc-timeout is over; -1: it has none.
        self.deadline: float = now + block.timeout if block.timeout >= 0.0 else -1.0
        self.refusals: i64 = 0
        self.informed: i64 = 0  # 1xx so far
        self.grpc_status: i64 = -1
        self.expires: float = -1.0  # while queued: when it is answered UNAVAILABLE
        self.request = Half(down, None, 0)
        self.request.source_id = down_id
        self.request.replay = []
        self.request.content_length = block.content_length
        self.response = Half(None, down, down.peer_initial_window)
        self.response.sink_id = down_id

    def advance(self, event: i64) -> None:
        self.phase = states.next_phase(self.phase, event)
