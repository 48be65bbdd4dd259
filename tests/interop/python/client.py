"""The client of the gRPC interop tests on C-core's Python: one case a run, exit 0 if it holds.

The cases are those of the public interop test descriptions, which name their sizes and texts.
Run with the folder of the generated `interop_pb2` modules on PYTHONPATH.
"""

from __future__ import annotations

import argparse
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
import interop_pb2 as pb
import interop_pb2_grpc as pb_grpc

REQUEST_SIZE = 271828
RESPONSE_SIZE = 314159
STREAM_REQUEST_SIZES = (27182, 8, 1828, 45904)
STREAM_RESPONSE_SIZES = (31415, 9, 2653, 58979)
INITIAL = ("x-grpc-test-echo-initial", "test_initial_metadata_value")
TRAILING = ("x-grpc-test-echo-trailing-bin", b"\xab\xab\xab")
SPECIAL_MESSAGE = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"
# A case that needs longer hangs; the wait for metadata or a message ends with DEADLINE_EXCEEDED.
CASE_TIMEOUT = 20.0
SOAK_ITERATIONS = 20
UNKNOWN = 2

Stub = Any  # the generated stub


class CaseFailedError(Exception):
    """What was seen is not what the case wants."""


def want_equal(what: str, got: object, wanted: object) -> None:
    if got != wanted:
        raise CaseFailedError(f"{what}: got {got!r}, wanted {wanted!r}")


def want_status(error: grpc.RpcError, code: grpc.StatusCode, message: str | None = None) -> None:
    want_equal("status code", error.code(), code)
    if message is not None:
        want_equal("status message", error.details(), message)


def payload(size: int) -> pb.Payload:
    return pb.Payload(body=bytes(size))


def large_request() -> pb.SimpleRequest:
    return pb.SimpleRequest(response_size=RESPONSE_SIZE, payload=payload(REQUEST_SIZE))


def want_large(response: pb.SimpleResponse) -> None:
    want_equal("payload", response.payload.body == bytes(RESPONSE_SIZE), True)


def want_sizes(responses: Iterator[Any], sizes: Sequence[int]) -> None:
    want_equal("response sizes", tuple(len(r.payload.body) for r in responses), tuple(sizes))


def stream_request(
    response_size: int, request_size: int, compressed: bool = False
) -> pb.StreamingOutputCallRequest:
    parameters = pb.ResponseParameters(size=response_size, compressed=pb.BoolValue(value=compressed))
    return pb.StreamingOutputCallRequest(response_parameters=[parameters], payload=payload(request_size))


