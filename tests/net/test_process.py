"""The sidecar as a process: start, ports in use, SIGTERM, SIGKILL, and another in its place."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from freeports import free_port
from net_scene import (
    ROOT,
    Caller,
    EndpointsFile,
    Grpc,
    SidecarProcess,
    loopback,
    wait_for,
)


class Scene:
    """Two backends and the means to start sidecars that know them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        port = free_port()
        self.backends = [Grpc(loopback(), port) for _ in range(2)]
        self.file = EndpointsFile(folder, port)
        self.file.write([each.host for each in self.backends])
        self.sidecars: list[SidecarProcess] = []

    def sidecar(self, *arguments: str) -> SidecarProcess:
        made = SidecarProcess(self.folder, "--source", f"file:{self.file.path}", *arguments)
        self.sidecars.append(made)
        return made

    def stop(self) -> None:
        for each in self.sidecars:
            each.kill()
        for backend in self.backends:
            backend.stop()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.stop()


# --- start ---


def test_it_is_ready_with_its_listener_up_and_its_endpoints_known(scene: Scene) -> None:
    sidecar = scene.sidecar().ready()
    print(f"\nready {time.monotonic() - sidecar.started_at:.2f} s after it was started")
    assert Caller(sidecar.port).call()[0] == "OK"


IN_A_POD = {"KUBERNETES_SERVICE_PORT": "443"}


@pytest.mark.parametrize("api_server", ["refuses", "is silent"])
def test_without_an_api_server_it_is_ready_all_the_same(api_server: str, tmp_path: Path) -> None:
    """The fallback is in force: what is captured goes where it was going."""
    host = loopback()
    if api_server == "is silent":
        listener = socket.create_server((host, 443))  # takes connections and says nothing
    sidecar = SidecarProcess(tmp_path, env={**IN_A_POD, "KUBERNETES_SERVICE_HOST": host})
    try:
        wait_for("the listener", lambda: sidecar.answers("/livez"))
        up = time.monotonic()
        sidecar.ready()
        print(f"\nready {time.monotonic() - up:.2f} s after its ports were open")
        assert "not known yet" in sidecar.get("/readyz")[1]
        assert sidecar.status()["services"][0]["rung"] == "none"
        assert sidecar.end() == 0
    finally:
        sidecar.kill()
        if api_server == "is silent":
            listener.close()


def test_outside_of_a_pod_it_says_so_in_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sidecar", "--source", "kubernetes"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "name no API server" in line


# --- ports in use ---


