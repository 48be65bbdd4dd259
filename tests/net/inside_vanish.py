"""Runs as root in a fresh network namespace (see test_vanish.py) and prints what it saw as JSON.

Three backends on loopback addresses; the packets of one are dropped both ways, so that it is gone without a FIN.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from net_scene import Caller, EndpointsFile, Grpc, SidecarProcess, wait_for

PORT = 50051
HOSTS = ["127.0.1.1", "127.0.1.2", "127.0.1.3"]
GONE = HOSTS[1]
RATE = 60.0  # calls a second
# A call's time: some are open at every backend at any moment, so that counting alone does not keep calls away
# from the one whose calls never end.
TAKES = 0.15
WATCHED = 32.0  # seconds: the calls must have ended within 30
CHATS = 9


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def cut(host: str, action: str) -> None:
    for side in ("-s", "-d"):
        run("iptables", "-w", action, "INPUT", side, host, "-j", "DROP")


class Load:
    """Unary calls at a steady rate; each outcome with the time it was begun."""

    def __init__(self, port: int) -> None:
        self.caller = Caller(port)
        self.outcomes: list[tuple[float, str, str, float]] = []
        self.going = True
        self._begun = 0
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(80)]
        self._lock = threading.Lock()
        self._start = time.monotonic()
        for each in self._threads:
            each.start()

    def _run(self) -> None:
        while self.going:
            with self._lock:
                self._begun += 1
                due = self._start + self._begun / RATE
            time.sleep(max(0.0, due - time.monotonic()))
            began = time.monotonic()
            self.outcomes.append((began, *self.caller.call(timeout=60.0)))

    def end(self) -> None:
        self.going = False
        for each in self._threads:
            each.join()


def main() -> None:
    run("ip", "link", "set", "lo", "up")
    folder = Path(tempfile.mkdtemp())
    backends = {host: Grpc(host, PORT, TAKES) for host in HOSTS}
    file = EndpointsFile(folder, PORT)
    file.write(HOSTS)
    sidecar = SidecarProcess(folder, "--source", f"file:{file.path}").ready()
    caller = Caller(sidecar.port)
    chats = [caller.chat() for _ in range(CHATS)]
    load = Load(sidecar.port)
    wait_for("every backend has had calls", lambda: all(b.begun > 10 for b in backends.values()))

    cut(GONE, "-I")
    gone_at = time.monotonic()
    last_given, given = gone_at, sidecar.endpoint(GONE)["streams_total"]
    while time.monotonic() < gone_at + WATCHED:
        before = time.monotonic()
        now = sidecar.endpoint(GONE)["streams_total"]
        if now > given:
            last_given, given = before, now
        time.sleep(0.05)
    counters = sidecar.status()["engine"]["counters"]
    cut(GONE, "-D")
    back_at = time.monotonic()
    wait_for("it is used again", lambda: sidecar.endpoint(GONE)["streams_total"] > given)
    used_again = time.monotonic() - back_at
    load.end()
    outcomes = [(begun - gone_at, code, text, seconds) for begun, code, text, seconds in load.outcomes]
    failed = [(begun, code, text, begun + seconds) for begun, code, text, seconds in outcomes if code != "OK"]
    mine = [chat for chat in chats if chat.host == GONE]
    others = [chat for chat in chats if chat.host != GONE]
    result = {
        "calls": len(outcomes),
        "last given after": round(last_given - gone_at, 2),
        "failed": failed,
        "last failed ended after": max((end for *_, end in failed), default=0.0),
        "its chats": [(c.code, round(c.ended_at - gone_at, 2) if c.ended_at else None) for c in mine],
        "other chats": [c.finish() for c in others],
        "used again after": round(used_again, 2),
        "stalled": counters["upstreams_stalled"],
        "slowest of the rest": max(s for _, code, _, s in outcomes if code == "OK"),
        "exit": sidecar.end(),
    }
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
