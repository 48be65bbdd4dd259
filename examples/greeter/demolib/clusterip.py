"""A stand-in for a ClusterIP: like kube-proxy it picks a backend per TCP connection, and knows no HTTP/2.

This is what makes gRPC uneven: a channel keeps one connection, so all of its streams follow one pick.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence
from typing import Final

_READ_BYTES: Final = 65536  # one read; larger brings nothing on loopback


class ClusterIP:
    """Relays each accepted connection to one backend, picked at random as kube-proxy's iptables mode does."""

    def __init__(self, backends: Sequence[tuple[str, int]], choice: random.Random) -> None:
        self._backends = list(backends)
        self._choice = choice
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()
        self.connections = 0  # accepted so far

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises OSError if the address cannot be had."""
        self._server = await asyncio.start_server(self._accept, host, port)

    async def close(self) -> None:
        """Stop listening and end what is relayed."""
        if self._server is not None:
            self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.create_task(self._relay(reader, writer, self._choice.choice(self._backends)))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _relay(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, backend: tuple[str, int]
    ) -> None:
        writers = [writer]
        try:
            back_reader, back_writer = await asyncio.open_connection(*backend)
            writers.append(back_writer)
            await asyncio.gather(_pump(reader, back_writer), _pump(back_reader, writer))
        except OSError:
            pass  # either side broke: both ends are closed below, which is all a relay can say
        finally:
            for each in writers:
                each.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_READ_BYTES):
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()