@pytest.mark.parametrize("which", ["listen", "capture", "admin"])
def test_a_port_in_use_is_one_clear_line_and_exit_1(scene: Scene, which: str) -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    flags = {
        "listen": ["--listen", f"127.0.0.1:{port}=greeter.default:50051"],
        "capture": ["--capture", str(port)],
        "admin": ["--admin", f"127.0.0.1:{port}"],
    }
    done = subprocess.run(
        [
            *(sys.executable, "-m", "sidecar", "--source", f"file:{scene.file.path}"),
            *(["--admin", f"127.0.0.1:{free_port()}"] if which != "admin" else []),
            *flags[which],
        ],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    taken.close()
    assert done.returncode == 1
    assert (
        done.stderr == f"evenstream-sidecar: cannot listen on 127.0.0.1 port {port}: Address already in use\n"
    )


def test_a_second_sidecar_gets_no_share_of_the_first_ones_connections(scene: Scene) -> None:
    first = scene.sidecar().ready()
    second = subprocess.run(first.arguments, cwd=ROOT, env=first.env, capture_output=True, timeout=60)
    assert second.returncode == 1
    caller = Caller(first.port)
    assert {caller.call()[0] for _ in range(20)} == {"OK"}
    assert first.service()["streams_total"] == 20


# --- SIGTERM ---


GOAWAY = 7
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
NO_SETTINGS = b"\0\0\0\4\0\0\0\0\0"


def frames(sock: socket.socket) -> Iterator[tuple[int, bytes]]:
    """Type and payload of each frame as it comes."""
    sock.settimeout(30)
    data = b""
    while more := sock.recv(65536):
        data += more
        while len(data) >= 9 and len(data) >= 9 + int.from_bytes(data[:3], "big"):
            end = 9 + int.from_bytes(data[:3], "big")
            yield data[3], data[9:end]
            data = data[end:]


# The process is started and is told to end before there is a loop that could hear it.
TOLD_EARLY = """
import os, signal, sys
from contract import logs
from sidecar import __main__
logs.configure = lambda *settings: os.kill(os.getpid(), signal.SIGTERM)
raise SystemExit(__main__.main(sys.argv[1:]))
"""


@pytest.mark.once
def test_sigterm_while_it_starts_ends_it(scene: Scene) -> None:
    """As process 1 of a container it would not even be killed: the kernel drops what has no handler there."""
    command = [sys.executable, "-c", TOLD_EARLY, "--source", f"file:{scene.file.path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_sigterm_sends_goaway_at_once(scene: Scene) -> None:
    sidecar = scene.sidecar().ready()
    with socket.create_connection(("127.0.0.1", sidecar.port)) as sock:
        sock.sendall(PREFACE + NO_SETTINGS)
        incoming = frames(sock)
        next(incoming)
        before = time.monotonic()
        sidecar.process.send_signal(signal.SIGTERM)
        payload = next(payload for kind, payload in incoming if kind == GOAWAY)
        print(f"\nGOAWAY {(time.monotonic() - before) * 1000:.1f} ms after SIGTERM")
    assert payload[:8] == b"\x7f\xff\xff\xff\0\0\0\0"  # no stream is refused yet, and no error
    assert sidecar.process.wait(30) == 0


def test_streams_run_to_their_end_and_nothing_is_cut_before_it(scene: Scene) -> None:
    sidecar = scene.sidecar().ready()
    caller = Caller(sidecar.port)
    chats = [caller.chat() for _ in range(6)]
    for backend in scene.backends:
        backend.hold.clear()
    waiting = [_in_thread(caller) for _ in range(4)]
    wait_for("all streams are open", lambda: sum(b.begun for b in scene.backends) == 10)
    sidecar.process.send_signal(signal.SIGTERM)
    wait_for("it drains", lambda: sidecar.get("/readyz")[0] == 503)
    # An application on its way out may have calls to make still; so do others that come late.
    for backend in scene.backends:
        backend.hold.set()
    late = Caller(sidecar.port)
    assert [late.call()[0] for _ in range(5)] == ["OK"] * 5
    assert [outcome() for outcome in waiting] == ["OK"] * 4
    assert sidecar.process.poll() is None
    assert not any(chat.code for chat in chats)
    assert [chat.finish() for chat in chats] == ["OK"] * 6
    ended = time.monotonic()
    assert sidecar.process.wait(30) == 0
    print(f"\nended {time.monotonic() - ended:.2f} s after its last stream")
    assert "Traceback" not in sidecar.text()


def _in_thread(caller: Caller):  # type: ignore[no-untyped-def]
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(caller.call(timeout=60)[0]), daemon=True)
    thread.start()

    def outcome() -> str:
        thread.join()
        return found[0]

    return outcome


def test_an_idle_sidecar_ends_at_once(scene: Scene) -> None:
    sidecar = scene.sidecar().ready()
    before = time.monotonic()
    assert sidecar.end() == 0
    print(f"\nidle: ended {time.monotonic() - before:.2f} s after SIGTERM")


def test_what_outlasts_the_drain_timeout_is_cut_and_the_end_is_clean(scene: Scene) -> None:
    sidecar = scene.sidecar("--drain-timeout", "1").ready()
    caller = Caller(sidecar.port)
    chat = caller.chat()
    before = time.monotonic()
    assert sidecar.end() == 0
    assert time.monotonic() - before >= 1.0
    wait_for("the client's stream is over", lambda: chat.code)


def test_a_second_sigterm_ends_it_with_streams_open(scene: Scene) -> None:
    sidecar = scene.sidecar().ready()
    caller = Caller(sidecar.port)
    chat = caller.chat()
    sidecar.process.send_signal(signal.SIGTERM)
    wait_for("it drains", lambda: sidecar.get("/readyz")[0] == 503)
    assert sidecar.process.poll() is None
    assert sidecar.end() == 0
    wait_for("the client's stream is over", lambda: chat.code)


def test_drain_over_http_is_the_same(scene: Scene) -> None:
    sidecar = scene.sidecar().ready()
    caller = Caller(sidecar.port)
    chat = caller.chat()
    assert sidecar.get("/drain", "POST")[0] < 300
    assert sidecar.get("/readyz")[0] == 503
    assert chat.finish() == "OK"
    assert sidecar.process.wait(30) == 0


# --- another in its place ---


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_another_takes_its_place_under_load(scene: Scene, how: signal.Signals) -> None:
    """As the kubelet restarts a container; calls fail in the gap and in it only."""
    first = scene.sidecar("--drain-timeout", "1").ready()
    caller = Caller(first.port)
    outcomes: list[tuple[float, str]] = []
    going = True

    def load() -> None:
        while going:
            outcomes.append((time.monotonic(), caller.call(timeout=10)[0]))
            time.sleep(0.01)

    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    wait_for("calls go through", lambda: len(outcomes) > 20)
    code = first.end(how)
    gone_at = time.monotonic()
    assert code == (0 if how == signal.SIGTERM else -signal.SIGKILL)
    second = SidecarProcess.__new__(SidecarProcess)
    second.__dict__.update(first.__dict__)
    with first.log.open("ab") as log:
        second.process = subprocess.Popen(first.arguments, cwd=ROOT, env=first.env, stdout=log, stderr=log)
    scene.sidecars.append(second)
    wait_for("calls go through again", lambda: outcomes[-1][1] == "OK" and outcomes[-1][0] > gone_at + 0.2)
    back_at = next(at for at, code in outcomes if code == "OK" and at > gone_at + 0.05)
    seen = len(outcomes)
    wait_for("more calls", lambda: len(outcomes) > seen + 50)
    going = False
    thread.join()
    gap = [at for at, code in outcomes if code != "OK"]
    print(f"\n{how.name}: served again after {back_at - gone_at:.2f} s, {len(gap)} calls failed meanwhile")
    assert all(code == "OK" for _, code in outcomes[seen:])
    assert all(gone_at - 10 <= at <= back_at for at in gap)
