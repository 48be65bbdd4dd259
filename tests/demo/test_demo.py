"""The whole demo as a program: good with the real sidecar, bad with one that does not balance."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from programs import GREETER, REPOSITORY, environment, line_of, until

L4_SIDECAR = f"{sys.executable} {Path(__file__).resolve().parent / 'l4_sidecar.py'}"


def start(temporary: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(GREETER / "demo.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment({"TMPDIR": str(temporary)}),
        cwd=REPOSITORY,
    )


def children(pid: int) -> set[int]:
    """The child processes of `pid`, as Linux tells."""
    return {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_through_the_sidecar_it_is_even(tmp_path: Path) -> None:
    demo = start(tmp_path, "--quick")
    out, errors = demo.communicate(timeout=100)
    assert demo.returncode == 0, out + errors
    assert "EVEN: every server got its share, and no call failed." in out
    rows = {
        name: line.split()
        for line in out.splitlines()
        for name in ("direct", "sidecar", "two joined", "one left")
        if re.match(rf"{name} +\d", line)
    }
    assert set(rows) == {"direct", "sidecar", "two joined", "one left"}
    assert rows["direct"].count("0") >= 2, "direct, all calls are on one server"
    assert list(tmp_path.iterdir()) == [], "its directory is gone"


def test_a_sidecar_that_does_not_balance_fails(tmp_path: Path) -> None:
    demo = start(tmp_path, "--quick", "--sidecar", L4_SIDECAR)
    watched: set[int] = set()
    watcher = threading.Thread(target=lambda: watched.update(_children_while(demo)))
    watcher.start()
    out, errors = demo.communicate(timeout=100)
    watcher.join()
    assert demo.returncode == 1, out + errors
    assert "FAILED" in out
    assert "sidecar: calls are not even: max/mean 3.00, allowed: 1.05" in out
    # The servers that join never get a stream: the demo has waited for that, and says so.
    assert "demo.py: client took more than 10 s: a stream on each new server" in out
    assert "Traceback" not in out + errors
    assert len(watched) >= 5  # servers, sidecar, client
    assert not [pid for pid in watched if alive(pid)]


def _children_while(demo: subprocess.Popen[str]) -> set[int]:
    seen: set[int] = set()
    while demo.poll() is None:
        try:
            seen |= children(demo.pid)
        except (FileNotFoundError, ProcessLookupError):
            break
    return seen


def test_a_sidecar_that_cannot_start_is_named_with_its_last_words(tmp_path: Path) -> None:
    broken = f"{sys.executable} -c 'import sys; sys.exit(\"no endpoints today\")'"
    demo = start(tmp_path, "--quick", "--sidecar", broken)
    out, errors = demo.communicate(timeout=100)
    assert demo.returncode == 1, out + errors
    assert "demo.py: sidecar ended with status 1 before /readyz says" in out
    assert "no endpoints today" in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_everything(tmp_path: Path, number: signal.Signals) -> None:
    demo = start(tmp_path, "--sidecar", L4_SIDECAR)
    until(lambda: "1 of 4" in line_of(demo), "the first phase")
    until(lambda: len(children(demo.pid)) >= 4, "three servers and the client run")
    running = children(demo.pid)
    demo.send_signal(number)
    out, errors = demo.communicate(timeout=30)
    assert demo.returncode == 128 + number, out + errors
    assert f"stopped by {number.name}" in out
    assert not [pid for pid in running if alive(pid)]
    assert list(tmp_path.iterdir()) == []


def test_on_a_terminal_it_redraws_and_gives_the_cursor_back(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    demo = subprocess.Popen(
        [sys.executable, str(GREETER / "demo.py"), "--sidecar", L4_SIDECAR],
        stdout=theirs,
        stderr=theirs,
        env=environment({"TMPDIR": str(tmp_path), "TERM": "xterm", "COLUMNS": "80", "LINES": "40"}),
        cwd=REPOSITORY,
    )
    os.close(theirs)
    seen = bytearray()

    def read_until(text: bytes) -> None:
        while text not in seen:
            seen.extend(os.read(ours, 65536))

    try:
        read_until(b"busy")
        demo.send_signal(signal.SIGINT)
        read_until(b"\x1b[?25h")
        assert demo.wait(timeout=30) == 128 + signal.SIGINT
    finally:
        demo.kill()
        os.close(ours)
    assert re.search(rb"\x1b\[\d+A\r", seen), "it went up and drew again"
    assert b"stopped by SIGINT" in seen


def test_help() -> None:
    done = subprocess.run(
        [sys.executable, str(GREETER / "demo.py"), "--help"],
        capture_output=True,
        text=True,
        timeout=30,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0
    assert "--quick" in done.stdout
    assert "exit status" in done.stdout
