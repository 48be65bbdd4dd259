"""A supervisor and everything below it as one thing that can be started, found again and ended.

With namespaces of its own (PID, mounts, and where wanted the network) the kernel does the cleaning up:
the end of the box's first process ends all others, and with them go their mounts.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import shell, supervisor

END_DEADLINE = supervisor.STOP_GRACE + 5.0  # the supervisor's own grace, and the kernel's work after it

# Its own mounts, seen by nobody outside; shared within, because kubelet mounts for containerd to see.
PRIVATE = (
    "unshare",
    "--mount",
    "--propagation",
    "private",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
)
SHARED_WITHIN = ("mount", "--make-rshared", "/")


@dataclass(frozen=True)
class Box:
    folder: Path  # holds pid, plan.json, programs.json

    @property
    def _pid_file(self) -> Path:
        return self.folder / "pid"

    @property
    def _plan(self) -> Path:
        return self.folder / "plan.json"

    @property
    def _held(self) -> Path:
        return self.folder / "held"

    def start(self, plan: dict[str, Any], *, private: bool, netns: str | None = None) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        logs = Path(plan["logs"])
        logs.mkdir(parents=True, exist_ok=True)
        state = self.folder / "programs.json"
        state.unlink(missing_ok=True)
        shutil.rmtree(self._held, ignore_errors=True)
        self._held.mkdir()
        setup = [list(SHARED_WITHIN)] * private + plan.get("setup", [])
        shell.write(
            self._plan,
            json.dumps({**plan, "setup": setup, "state": str(state), "held": str(self._held)}),
            0o600,
        )
        command: list[str] = [sys.executable, supervisor.__file__, str(self._plan)]
        if private:
            command = [*PRIVATE, *command]
        if netns:
            command = ["nsenter", f"--net=/run/netns/{netns}", *command]
        command[0] = shell.need(command[0])
        path = os.pathsep.join((os.environ.get("PATH", os.defpath), *shell.SYSTEM_DIRECTORIES))
        with (logs / "supervisor.log").open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/",
                env={**os.environ, "PATH": path},
            )  # fmt: skip
        shell.write(self._pid_file, str(process.pid))

    def pid(self) -> int | None:
        """The box's outermost process, if it runs and is ours: a pid file may outlive its process."""
        try:
            pid = int(self._pid_file.read_text())
        except (OSError, ValueError):
            return None
        return pid if str(self._plan).encode() in command_line(pid) else None

    def first(self) -> int | None:
        """The supervisor: the child of `unshare`, or the outermost process itself."""
        outer = self.pid()
        if outer is None or supervisor.__file__.encode() in command_line(outer)[1:2]:
            return outer
        return next((pid for pid in children(outer)), None)

    def programs(self) -> dict[str, dict[str, Any]]:
        if self.pid() is None:
            return {}
        with contextlib.suppress(OSError, ValueError):
            return dict(json.loads((self.folder / "programs.json").read_text()))
        return {}

    def hold(self, name: str) -> None:
        """End one program and keep it from starting again. Raises ClusterError if it does not run."""
        self._known(name)
        (self._held / name).touch()
        shell.wait_for(f"{name} ended", lambda: not self.programs()[name]["pid"], END_DEADLINE)

    def release(self, name: str) -> None:
        """Let it run again, and return when it has been started."""
        self._known(name)
        (self._held / name).unlink(missing_ok=True)
        shell.wait_for(f"{name} started", lambda: bool(self.programs()[name]["pid"]), END_DEADLINE)

    def _known(self, name: str) -> None:
        if name not in self.programs():
            known = ", ".join(self.programs()) or "none runs"
            raise shell.ClusterError(f"no such program: {name!r}; there are: {known}")

    def stop(self, *, gently: bool) -> None:
        """Gently gives the programs time to close their files; otherwise everything is killed at once."""
        outer = self.pid()
        if outer is not None:
            first = self.first()
            below = {pid: command_line(pid) for pid in children(outer)}
            with contextlib.suppress(ProcessLookupError):
                if gently and first is not None:
                    os.kill(first, signal.SIGTERM)
                else:
                    os.kill(outer, signal.SIGKILL)
            try:
                shell.wait_for(f"process {outer} ended", lambda: self.pid() is None, END_DEADLINE)
            except shell.ClusterError:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(outer, signal.SIGKILL)
            # They are being killed now; their files can be removed once they are gone.
            shell.wait_for(
                f"the programs of process {outer} ended",
                lambda: not any(line and command_line(pid) == line for pid, line in below.items()),
                END_DEADLINE,
            )
        self._pid_file.unlink(missing_ok=True)


def command_line(pid: int) -> Sequence[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ()


def children(parent: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # "pid (name) state ppid ...": the name may hold spaces, so count from the last bracket.
            if int(status.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(status.parent.name))
    return found
