"""Local replies: a stream is answered here, in place of a backend, and so ended. `replies` has their octets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mypy_extensions import i64

from sidecar.splice import replies, states
from sidecar.splice.credit import settle_lent
from sidecar.splice.stream import Stream
from sidecar.wire import fields, frames

if TYPE_CHECKING:
    from sidecar.splice.downstream import Downstream


def answer(stream: Stream, status: i64, message: str) -> None:
    """Answer the client with a gRPC status and a message that names the cause; the stream has left its backend.

    Trailers-Only where nothing has been answered yet, trailers behind what is held where something has, and plain
    HTTP to a request that is not gRPC.
    """
    service = stream.service
    totals = service.context.totals.answered_here
    totals[status] = totals.get(status, 0) + 1
    stream.grpc_status = status
    request_block = stream.block  # kept no longer once the request is broken off
    service.break_request(stream)
    half = stream.response
    down = stream.down
    if down is None:
        service.half_done(stream)
        return
    if stream.phase == states.ANSWERED:
        if not stream.is_grpc:
            service.reset_down(stream, frames.INTERNAL_ERROR)
            return
        half.state = states.next_half(half.state, states.END)
        half.trailers = replies.trailers(status, message)
        settle_lent(down, half)
        if half.held is None:
            down.pass_end(stream, half)
        return
    stream.advance(states.ANSWER)
    half.state = states.next_half(half.state, states.END)
    if stream.is_grpc:
        down.write_headers(stream.down_id, replies.trailers_only(status, message), True)
    else:
        _answer_http(stream, down, request_block, status, message)
    down.touch()
    half.state = states.next_half(half.state, states.PASS)
    service.half_done(stream)


def _answer_http(
    stream: Stream, down: Downstream, request_block: bytes | None, status: i64, message: str
) -> None:
    """With a body where the request may have one answered and the client's windows take it whole."""
    block, body = replies.http_response(status, message)
    size: i64 = len(body)
    wants_body = request_block is not None and down.context.memo.read(request_block).seen & fields.HEAD == 0
    if not wants_body:
        down.write_headers(stream.down_id, block, True)
        return
    if size > stream.response.sink_window or size > down.send_window:
        block, body = replies.http_response(status, "")[0], b""
        down.write_headers(stream.down_id, block, True)
        return
    down.send_window -= size
    down.write_headers(stream.down_id, block, False)
    down.write_data(stream.down_id, body, True)


def request_too_large(stream: Stream, most: i64) -> None:
    """The endpoint says that it takes header lists of up to `most` octets (RFC 9113 section 10.5.1); this is larger.

    gRPC's clients end such a call themselves. Passed on it could cost all that are on the connection: grpc-java
    ends it for a list that is a quarter above its limit.
    """
    where = stream.backend.endpoint.address if stream.backend is not None else "?"
    what = (
        f"evenstream: a header list of {stream.list_size} octets; endpoint {where} of {stream.service.name}"
    )
    answer(stream, replies.RESOURCE_EXHAUSTED, f"{what} takes {most}")


def response_too_large(stream: Stream, size: i64, most: i64, ends: bool) -> None:
    """The same of the client, and of a header list of `size` octets in the response, which `ends` with it or not."""
    service = stream.service
    up = stream.up
    over = ends and stream.request.state == states.DONE
    service.leave(stream)
    if up is not None:
        if not over:
            up.reset(stream.up_id, frames.CANCEL)
        up.forget(stream)
    if not stream.is_grpc:
        service.reset_down(stream, frames.INTERNAL_ERROR)
        return
    what = f"evenstream: {service.name} answered with a header list of {size} octets; the client takes {most}"
    answer(stream, replies.RESOURCE_EXHAUSTED, what)
