"""Running other programs: every call has a deadline, and every failure is one clear line."""

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

# Local commands answer in milliseconds; half a minute means that something hangs.
COMMAND_DEADLINE = 30.0
POLL_INTERVAL = 0.1
ERROR_LINES = 15  # of a failed command's output: enough to see the cause, short enough to read

# Daemons live in sbin, which the PATH of an ordinary user leaves out.
SYSTEM_DIRECTORIES = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin")


class ClusterError(Exception):
    """Something that stops the command. The text is what the user reads."""


def say(text: str) -> None:
    """Progress goes to stderr, so that stdout holds only what a script would read."""
    print(f"cluster: {text}", file=sys.stderr, flush=True)


def find(program: str) -> str | None:
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *SYSTEM_DIRECTORIES))
    return shutil.which(program, path=path)


def need(program: str) -> str:
    found = find(program)
    if found is None:
        raise ClusterError(f"{program} is not installed")
    return found


def run(
    command: Sequence[str | Path],
    *,
    deadline: float = COMMAND_DEADLINE,
    check: bool = True,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command, catch its output, and say what failed in its own words."""
    words = [str(word) for word in command]
    words[0] = words[0] if "/" in words[0] else need(words[0])
    shown = " ".join(words)[:200]
    try:
        done = subprocess.run(
            words,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=deadline,
            env=env,
            cwd=cwd,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ClusterError(f"no end after {deadline:.0f} s: {shown}") from None
    if check and done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()[-ERROR_LINES:]
        raise ClusterError(f"exit {done.returncode}: {shown}\n  " + "\n  ".join(lines))
    return done


def run_logged(
    command: Sequence[str | Path],
    log: Path,
    *,
    deadline: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> None:
    """Run a long command with its output in a file; show the file's end if it fails."""
    words = [str(word) for word in command]
    words[0] = words[0] if "/" in words[0] else need(words[0])
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        try:
            done = subprocess.run(
                words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=deadline, env=env,
                cwd=cwd, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise ClusterError(
                f"no end after {deadline:.0f} s: {' '.join(words)[:200]} (log: {log})"
            ) from None
    if done.returncode != 0:
        raise ClusterError(f"exit {done.returncode}: {' '.join(words)[:200]} (log: {log})\n{tail(log)}")


def tail(log: Path, lines: int = ERROR_LINES) -> str:
    try:
        text = log.read_text(errors="replace")
    except OSError:
        return f"  (no log at {log})"
    return "\n".join(f"  {line}" for line in text.splitlines()[-lines:])


def wait_for(what: str, ready: Callable[[], bool], deadline: float) -> None:
    limit = time.monotonic() + deadline
    while not ready():
        if time.monotonic() > limit:
            raise ClusterError(f"{what}: not so after {deadline:.0f} s")
        time.sleep(POLL_INTERVAL)


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """One at a time: two `up` in parallel must not build, or start, the same thing twice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another hack/cluster to finish ({path})")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(handle, "w") as output:
        output.write(text)