class Outbox:
    """Requests of a stream, sent when `put`; `close` half-closes."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def put(self, request: Any) -> None:
        self._queue.put(request)

    def close(self) -> None:
        self._queue.put(None)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._queue.get, None)


def empty_unary(stub: Stub) -> None:
    want_equal("response", stub.EmptyCall(pb.Empty(), timeout=CASE_TIMEOUT), pb.Empty())


def large_unary(stub: Stub) -> None:
    want_large(stub.UnaryCall(large_request(), timeout=CASE_TIMEOUT))


def client_streaming(stub: Stub) -> None:
    requests = (pb.StreamingInputCallRequest(payload=payload(size)) for size in STREAM_REQUEST_SIZES)
    response = stub.StreamingInputCall(requests, timeout=CASE_TIMEOUT)
    want_equal("aggregated size", response.aggregated_payload_size, sum(STREAM_REQUEST_SIZES))


def server_streaming(stub: Stub) -> None:
    parameters = [pb.ResponseParameters(size=size) for size in STREAM_RESPONSE_SIZES]
    request = pb.StreamingOutputCallRequest(response_parameters=parameters)
    want_sizes(stub.StreamingOutputCall(request, timeout=CASE_TIMEOUT), STREAM_RESPONSE_SIZES)


def ping_pong(stub: Stub) -> None:
    outbox = Outbox()
    responses = stub.FullDuplexCall(iter(outbox), timeout=CASE_TIMEOUT)
    for request_size, response_size in zip(STREAM_REQUEST_SIZES, STREAM_RESPONSE_SIZES, strict=True):
        outbox.put(stream_request(response_size, request_size))
        want_equal("response size", len(next(responses).payload.body), response_size)
    outbox.close()
    want_sizes(responses, ())


def empty_stream(stub: Stub) -> None:
    want_sizes(stub.FullDuplexCall(iter(()), timeout=CASE_TIMEOUT), ())


def timeout_on_sleeping_server(stub: Stub) -> None:
    outbox = Outbox()
    outbox.put(
        pb.StreamingOutputCallRequest(
            response_parameters=[pb.ResponseParameters(size=31415, interval_us=1_000_000)],
            payload=payload(27182),
        )
    )
    try:
        next(stub.FullDuplexCall(iter(outbox), timeout=0.001))
    except grpc.RpcError as error:
        want_status(error, grpc.StatusCode.DEADLINE_EXCEEDED)
    else:
        raise CaseFailedError("the call succeeded after its deadline")
    finally:
        outbox.close()


def cancel_after_begin(stub: Stub) -> None:
    outbox = Outbox()
    call = stub.StreamingInputCall.future(iter(outbox), timeout=CASE_TIMEOUT)
    call.cancel()
    outbox.close()
    want_equal("cancelled", call.cancelled(), True)
    want_equal("status code", call.code(), grpc.StatusCode.CANCELLED)


def cancel_after_first_response(stub: Stub) -> None:
    outbox = Outbox()
    responses = stub.FullDuplexCall(iter(outbox), timeout=CASE_TIMEOUT)
    outbox.put(stream_request(31415, 27182))
    want_equal("response size", len(next(responses).payload.body), 31415)
    responses.cancel()
    try:
        next(responses)
    except grpc.RpcError as error:
        want_status(error, grpc.StatusCode.CANCELLED)
    else:
        raise CaseFailedError("a response came after the cancellation")
    finally:
        outbox.close()


def status_code_and_message(stub: Stub) -> None:
    status = pb.EchoStatus(code=UNKNOWN, message="test status message")
    try:
        stub.UnaryCall(pb.SimpleRequest(response_status=status), timeout=CASE_TIMEOUT)
    except grpc.RpcError as error:
        want_status(error, grpc.StatusCode.UNKNOWN, status.message)
    else:
        raise CaseFailedError("the unary call succeeded")
    requests = iter([pb.StreamingOutputCallRequest(response_status=status)])
    try:
        list(stub.FullDuplexCall(requests, timeout=CASE_TIMEOUT))
    except grpc.RpcError as error:
        want_status(error, grpc.StatusCode.UNKNOWN, status.message)
    else:
        raise CaseFailedError("the full duplex call succeeded")


def special_status_message(stub: Stub) -> None:
    status = pb.EchoStatus(code=UNKNOWN, message=SPECIAL_MESSAGE)
    try:
        stub.UnaryCall(pb.SimpleRequest(response_status=status), timeout=CASE_TIMEOUT)
    except grpc.RpcError as error:
        want_status(error, grpc.StatusCode.UNKNOWN, SPECIAL_MESSAGE)
    else:
        raise CaseFailedError("the call succeeded")


def want_unimplemented(method: Callable[..., Any]) -> None:
    try:
        method(pb.Empty(), timeout=CASE_TIMEOUT)
    except grpc.RpcError as error:
        want_status(error, grpc.StatusCode.UNIMPLEMENTED)
    else:
        raise CaseFailedError("the call succeeded")


def want_metadata(call: Any) -> None:
    want_equal("initial metadata", dict(call.initial_metadata()).get(INITIAL[0]), INITIAL[1])
    want_equal("trailing metadata", dict(call.trailing_metadata()).get(TRAILING[0]), TRAILING[1])


def custom_metadata(stub: Stub) -> None:
    metadata = (INITIAL, TRAILING)
    response, call = stub.UnaryCall.with_call(large_request(), metadata=metadata, timeout=CASE_TIMEOUT)
    want_large(response)
    want_metadata(call)
    requests = iter([stream_request(RESPONSE_SIZE, REQUEST_SIZE)])
    responses = stub.FullDuplexCall(requests, metadata=metadata, timeout=CASE_TIMEOUT)
    want_sizes(responses, [RESPONSE_SIZE])
    want_metadata(responses)


def client_compressed_unary(stub: Stub, probe: bool) -> None:
    if probe:
        request = large_request()
        request.expect_compressed.value = True
        try:
            stub.UnaryCall(request, timeout=CASE_TIMEOUT)
        except grpc.RpcError as error:
            want_status(error, grpc.StatusCode.INVALID_ARGUMENT)
        else:
            raise CaseFailedError(
                "the server took an uncompressed message where a compressed one was announced"
            )
    for compressed in (True, False):
        request = large_request()
        request.expect_compressed.value = compressed
        algorithm = grpc.Compression.Gzip if compressed else grpc.Compression.NoCompression
        want_large(stub.UnaryCall(request, compression=algorithm, timeout=CASE_TIMEOUT))


def client_compressed_streaming(stub: Stub) -> None:
    # C-core leaves a message as it is when compression would not make it smaller: no short ones here.
    sizes = (27182, 45904)
    requests = [
        pb.StreamingInputCallRequest(payload=payload(size), expect_compressed=pb.BoolValue(value=True))
        for size in sizes
    ]
    response = stub.StreamingInputCall(
        iter(requests), compression=grpc.Compression.Gzip, timeout=CASE_TIMEOUT
    )
    want_equal("aggregated size", response.aggregated_payload_size, sum(sizes))


def server_compressed_unary(stub: Stub) -> None:
    for compressed in (True, False):
        request = large_request()
        request.response_compressed.value = compressed
        want_large(stub.UnaryCall(request, timeout=CASE_TIMEOUT))


def server_compressed_streaming(stub: Stub) -> None:
    sizes = (31415, 92653)
    parameters = [
        pb.ResponseParameters(size=size, compressed=pb.BoolValue(value=compressed))
        for size, compressed in zip(sizes, (True, False), strict=True)
    ]
    request = pb.StreamingOutputCallRequest(response_parameters=parameters)
    want_sizes(stub.StreamingOutputCall(request, timeout=CASE_TIMEOUT), sizes)


def rpc_soak(stub: Stub, iterations: int = SOAK_ITERATIONS) -> None:
    for _ in range(iterations):
        large_unary(stub)


def concurrent_ping_pong(stub: Stub) -> None:
    """Not an official case: SOAK_ITERATIONS ping_pongs at once on one channel."""
    failures: list[Exception] = []

    def run() -> None:
        try:
            ping_pong(stub)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(SOAK_ITERATIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


CASES: dict[str, Callable[[Stub], None]] = {
    "empty_unary": empty_unary,
    "large_unary": large_unary,
    "client_streaming": client_streaming,
    "server_streaming": server_streaming,
    "ping_pong": ping_pong,
    "empty_stream": empty_stream,
    "timeout_on_sleeping_server": timeout_on_sleeping_server,
    "cancel_after_begin": cancel_after_begin,
    "cancel_after_first_response": cancel_after_first_response,
    "status_code_and_message": status_code_and_message,
    "special_status_message": special_status_message,
    "unimplemented_method": lambda stub: want_unimplemented(stub.UnimplementedCall),
    "custom_metadata": custom_metadata,
    "client_compressed_unary": lambda stub: client_compressed_unary(stub, probe=True),
    "client_compressed_unary_noprobe": lambda stub: client_compressed_unary(stub, probe=False),
    "client_compressed_streaming_noprobe": client_compressed_streaming,
    "server_compressed_unary": server_compressed_unary,
    "server_compressed_streaming": server_compressed_streaming,
    "rpc_soak": rpc_soak,
    "concurrent_ping_pong": concurrent_ping_pong,
}


def run_case(name: str, address: str, soak_iterations: int) -> None:
    """Runs one case. Raises CaseFailedError, grpc.RpcError or StopIteration (a stream that ended early)."""
    if name == "channel_soak":
        for _ in range(soak_iterations):
            with grpc.insecure_channel(address) as channel:
                large_unary(pb_grpc.TestServiceStub(channel))
        return
    with grpc.insecure_channel(address) as channel:
        if name == "unimplemented_service":
            want_unimplemented(pb_grpc.UnimplementedServiceStub(channel).UnimplementedCall)
        elif name == "rpc_soak":
            rpc_soak(pb_grpc.TestServiceStub(channel), soak_iterations)
        else:
            CASES[name](pb_grpc.TestServiceStub(channel))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--server_host", default="127.0.0.1")
    parser.add_argument("--server_port", type=int, required=True)
    parser.add_argument(
        "--test_case", required=True, choices=[*CASES, "channel_soak", "unimplemented_service"]
    )
    parser.add_argument("--soak_iterations", type=int, default=SOAK_ITERATIONS)
    arguments = parser.parse_args()
    address = f"{arguments.server_host}:{arguments.server_port}"
    started = time.monotonic()
    try:
        run_case(arguments.test_case, address, arguments.soak_iterations)
    except (CaseFailedError, grpc.RpcError, StopIteration) as error:
        took = time.monotonic() - started
        print(
            f"{arguments.test_case} failed after {took:.2f} s: {type(error).__name__}: {error}",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
