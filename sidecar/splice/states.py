"""All transitions of a stream, as two tables. Nothing else decides what may follow what.

A spliced stream has a phase (where its request stands) and two halves, request and response, each of
which ends on its own (RFC 9113 section 5.1 seen from the middle).
"""

from __future__ import annotations

from typing import Final

from mypy_extensions import i64

ILLEGAL: Final[i64] = 255

# Phases of a stream.
QUEUED: Final[i64] = 0  # no backend has seen it: may be sent to any
SENT: Final[i64] = 1  # a backend has its header block; sent again only where gRFC A6 calls that safe
INFORMED: Final[i64] = 2  # a 1xx came back: a backend has begun, the answer is still to come
ANSWERED: Final[i64] = 3  # response headers have been passed on
CLOSED: Final[i64] = 4
PHASE_NAMES: Final = ("queued", "sent", "informed", "answered", "closed")

# What happens to a stream.
SEND: Final[i64] = 0  # its header block is written to a backend
REFUSE: Final[i64] = 1  # the backend says it has not begun: REFUSED_STREAM, or above a GOAWAY's last stream
INFORM: Final[i64] = 2  # a 1xx header block
ANSWER: Final[i64] = 3  # the response's header block
CLOSE: Final[i64] = 4  # over, on both sides
_PHASE_EVENTS: Final[i64] = 5

_PHASES: Final = bytes(
    # SEND     REFUSE   INFORM    ANSWER    CLOSE
    [SENT, ILLEGAL, ILLEGAL, ANSWERED, CLOSED]  # QUEUED; answered from here: no backend to be had
    + [ILLEGAL, QUEUED, INFORMED, ANSWERED, CLOSED]  # SENT
    + [ILLEGAL, ILLEGAL, INFORMED, ANSWERED, CLOSED]  # INFORMED
    + [ILLEGAL, ILLEGAL, ILLEGAL, ILLEGAL, CLOSED]  # ANSWERED
    + [ILLEGAL, ILLEGAL, ILLEGAL, ILLEGAL, ILLEGAL]  # CLOSED
)

# States of a half: DATA and trailers from its source to its sink.
OPEN: Final[i64] = 0
ENDED: Final[i64] = 1  # END_STREAM has come from the source; bytes or the end itself are still held here
DONE: Final[i64] = 2  # END_STREAM has been passed on
RESET: Final[i64] = 3  # over, but the source may not know yet and still send
HALF_NAMES: Final = ("open", "ended", "done", "reset")

END: Final[i64] = 0  # END_STREAM from the source
PASS: Final[i64] = 1  # END_STREAM written to the sink
REWIND: Final[i64] = 2  # what was passed on is held again, for another sink
BREAK: Final[i64] = 3  # RST_STREAM or a lost connection, from either side
_HALF_EVENTS: Final[i64] = 4

_HALVES: Final = bytes(
    # END      PASS     REWIND   BREAK
    [ENDED, ILLEGAL, OPEN, RESET]  # OPEN
    + [ILLEGAL, DONE, ENDED, DONE]  # ENDED; broken: nothing more will come, what is held goes nowhere
    + [ILLEGAL, ILLEGAL, ENDED, DONE]  # DONE
    + [ILLEGAL, ILLEGAL, ILLEGAL, RESET]  # RESET
)


class IllegalTransitionError(Exception):
    """A bug of ours: what a peer may do wrong is caught before it gets here."""


def next_phase(phase: i64, event: i64) -> i64:
    """Raises IllegalTransitionError."""
    found: i64 = _PHASES[phase * _PHASE_EVENTS + event]
    if found == ILLEGAL:
        raise IllegalTransitionError(f"event {event} in phase {PHASE_NAMES[phase]}")
    return found


def next_half(state: i64, event: i64) -> i64:
    """Raises IllegalTransitionError."""
    found: i64 = _HALVES[state * _HALF_EVENTS + event]
    if found == ILLEGAL:
        raise IllegalTransitionError(f"event {event} in half {HALF_NAMES[state]}")
    return found
