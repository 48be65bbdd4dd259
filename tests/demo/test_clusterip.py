"""The stand-in for a ClusterIP must do what makes gRPC uneven: one pick per TCP connection."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

from demolib.clusterip import ClusterIP
from freeports import free_port


async def _named_backend(name: bytes) -> tuple[asyncio.Server, tuple[str, int]]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(name + b" " + line)
        writer.write(name + b" saw the end\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    return server, (host, port)


def test_a_connection_keeps_its_backend_and_connections_are_spread() -> None:
    async def scene() -> list[set[bytes]]:
        backends = [await _named_backend(name) for name in (b"a", b"b", b"c")]
        relay = ClusterIP([address for _, address in backends], random.Random(1))
        port = free_port()
        await relay.start("127.0.0.1", port)
        seen = []
        for _ in range(60):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            names = set()
            for number in range(5):
                writer.write(b"%d\n" % number)
                name, echoed = (await reader.readline()).split()
                assert echoed == b"%d" % number
                names.add(name)
            writer.write_eof()  # half-closed, the answer to it still comes back
            assert (await reader.readline()).endswith(b" saw the end\n")
            writer.close()
            seen.append(names)
        assert relay.connections == 60
        await relay.close()
        for server, _ in backends:
            server.close()
        return seen

    seen = asyncio.run(scene())
    assert all(len(names) == 1 for names in seen)
    spread = Counter(name for names in seen for name in names)
    assert set(spread) == {b"a", b"b", b"c"}


def test_no_backend_ends_the_connection() -> None:
    async def scene() -> bytes:
        relay = ClusterIP([("127.0.0.1", free_port())], random.Random(1))
        port = free_port()
        await relay.start("127.0.0.1", port)
        reader, _ = await asyncio.open_connection("127.0.0.1", port)
        data = await asyncio.wait_for(reader.read(), 10)
        await relay.close()
        return data

    assert asyncio.run(scene()) == b""
