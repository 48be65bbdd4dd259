"""A sidecar as a process, backends of every kind on loopback addresses, and clients: all over real sockets."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from freeports import free_port

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 30.0  # what takes milliseconds is given so long; the machine may be busy
SERVICE = "greeter.default:50051"
UNARY, CHAT = "/test.Test/Unary", "/test.Test/Chat"


def wait_for(what: str, condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """The condition's first true value. AssertionError when it takes too long."""
    until = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < until, f"not within {seconds} s: {what}"
        time.sleep(0.01)


def loopback() -> str:
    """An address of this test's own: backends share a port and differ by address, as pods do."""
    return f"127.{random.randrange(64, 255)}.{random.randrange(1, 255)}.{random.randrange(1, 250)}"


class EndpointsFile:
    """The source's file, as `kubectl get svc,endpointslices -o json` prints it."""

    def __init__(self, folder: Path, port: int) -> None:
        self.path = folder / "endpoints.json"
        self.port = port

    def write(self, hosts: Sequence[str], **conditions: bool) -> None:
        service = {
            "kind": "Service",
            "metadata": {"name": "greeter", "namespace": "default"},
            "spec": {"clusterIP": "10.96.0.10", "ports": [{"name": "grpc", "port": 50051}]},
        }
        one = {
            "kind": "EndpointSlice",
            "metadata": {
                "name": "greeter-a",
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": "greeter"},
            },
            "addressType": "IPv4",
            "ports": [{"name": "grpc", "port": self.port}],
            "endpoints": [{"addresses": [host], "conditions": conditions} for host in hosts],
        }
        beside = self.path.with_suffix(".new")
        beside.write_text(json.dumps({"kind": "List", "items": [service, one]}))
        beside.replace(self.path)


