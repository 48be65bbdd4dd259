"""`python -m sidecar` while it runs: what it says of itself, what it puts up with, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from freeports import free_port
from programs import Server, run_client, start_client, until
from sidecar_program import ROOT, SERVICE, EndpointsFile, Sidecar, environment

Start = Callable[..., Sidecar]
CALLS = ("burst", "--calls", "20", "--json")


def listening(endpoints: EndpointsFile) -> tuple[list[str], str]:
    """Arguments for one listener, and where it is."""
    target = f"127.0.0.1:{free_port()}"
    return ["--source", endpoints.source, "--listen", f"{target}={SERVICE}"], target


def calls_succeed(target: str) -> None:
    done = run_client(target, *CALLS)
    assert done.returncode == 0, done.stdout + done.stderr


def kind() -> str:
    return "interpreted" if os.environ.get("EVENSTREAM_BUILD") == "interpreted" else "compiled"


def test_the_start_is_logged_in_one_line_that_says_all(start: Start, endpoints: EndpointsFile) -> None:
    arguments, target = listening(endpoints)
    sidecar = start(*arguments)
    line = sidecar.until_logged("evenstream sidecar")
    for part in (f"({kind()})", f"source {endpoints.source}", f"listeners {target}={SERVICE}", "capture off"):
        assert part in line
    assert f"admin 127.0.0.1:{sidecar.admin}" in line
    sidecar.until_ready()
    assert sidecar.status()["build"]["build"] == kind()
    assert sidecar.metric(_build_info(sidecar)) == 1
    assert len(sidecar.logged(r"greeter\.default:50051: 1 endpoints from file")) == 1


@pytest.mark.once
def test_a_variable_of_a_newer_injector_is_told_once_and_ignored(
    start: Start, endpoints: EndpointsFile
) -> None:
    arguments, _ = listening(endpoints)
    sidecar = start(*arguments, EVENSTREAM_RETRIES="3", EVENSTREAM_LOG_LEVEL="warning")
    sidecar.until_ready()
    line = sidecar.until_logged("not known to this version")
    assert line.endswith(": EVENSTREAM_RETRIES")
    assert sidecar.logged("EVENSTREAM") == [line]


def _build_info(sidecar: Sidecar) -> str:
    (line,) = [x for x in sidecar.ask("/metrics")[1].splitlines() if x.startswith("evenstream_build_info{")]
    assert f'build="{kind()}"' in line
    return line.rpartition(" ")[0]


@pytest.mark.once
@pytest.mark.parametrize("build", ["compiled", "interpreted"])
def test_a_variable_chooses_the_build(start: Start, endpoints: EndpointsFile, build: str) -> None:
    sidecar = start("--source", endpoints.source, EVENSTREAM_BUILD=build)
    assert f"({build})" in sidecar.until_logged("evenstream sidecar")
    sidecar.until_ready()
    assert sidecar.status()["build"]["build"] == build


@pytest.mark.once
def test_compiled_is_refused_where_nothing_is_compiled(tmp_path: Path) -> None:
    """A copy of the sources alone, as EVENSTREAM_COMPILE=0 installs them."""
    for package in ("sidecar", "contract"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("*.so"))
    for wanted, code, said in (("compiled", 2, "'compiled' is not to be had"), ("", 1, "cannot listen on")):
        done = subprocess.run(
            # 192.0.2.1 is nobody's: without a fault of its own the start gets as far as its ports.
            [sys.executable, "-m", "sidecar", "--source=file:/x", "--admin=192.0.2.1:15020"],
            cwd=tmp_path,
            env=environment({"EVENSTREAM_BUILD": wanted}),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, done.stderr
        assert said in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.once
def test_the_log_can_be_json(start: Start, endpoints: EndpointsFile) -> None:
    sidecar = start("--source", endpoints.source, "--log-format=json", f"--services={SERVICE}")
    sidecar.until_ready()
    sidecar.signal(signal.SIGTERM)
    assert sidecar.wait() == 0
    records = [json.loads(line) for line in sidecar.lines]
    assert {"time", "level", "logger", "message"} <= set(records[0])
    assert "evenstream sidecar" in records[0]["message"]


# A bad file --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "not JSON"),
        ("", "not JSON"),
        ('{"kind": "Service"}', "it must be a List with items"),
        ('{"kind": "List", "items": [7]}', r"items\[0\] is 7; it must be an object"),
        (
            '{"kind": "List", "items": [{"kind": "Service", "metadata": {"name": 5}}]}',
            "metadata.name|namespace",
        ),
    ],
)
def test_a_bad_file_keeps_the_last_good_one(
    start: Start, endpoints: EndpointsFile, text: str, why: str
) -> None:
    """Calls go on, one line says what is wrong, a metric counts it; and a good file is taken again."""
    arguments, target = listening(endpoints)
    sidecar = start(*arguments)
    sidecar.until_ready()
    malformed = 'evenstream_source_events_total{event="malformed"}'
    loads = 'evenstream_source_events_total{event="loads"}'
    assert sidecar.metric(malformed) == 0
    good = endpoints.path.read_text()

    endpoints.write_text(text)
    until(lambda: sidecar.metric(malformed) == 1, "the bad file is counted")
    calls_succeed(target)
    source = sidecar.status()["source"]
    assert source["state"] == "stale"
    assert source["last_error"]
    assert [each["address"] for each in sidecar.status()["services"][0]["endpoints"]]
    line = sidecar.until_logged("the last good one stays in force")
    assert str(endpoints.path) in line

    endpoints.write_text(good)
    until(lambda: sidecar.status()["source"]["state"] == "live", "the good file is in force")
    assert sidecar.metric(malformed) == 1
    assert sidecar.metric(loads) == 2
    assert len(sidecar.logged("WARNING|ERROR")) == 1
    assert sidecar.logged(why), sidecar.lines
    calls_succeed(target)


def test_a_file_that_comes_later_is_taken_then(start: Start, endpoints: EndpointsFile) -> None:
    good = endpoints.path.read_text()
    endpoints.path.unlink()
    arguments, target = listening(endpoints)
    sidecar = start(*arguments)
    sidecar.until_logged("No such file or directory; no endpoints yet")
    endpoints.write_text(good)
    sidecar.until_logged(r"greeter\.default:50051: 1 endpoints from file")
    calls_succeed(target)
    assert len(sidecar.logged("WARNING|ERROR")) == 1


# Garbage -----------------------------------------------------------------------------------------------------

GARBAGE = {
    "random": bytes(range(256)) * 40,
    "http1": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500,
    "after the preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 5000,
    "half a preface": b"PRI * HTTP/2.0\r\n",
    "nothing": b"",
}


def end_of(host: str, port: int, garbage: bytes) -> None:
    """Send it, send no more, and read until the other side is done with it too."""
    with (
        socket.create_connection((host, port), timeout=20) as sock,
        # It may be over before all is sent; a TimeoutError is not suppressed.
        contextlib.suppress(ConnectionResetError, BrokenPipeError),
    ):
        sock.sendall(garbage)
        with contextlib.suppress(OSError):  # the same, told another way
            sock.shutdown(socket.SHUT_WR)
        while sock.recv(65536):
            pass


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_ends_its_own_connection_and_nothing_else(
    start: Start, endpoints: EndpointsFile, greeter: Server, name: str
) -> None:
    arguments, target = listening(endpoints)
    capture = free_port()
    sidecar = start(*arguments, "--capture", str(capture))
    sidecar.until_ready()
    # Long streams on a channel of their own, open all the time.
    client = start_client(target, "streams", "--count", "3", "--json", "--report", "0.1", "--control")
    try:
        until(lambda: sidecar.status()["services"][0]["endpoints"][0]["open_streams"] == 3, "3 open streams")
        for port in (int(target.rpartition(":")[2]), sidecar.admin, capture):
            end_of("127.0.0.1", port, GARBAGE[name])
        calls_succeed(target)
        # The last caller's process is gone; that its connection is, the sidecar may hear a moment later.
        until(
            lambda: sidecar.status()["connections"]["open"] == 1, "only the long streams' connection is open"
        )
        assert sidecar.status()["services"][0]["endpoints"][0]["open_streams"] == 3
        out, errors = client.communicate(timeout=30)  # its input ends, so it does
        assert client.returncode == 0, out + errors
    finally:
        client.kill()
    assert sidecar.process.poll() is None
    assert not sidecar.logged("Traceback|ERROR")


# The end -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(start: Start, endpoints: EndpointsFile, number: signal.Signals) -> None:
    arguments, target = listening(endpoints)
    sidecar = start(*arguments)
    sidecar.until_ready()
    calls_succeed(target)
    sidecar.signal(number)
    assert sidecar.wait() == 0
    assert len(sidecar.logged("draining: 0 open streams")) == 1
    assert len(sidecar.logged("drained: 0 streams left")) == 1
    assert not sidecar.logged("Traceback|WARNING|ERROR")
    assert sidecar.process.stdout is not None
    assert sidecar.process.stdout.read() == ""


def test_a_signal_before_anything_is_known_ends_it_too(start: Start, endpoints: EndpointsFile) -> None:
    endpoints.path.unlink()
    sidecar = start(*listening(endpoints)[0])
    sidecar.until_logged("no endpoints yet")
    sidecar.signal(signal.SIGTERM)
    assert sidecar.wait() == 0


def test_open_streams_are_waited_for(start: Start, endpoints: EndpointsFile) -> None:
    arguments, target = listening(endpoints)
    sidecar = start(*arguments)
    sidecar.until_ready()
    client = start_client(target, "streams", "--count", "2", "--json", "--report", "0.1", "--control")
    try:
        until(lambda: sidecar.status()["services"][0]["endpoints"][0]["open_streams"] == 2, "2 open streams")
        sidecar.signal(signal.SIGTERM)
        sidecar.until_logged("draining: 2 open streams")
        until(lambda: sidecar.ask("/readyz")[0] == 503, "it is not ready any more")
        assert sidecar.status()["state"] == "draining"
        out, errors = client.communicate(timeout=30)
        assert client.returncode == 0, out + errors
        assert sidecar.wait() == 0
        assert sidecar.logged("drained: 0 streams left")
    finally:
        client.kill()


def test_a_second_signal_does_not_wait(start: Start, endpoints: EndpointsFile) -> None:
    arguments, target = listening(endpoints)
    sidecar = start(*arguments)
    sidecar.until_ready()
    client = start_client(target, "streams", "--count", "2", "--json", "--control")
    try:
        until(lambda: sidecar.status()["services"][0]["endpoints"][0]["open_streams"] == 2, "2 open streams")
        sidecar.signal(signal.SIGTERM)
        sidecar.until_logged("draining: 2 open streams")
        sidecar.signal(signal.SIGTERM)
        assert sidecar.wait() == 0
        assert not sidecar.logged("Traceback")
    finally:
        client.kill()
        client.wait()
