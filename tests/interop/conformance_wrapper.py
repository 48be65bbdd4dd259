"""A program under test of connectconformance with a sidecar at its side.

    conformance_wrapper.py server FOLDER PROGRAM...    servers, and the sidecar that clients dial instead of them
    conformance_wrapper.py client FOLDER PROGRAM...    a client that dials a sidecar instead of the server

The runner and what it tests speak through standard input and output: messages with 4 bytes of length before
each (docs/testing_servers.md and testing_clients.md of connectrpc.com/conformance). The messages pass as they
are but for the address in them. Each sidecar has a folder of its own in FOLDER: its log, and
the streams that each endpoint took (streams.json).
"""

from __future__ import annotations

import contextlib
import json
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Final

sys.path.insert(0, str(Path(__file__).parent))

import interop_programs as programs
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

LENGTH: Final = struct.Struct(">I")
# The runner ends what it started by SIGTERM and kills it 5 s later.
STOP_TIMEOUT: Final = 2.0


def address_message(name: str, host: int, port: int) -> type[Message]:
    """A message of which only an address is known, by its fields' numbers; the other fields stay as they are."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{name}.proto", syntax="proto3")
    message = file.message_type.add(name=name)
    field = descriptor_pb2.FieldDescriptorProto
    message.field.add(name="host", number=host, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    message.field.add(name="port", number=port, type=field.TYPE_UINT32, label=field.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


# connectrpc/conformance/v1/server_compat.proto and client_compat.proto
ServerCompatResponse: Final = address_message("ServerCompatResponse", host=1, port=2)
ClientCompatRequest: Final = address_message("ClientCompatRequest", host=6, port=7)


def read(stream: IO[bytes]) -> bytes | None:
    """The next message; None at the end."""
    size = stream.read(LENGTH.size)
    if len(size) < LENGTH.size:
        return None
    return stream.read(LENGTH.unpack(size)[0])


def write(stream: IO[bytes], message: bytes) -> None:
    stream.write(LENGTH.pack(len(message)) + message)
    stream.flush()


class Sidecars:
    """A sidecar for each set of servers, started when it is first asked for."""

    def __init__(self, folder: Path, running: contextlib.ExitStack) -> None:
        self._folder = folder
        self._running = running
        self._ports: dict[tuple[int, ...], int] = {}

    def before(self, ports: Sequence[int]) -> int:
        """The port of the sidecar whose endpoints these are."""
        key = tuple(ports)
        if key not in self._ports:
            folder = self._folder / f"sidecar-{key[0]}"
            folder.mkdir()
            sidecar = self._running.enter_context(programs.sidecar(ports, folder))
            # What it carried, for those who check that it stood between at all.
            self._running.callback(
                lambda: (folder / "streams.json").write_text(json.dumps(sidecar.streams_per_endpoint()))
            )
            self._ports[key] = sidecar.port
        return self._ports[key]


@contextlib.contextmanager
def started(command: Sequence[str], stdout: int | None) -> Iterator[subprocess.Popen[bytes]]:
    """The program, its input ours to write; ended at the end."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=stdout) as program:
        try:
            yield program
        finally:
            program.terminate()
            try:
                program.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                program.kill()


def serve(command: Sequence[str], sidecars: Sidecars, running: contextlib.ExitStack) -> None:
    """Starts the servers with the request that the runner sends and tells it of the sidecar before them."""
    request = read(sys.stdin.buffer)
    assert request is not None
    servers = [running.enter_context(started(command, subprocess.PIPE)) for _ in range(programs.ENDPOINTS)]
    for server in servers:
        assert server.stdin is not None
        write(server.stdin, request)
        server.stdin.close()
    ports = []
    for server in servers:
        assert server.stdout is not None
        answer = read(server.stdout)
        assert answer is not None
        response = ServerCompatResponse.FromString(answer)
        assert response.host in ("", programs.HOST)
        ports.append(response.port)
    response.port = sidecars.before(ports)
    write(sys.stdout.buffer, response.SerializeToString())
    for server in servers:
        server.wait()


def call(command: Sequence[str], sidecars: Sidecars, running: contextlib.ExitStack) -> None:
    """Hands each request to the client with a sidecar's address in it; its answers go straight to the runner."""
    client = running.enter_context(started(command, None))
    assert client.stdin is not None
    while (request := read(sys.stdin.buffer)) is not None:
        message = ClientCompatRequest.FromString(request)
        message.port = sidecars.before([message.port])
        write(client.stdin, message.SerializeToString())
    client.stdin.close()
    client.wait()


def interrupted(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


def main() -> None:
    role, folder, *command = sys.argv[1:]
    signal.signal(signal.SIGTERM, interrupted)
    with contextlib.ExitStack() as running:
        # Left before the servers are: the sidecar ends while they still serve.
        {"server": serve, "client": call}[role](command, Sidecars(Path(folder), running), running)


if __name__ == "__main__":
    main()
