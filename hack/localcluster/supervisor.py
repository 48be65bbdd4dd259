"""Starts programs, starts them again when they end, and ends them all when told to.

Run as a script of its own: `python supervisor.py PLAN.json`. As the first process of a PID namespace it
also reaps orphans, and when it dies the kernel ends everything else in the namespace; outside of one,
each program asks the kernel for a SIGKILL at the supervisor's death. Either way no program outlives it.

PLAN.json: {"setup": [[word, ...], ...], "programs": [{"name", "command", "needs"}, ...], "logs": FOLDER,
"state": FILE, "held": FOLDER, "while": PID}. A program starts once something listens at its `needs`,
"address:port". STATE is written at every change: {"NAME": {"pid", "starts"}, ...}. While HELD has a file of a
program's name, that program is kept from running. With "while", the supervisor ends with that process.
"""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RESTART_PAUSE = 1.0  # seconds; a program that cannot start yet must not take the whole processor
POLL = 0.1  # seconds between two looks
CONNECT_DEADLINE = 0.5  # all addresses are local
STOP_GRACE = 5.0  # what etcd and dockerd need to close their files, with a margin
PR_SET_PDEATHSIG = 1

LIBC = ctypes.CDLL(None)


class Program:
    def __init__(self, plan: dict[str, Any], logs: Path, held: Path) -> None:
        self.name: str = plan["name"]
        self.command: list[str] = plan["command"]
        self.needs: str | None = plan.get("needs")
        self.log = logs / f"{self.name}.log"
        self._hold = held / self.name
        self.process: subprocess.Popen[bytes] | None = None
        self.starts = 0
        self.not_before = 0.0

    def startable(self) -> bool:
        return (
            self.process is None
            and not self.held()
            and time.monotonic() >= self.not_before
            and (not self.needs or listens(self.needs))
        )

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=end_with_parent
            )
        self.starts += 1

    def held(self) -> bool:
        return self._hold.exists()

    def kill(self) -> None:
        """As a crash would end it: whoever holds a program wants it gone now."""
        if self.process:
            self.process.kill()

    def ended(self) -> None:
        self.process = None
        self.not_before = time.monotonic() + RESTART_PAUSE


def end_with_parent() -> None:
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_DEADLINE).close()
    except OSError:
        return False
    return True


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def reap() -> set[int]:
    """The processes that ended: programs, and in a PID namespace orphans too."""
    gone = set()
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return gone
        if pid == 0:
            return gone
        gone.add(pid)


def stop(programs: list[Program]) -> None:
    running = {program.process.pid for program in programs if program.process}
    for pid in running:
        os.kill(pid, signal.SIGTERM)
    limit = time.monotonic() + STOP_GRACE
    while running and time.monotonic() < limit:
        running -= reap()
        time.sleep(POLL)
    for pid in running:
        os.kill(pid, signal.SIGKILL)


def main(plan_file: str) -> int:
    plan = json.loads(Path(plan_file).read_text())
    state = Path(plan["state"])
    programs = [Program(each, Path(plan["logs"]), Path(plan["held"])) for each in plan["programs"]]
    stopping = False

    def on_signal(*_: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    for command in plan.get("setup", []):
        subprocess.run(command, check=True)

    owner = plan.get("while")
    while not stopping and (owner is None or alive(owner)):
        gone = reap()
        changed = False
        for program in programs:
            if program.process and program.process.pid in gone:
                program.ended()
                changed = True
            if program.held():
                program.kill()
            if program.startable():
                program.start()
                changed = True
        if changed:
            now = {
                each.name: {"pid": each.process and each.process.pid, "starts": each.starts}
                for each in programs
            }
            state.with_suffix(".new").write_text(json.dumps(now))
            state.with_suffix(".new").replace(state)
        time.sleep(POLL)
    stop(programs)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
