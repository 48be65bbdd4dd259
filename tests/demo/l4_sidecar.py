"""Takes the sidecar's flags, and balances nothing: a relay that picks an endpoint per connection. The demo
must find out."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "greeter"))
from demolib.clusterip import ClusterIP


async def main() -> None:
    parser = argparse.ArgumentParser()
    for flag in ("--source", "--listen", "--admin"):
        parser.add_argument(flag, required=True)
    arguments = parser.parse_args()
    endpoint_slice = json.loads(Path(arguments.source.removeprefix("file:")).read_text())["items"][1]
    port = endpoint_slice["ports"][0]["port"]
    relay = ClusterIP([(each["addresses"][0], port) for each in endpoint_slice["endpoints"]], random.Random())
    host, _, number = arguments.listen.partition("=")[0].rpartition(":")
    await relay.start(host, int(number))

    async def ready(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        writer.close()

    admin_host, _, admin_port = arguments.admin.rpartition(":")
    await asyncio.start_server(ready, admin_host, int(admin_port))
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    await stopping.wait()
    await relay.close()


asyncio.run(main())
