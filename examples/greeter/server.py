"""A greeter server on grpcio: all four kinds of call, one process, and an orderly end on SIGTERM.

    python server.py --listen 127.0.0.1:50051 --name greeter-1

On SIGTERM it stops accepting and sends GOAWAY at once, finishes what is in flight, and at the end of its
grace ends with OK the chats that are still open, so that no client sees an error because of a rollout.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import greeter_pb2 as pb
import greeter_pb2_grpc as pb_grpc
import grpc

SERVICE_NAME: Final = pb.DESCRIPTOR.services_by_name["Greeter"].full_name
DEFAULT_GRACE_S: Final = 10.0
# After the grace the chats have been told to end; what has not ended this much later is cancelled.
LAST_MARGIN_S: Final = 2.0
# A request for more replies than this is a mistake, not a greeting.
MAX_HELLOS: Final = 100_000

# One process for each address: with SO_REUSEPORT, grpcio's default, a second server would silently take
# half of the first one's connections instead of failing to start.
SERVER_OPTIONS: Final = (("grpc.so_reuseport", 0),)


class Greeter(pb_grpc.GreeterServicer):
    """The four calls. `grace_over` is set when open chats have to end."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.grace_over = asyncio.Event()

    def _reply(self, message: str, number: int) -> pb.HelloReply:
        return pb.HelloReply(message=message, server=self.name, number=number)

    async def SayHello(self, request: pb.HelloRequest, context: Any) -> pb.HelloReply:  # noqa: N802
        return self._reply(f"Hello, {request.name}!", 1)

    async def SayHellos(  # noqa: N802
        self, request: pb.HellosRequest, context: Any
    ) -> AsyncIterator[pb.HelloReply]:
        if request.count > MAX_HELLOS:
            allowed = f"count: {request.count} is not allowed; at most {MAX_HELLOS}"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, allowed)
        for number in range(1, request.count + 1):
            yield self._reply(f"Hello, {request.name}!", number)

    async def GatherHellos(  # noqa: N802
        self,
        requests: AsyncIterator[pb.HelloRequest],
        context: Any,
    ) -> pb.HelloReply:
        names = [request.name async for request in requests]
        return self._reply(f"Hello, {', '.join(names)}!", len(names))

    async def Chat(self, requests: AsyncIterator[pb.HelloRequest], context: Any) -> None:  # noqa: N802
        """Ends with OK when the client has no more to say, or when the grace is over."""
        # The first reply tells the client which server holds the stream, before it has said anything.
        await context.write(self._reply("Welcome!", 0))
        number = 0
        over = asyncio.ensure_future(self.grace_over.wait())
        reading = asyncio.ensure_future(context.read())
        try:
            while True:
                await asyncio.wait({reading, over}, return_when=asyncio.FIRST_COMPLETED)
                if not reading.done():
                    return
                request = reading.result()
                if request is grpc.aio.EOF:
                    return
                number += 1
                await context.write(self._reply(f"Hello, {request.name}!", number))
                reading = asyncio.ensure_future(context.read())
        finally:
            reading.cancel()
            over.cancel()


class Health:
    """grpc.health.v1.Health/Check, written out: a kubelet's grpc probe needs no more, and the image needs
    no package for it. Field 1 of the request is the service's name, field 1 of the reply the status
    (https://github.com/grpc/grpc/blob/master/doc/health-checking.md)."""

    SERVING: Final = b"\x08\x01"
    NOT_SERVING: Final = b"\x08\x02"

    def __init__(self) -> None:
        self.serving = True

    async def _check(self, request: bytes, context: Any) -> bytes:
        named = SERVICE_NAME.encode()
        if request not in (b"", b"\x0a" + bytes([len(named)]) + named):
            await context.abort(grpc.StatusCode.NOT_FOUND, f"unknown service; known: {SERVICE_NAME}")
        return self.SERVING if self.serving else self.NOT_SERVING

    def handler(self) -> Any:
        check = grpc.unary_unary_rpc_method_handler(self._check)  # no serializers: bytes as they are
        return grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": check})


async def serve(listen: str, name: str, grace: float) -> None:
    """Run until SIGTERM or SIGINT, then end in order. Raises RuntimeError if `listen` cannot be bound."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)

    server = grpc.aio.server(options=SERVER_OPTIONS)
    port = server.add_insecure_port(listen)
    host = listen.rpartition(":")[0]
    greeter = Greeter(name or f"{socket.gethostname()}:{port}")
    health = Health()
    pb_grpc.add_GreeterServicer_to_server(greeter, server)
    server.add_generic_rpc_handlers((health.handler(),))
    await server.start()
    print(f"{greeter.name} listens on {host}:{port}", flush=True)

    await stopping.wait()
    print(f"{greeter.name} stops: no new calls, at most {grace:g} s for those in flight", flush=True)
    health.serving = False
    loop.call_later(grace, greeter.grace_over.set)
    await server.stop(grace + LAST_MARGIN_S)
    print(f"{greeter.name} stopped", flush=True)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A greeter server for Evenstream's examples.")
    parser.add_argument(
        "--listen", default="127.0.0.1:50051", metavar="ADDRESS:PORT", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--name",
        default=os.environ.get("POD_NAME", ""),
        help="the name in every reply (default: $POD_NAME, else hostname:port)",
    )
    parser.add_argument(
        "--grace",
        type=float,
        default=DEFAULT_GRACE_S,
        metavar="SECONDS",
        help="how long calls in flight may take after SIGTERM (default: %(default)g)",
    )
    arguments = parser.parse_args(argv)
    if arguments.grace < 0:
        parser.error(f"--grace: {arguments.grace:g} is not allowed; allowed: 0 or more seconds")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(serve(arguments.listen, arguments.name, arguments.grace))
    except RuntimeError as error:
        raise SystemExit(f"server.py: --listen {arguments.listen}: {error}") from None
    return 0


if __name__ == "__main__":
    main()
