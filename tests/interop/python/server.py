"""The gRPC interop service on C-core's Python: `server.py --port=N`, on loopback. With --grace it ends on SIGTERM as
a server in a pod does: no new calls, those under way in their time.

Run with the folder of the generated `interop_pb2` modules on PYTHONPATH.
"""

from __future__ import annotations

import argparse
import signal
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import interop_pb2 as pb
import interop_pb2_grpc as pb_grpc

INITIAL = "x-grpc-test-echo-initial"
TRAILING = "x-grpc-test-echo-trailing-bin"
# One per stream under way; a streaming handler holds its thread.
THREADS = 32
# Above the 10 MiB of the case very_large_request.
MAX_MESSAGE = 16 << 20


def echo_metadata(context: grpc.ServicerContext) -> None:
    for key, value in context.invocation_metadata():
        if key == INITIAL:
            context.send_initial_metadata([(key, value)])
        elif key == TRAILING:
            context.set_trailing_metadata([(key, value)])


def abort_if_asked(request: Any, context: grpc.ServicerContext) -> None:
    if request.HasField("response_status"):
        status = request.response_status
        codes = {code.value[0]: code for code in grpc.StatusCode}
        context.abort(codes[status.code], status.message)


def payload(size: int) -> pb.Payload:
    return pb.Payload(type=pb.COMPRESSABLE, body=bytes(size))


class Interop(pb_grpc.TestServiceServicer):
    """The handlers. What is not overridden answers UNIMPLEMENTED, as UnimplementedCall must."""

    def EmptyCall(self, request: pb.Empty, context: grpc.ServicerContext) -> pb.Empty:  # noqa: N802
        echo_metadata(context)
        return pb.Empty()

    def UnaryCall(self, request: pb.SimpleRequest, context: grpc.ServicerContext) -> pb.SimpleResponse:  # noqa: N802
        if request.response_compressed.value:
            context.set_compression(grpc.Compression.Gzip)
        echo_metadata(context)
        abort_if_asked(request, context)
        return pb.SimpleResponse(payload=payload(request.response_size))

    def _answers(
        self, request: pb.StreamingOutputCallRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.StreamingOutputCallResponse]:
        for wanted in request.response_parameters:
            if wanted.interval_us:
                time.sleep(wanted.interval_us / 1e6)
            if not wanted.compressed.value:
                context.disable_next_message_compression()
            yield pb.StreamingOutputCallResponse(payload=payload(wanted.size))

    def StreamingOutputCall(  # noqa: N802
        self, request: pb.StreamingOutputCallRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.StreamingOutputCallResponse]:
        if any(wanted.compressed.value for wanted in request.response_parameters):
            context.set_compression(grpc.Compression.Gzip)
        echo_metadata(context)
        abort_if_asked(request, context)
        yield from self._answers(request, context)

    def StreamingInputCall(  # noqa: N802
        self, requests: Iterator[pb.StreamingInputCallRequest], context: grpc.ServicerContext
    ) -> pb.StreamingInputCallResponse:
        echo_metadata(context)
        total = sum(len(request.payload.body) for request in requests)
        return pb.StreamingInputCallResponse(aggregated_payload_size=total)

    def FullDuplexCall(  # noqa: N802
        self, requests: Iterator[pb.StreamingOutputCallRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.StreamingOutputCallResponse]:
        echo_metadata(context)
        for request in requests:
            abort_if_asked(request, context)
            yield from self._answers(request, context)

    def HalfDuplexCall(  # noqa: N802
        self, requests: Iterator[pb.StreamingOutputCallRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.StreamingOutputCallResponse]:
        echo_metadata(context)
        for request in list(requests):
            yield from self._answers(request, context)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--grace", type=float, help="seconds for calls under way; without it they are cut")
    arguments = parser.parse_args()
    # Without SO_REUSEPORT a port that another program has taken is an error and not shared.
    options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", MAX_MESSAGE)]
    server = grpc.server(futures.ThreadPoolExecutor(THREADS), options=options)
    pb_grpc.add_TestServiceServicer_to_server(Interop(), server)
    stopping = threading.Event()
    if arguments.grace is not None:
        signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    address = f"{arguments.host}:{arguments.port}"
    server.add_insecure_port(address)
    server.start()
    print(f"interop listens on {address}", flush=True)
    stopping.wait()
    server.stop(arguments.grace).wait()


if __name__ == "__main__":
    main()
