"""What a call is to be, what is said in it, and what became of it."""

from __future__ import annotations

import random
from typing import NamedTuple

MAX_BODY = 1 << 19
# Every call's bodies begin somewhere else in it: requests in its first part, responses in its second.
STARTS = 1 << 18
PATTERN = random.Random(0).randbytes(STARTS + 2 * MAX_BODY)

# How a server goes about a call.
WHOLE = "whole"  # reads it all and answers
EARLY = "early"  # ends before the request has, and reads the rest of it
EARLY_RESET = "early, reset"  # the same with RST_STREAM NO_ERROR (RFC 9113 section 8.1)
TRAILERS_ONLY = "trailers only"  # an error at once, as a single header block
RESET = "reset"  # RST_STREAM in the middle of its answer
RESET_FIRST = "reset first"  # RST_STREAM in place of an answer


class Script(NamedTuple):
    """A call from both sides. Sizes in octets, times in seconds."""

    kind: str = "unary"  # unary, client, server or bidi
    method: str = "/greeter.Greeter/SayHello"
    request: tuple[int, ...] = (64,)  # messages
    response: tuple[int, ...] = (64,)
    gap: float = 0.0  # of the client between its messages
    think: float = 0.0  # of the server before each of its
    status: int = 0
    manner: str = WHOLE
    code: int = 8  # of the RST_STREAM, with RESET
    refusals: int = 0  # arrivals refused before one is taken
    hints: int = 0  # informational responses ahead of the answer
    deadline: float = -1.0
    cancel: float = -1.0
    client_stall: float = 0.0  # the client stops reading after the first octets
    server_stall: float = 0.0
    metadata: int = 0  # octets of it in the request and in the trailers
    sized: bool = False  # content-length is declared; in plain HTTP only
    stubborn: bool = False  # the client sends its request to the end although the answer is complete
    grpc: bool = True


class Arrival:
    """A call's header block at a backend."""

    def __init__(self, sidecar: str, host: str, at: float) -> None:
        self.sidecar = sidecar
        self.host = host
        self.at = at
        self.unprocessed = ""  # why the backend has not begun it, if it has told so
        self.completed = False  # the whole answer is on its way
        self.status = -1  # with which it was completed
        self.reset_code = -1  # or RST_STREAM was sent
        self.reset_seen = -1  # RST_STREAM of the sidecar's
        self.cut = False  # its connection ended under it
        self.request_received = 0
        self.request_ended = False
        self.response_sent = 0

    def __str__(self) -> str:
        what = self.unprocessed or (
            f"completed with {self.status}"
            if self.completed
            else f"reset with {self.reset_code}"
            if self.reset_code >= 0
            else "begun"
        )
        return f"{self.host} at {self.at:.4f}, {what}"


class Outcome(NamedTuple):
    what: str  # status, reset, lost, cancelled, deadline
    number: int = -1  # grpc-status (or HTTP status), or the error code
    message: str = ""

    def __str__(self) -> str:
        return f"{self.what} {self.number if self.number >= 0 else ''} {self.message}".strip()


class Call:
    def __init__(self, number: int, script: Script, application: str, service: str, at: float) -> None:
        self.number = number
        self.script = script
        self.application = application
        self.service = service
        self.made_at = at
        self.opened_at = -1.0  # its header block went out
        self.attempted_at = -1.0  # the last time
        self.attempts = 0
        self.arrivals: list[Arrival] = []
        self.outcome: Outcome | None = None
        self.ended_at = -1.0
        self.response_received = 0
        start = number * 7919 % STARTS
        self.request = PATTERN[start : start + sum(script.request)]
        start += MAX_BODY
        self.response = PATTERN[start : start + sum(script.response)]
        assert len(self.response) == sum(script.response), f"more than {MAX_BODY} octets"

    def __str__(self) -> str:
        return f"call {self.number}"