class SidecarProcess:
    """`python -m sidecar` with one listener. `listen` None: it makes none."""

    def __init__(self, folder: Path, *arguments: str, env: dict[str, str] | None = None) -> None:
        self.port, self.admin = free_port(), free_port()
        self.log = folder / f"sidecar-{self.admin}.log"
        self.arguments = [
            *(sys.executable, "-m", "sidecar", "--admin", f"127.0.0.1:{self.admin}"),
            *("--listen", f"127.0.0.1:{self.port}=greeter.default:50051"),
            *arguments,
        ]
        self.env = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
        self.started_at = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.arguments, cwd=ROOT, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def get(self, path: str, method: str = "GET") -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=5)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def answers(self, path: str) -> bool:
        assert self.process.poll() is None, f"the sidecar ended:\n{self.text()}"
        with contextlib.suppress(OSError):
            return self.get(path)[0] == 200
        return False

    def ready(self, seconds: float = PATIENCE) -> SidecarProcess:
        wait_for("the sidecar is ready", lambda: self.answers("/readyz"), seconds)
        return self

    def status(self) -> dict[str, Any]:
        return json.loads(self.get("/status")[1])  # type: ignore[no-any-return]

    def service(self) -> dict[str, Any]:
        (found,) = self.status()["services"]
        return found  # type: ignore[no-any-return]

    def endpoint(self, host: str) -> dict[str, Any]:
        """The newest of that address (one that left and came back may stand there twice)."""
        found = [e for e in self.service()["endpoints"] if e["address"].startswith(f"{host}:")]
        return found[0] if found else {}

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def end(self, number: int = signal.SIGTERM, seconds: float = PATIENCE) -> int:
        """The exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(seconds)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)


class Grpc:
    """A grpcio server that counts. Unary answers who it is; Chat answers each message until the client ends."""

    def __init__(self, host: str, port: int, takes: float = 0.0, fails: str = "") -> None:
        """`takes`: seconds that a Unary call takes. `fails`: it ends with NOT_FOUND and this message."""
        self.host, self.port = host, port
        self.takes = takes
        self.fails = fails
        self.metadata: dict[str, str | bytes] = {}  # of the last Unary call
        self.begun = 0
        self.hold = threading.Event()
        self.hold.set()  # cleared: Unary calls wait
        self._lock = threading.Lock()
        self._server = grpc.server(ThreadPoolExecutor(80), options=[("grpc.so_reuseport", 0)])
        unary = grpc.unary_unary_rpc_method_handler(self._unary)
        chat = grpc.stream_stream_rpc_method_handler(self._chat)
        methods = {"Unary": unary, "Chat": chat}
        self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Test", methods)])
        assert self._server.add_insecure_port(f"{host}:{port}") == port
        self._server.start()

    def _count(self) -> None:
        with self._lock:
            self.begun += 1

    def _unary(self, request: bytes, context: Any) -> bytes:
        self._count()
        self.hold.wait(60)
        time.sleep(self.takes)
        self.metadata = dict(context.invocation_metadata())
        if self.fails:
            context.abort(grpc.StatusCode.NOT_FOUND, self.fails)
        return self.host.encode()

    def _chat(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        self._count()
        yield self.host.encode()
        for _ in requests:
            yield self.host.encode()

    def stop(self, grace: float | None = None) -> None:
        self._server.stop(grace).wait(PATIENCE)


class Raw:
    """A TCP listener whose connections are dealt with by `behave`, each on a thread of its own."""

    def __init__(self, host: str, port: int, behave: Callable[[socket.socket], None]) -> None:
        self.host = host
        self.accepted: list[float] = []  # monotonic times
        self._behave = behave
        self._kept: list[socket.socket] = []
        self._listener = socket.create_server((host, port))
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                taken, _ = self._listener.accept()
                self.accepted.append(time.monotonic())
                self._kept.append(taken)
                self._behave(taken)

    def stop(self) -> None:
        self._listener.close()
        for each in self._kept:
            each.close()


def mute(taken: socket.socket) -> None:
    """Accepts, and never says SETTINGS."""


def reset(taken: socket.socket) -> None:
    """RST instead of FIN."""
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    taken.close()


class FullQueue:
    """A listener whose accept queue is full: the kernel drops what else comes."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((host, port))
        self._listener.listen(0)
        self._fill = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex((host, port))
            self._fill.append(filler)
        self.accepted: list[float] = []

    def stop(self) -> None:
        for each in [self._listener, *self._fill]:
            each.close()


class Caller:
    """A gRPC client of the sidecar. Outcomes are (code name, who answered or why not, seconds)."""

    def __init__(self, port: int) -> None:
        options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=options)
        self._unary = self.channel.unary_unary(UNARY)
        self._chat = self.channel.stream_stream(CHAT)

    def call(self, timeout: float = 20.0) -> tuple[str, str, float]:
        began = time.monotonic()
        try:
            who = self._unary(b"hello", timeout=timeout)
        except grpc.RpcError as error:
            return error.code().name, error.details(), time.monotonic() - began
        return "OK", who.decode(), time.monotonic() - began

    def chat(self) -> Chat:
        return Chat(self._chat)

    def close(self) -> None:
        self.channel.close()


class Chat:
    """A long-lived bidirectional stream."""

    def __init__(self, method: Any) -> None:
        self._go = threading.Event()
        self._end = threading.Event()
        self._call = method(self._messages())
        self.host = next(self._call).decode()
        self.ended_at = 0.0
        self.code = ""
        threading.Thread(target=self._read, daemon=True).start()

    def _messages(self) -> Iterator[bytes]:
        while not self._end.wait(0.5):
            yield b"still here"

    def _read(self) -> None:
        try:
            for _ in self._call:
                pass
            self.code = "OK"
        except grpc.RpcError as error:
            self.code = error.code().name
        self.ended_at = time.monotonic()

    def finish(self) -> str:
        """The client ends its side; the outcome."""
        self._end.set()
        wait_for("the stream's end", lambda: self.code)
        return self.code
