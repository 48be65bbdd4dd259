"""`python -m sidecar.gate` against a real sidecar, and against answers that no sidecar gives."""

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from freeports import free_port

DEADLINE_SECONDS = 60.0


def _gate(port: int, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sidecar.gate", f"--port={port}", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def _ended(gate: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = gate.communicate(timeout=DEADLINE_SECONDS)
    return gate.returncode, said


@contextmanager
def _sidecar(folder: Path, admin: int, listen: int) -> Iterator[None]:
    objects = folder / "objects.json"
    objects.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": []}))
    flags = [
        f"--source=file:{objects}",
        f"--admin=127.0.0.1:{admin}",
        f"--listen=127.64.0.1:{listen}=greeter:50051",
    ]
    process = subprocess.Popen([sys.executable, "-m", "sidecar", *flags], stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait(10)


def test_it_holds_back_until_the_sidecar_takes_connections(tmp_path: Path):
    admin, listen = free_port(), free_port()
    gate = _gate(admin, "--up=60")
    with _sidecar(tmp_path, admin, listen):
        assert _ended(gate) == (0, "")
        # What it held back can call the Service's own loopback address at once.
        socket.create_connection(("127.64.0.1", listen), timeout=DEADLINE_SECONDS).close()


def test_the_end_waits_for_the_applications_connections(tmp_path: Path):
    admin, listen = free_port(), free_port()
    with _sidecar(tmp_path, admin, listen):
        assert _ended(_gate(admin, "--up=60"))[0] == 0
        with socket.create_connection(("127.64.0.1", listen), timeout=DEADLINE_SECONDS):
            # Without it the gate ends after one idle second; with it, only when its time is over.
            started = time.monotonic()
            assert _ended(_gate(admin, "--idle=3")) == (0, "")
            assert time.monotonic() - started >= 3
        assert _ended(_gate(admin, "--idle=60")) == (0, "")


def test_a_sidecar_that_does_not_come_is_an_error():
    port = free_port()
    said = f"evenstream gate: no answer on 127.0.0.1 port {port} in 1 s\n"
    assert _ended(_gate(port, "--up=1")) == (1, said)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"connections": 5}', b'{"connections": {"open": null}}']
)
def test_a_status_without_sense_holds_nothing_up(body: bytes):
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert _ended(_gate(server.server_port, "--idle=60")) == (0, "")
        server.shutdown()


def test_a_sidecar_that_is_gone_holds_nothing_up():
    assert _ended(_gate(free_port(), "--idle=60")) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "one of the arguments --up --idle is required"),
        (("--up=0",), "'0' is not allowed; allowed: whole seconds from 1 to 3600"),
        (("--idle=soon",), "'soon' is not allowed"),
        (("--up=1", "--idle=1"), "not allowed with argument"),
    ],
)
def test_a_bad_flag_is_one_line_and_exit_2(arguments: tuple[str, ...], says: str):
    done = subprocess.run(
        [sys.executable, "-m", "sidecar.gate", *arguments],
        capture_output=True,
        text=True,
        env=dict(os.environ),
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert says in done.stderr
