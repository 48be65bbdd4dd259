"""A real gRPC server for the hostile tests: grpcio, with messages of plain octets.

Prints its port. Echo answers with what it got; Hang never answers; Large streams as many messages of 64 KiB as the
request says in decimal; Swallow takes a stream of messages and answers with their sum of octets.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc


async def echo(request: bytes, context: Any) -> bytes:
    return request


async def hang(request: bytes, context: Any) -> bytes:
    await asyncio.Event().wait()
    return b""


async def large(request: bytes, context: Any) -> AsyncIterator[bytes]:
    for _ in range(int(request)):
        yield bytes(65536)


async def swallow(requests: AsyncIterator[bytes], context: Any) -> bytes:
    return str(sum([len(request) async for request in requests])).encode()


# It takes what comes: what is tried here is who stands in front of it.
OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_metadata_size", 1 << 20),
    ("grpc.absolute_max_metadata_size", 1 << 20),
    ("grpc.server.max_pending_requests", 1 << 20),
    ("grpc.server.max_pending_requests_hard_limit", 1 << 20),
    ("grpc.max_concurrent_streams", 1 << 20),
)
HANDLERS = {
    "Echo": grpc.unary_unary_rpc_method_handler(echo),
    "Hang": grpc.unary_unary_rpc_method_handler(hang),
    "Large": grpc.unary_stream_rpc_method_handler(large),
    "Swallow": grpc.stream_unary_rpc_method_handler(swallow),
}


async def main() -> None:
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Hostile", HANDLERS),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await server.wait_for_termination()


asyncio.run(main())
