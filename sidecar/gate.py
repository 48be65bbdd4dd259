"""`python -m sidecar.gate`: wait for the sidecar of this pod; for clusters without native sidecars.

As the sidecar container's postStart hook it holds back the containers that start after it (--up), and as
its preStop hook the sidecar's own end while the application still has connections (--idle), since the kubelet
stops a pod's plain containers all at once.

Exit codes: 0 it is so; 1 it was not so in time (--up only: an end may not be held up for ever); 2 bad flag.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from contract import names
from contract.arguments import OneLineParser, argument_type
from contract.values import seconds_up_to

HOST: Final = "127.0.0.1"
# The sidecar starts in some 300 ms; the application waits no longer than it must.
POLL_SECONDS: Final = 0.1
# Each look at /status is one that the sidecar has to write.
IDLE_POLL_SECONDS: Final = 0.5
ANSWER_SECONDS: Final = 5.0
# Connections that an application opens while it shuts down follow each other closely: it has finished once
# there was none for this long.
IDLE_SECONDS: Final = 1.0
# Longer than any pod's grace period or patience: a typing mistake.
MAX_SECONDS: Final = 3600
EXIT_LATE: Final = 1


def parser() -> argparse.ArgumentParser:
    found = OneLineParser(prog="python -m sidecar.gate", description=__doc__.partition("\n")[0])
    seconds = argument_type(seconds_up_to(MAX_SECONDS))
    which = found.add_mutually_exclusive_group(required=True)
    which.add_argument("--up", type=seconds, metavar="SECONDS", help="until it takes connections")
    which.add_argument("--idle", type=seconds, metavar="SECONDS", help="until the pod has none open to it")
    found.add_argument("--port", type=int, default=names.ADMIN_PORT, help="its admin port (%(default)s)")
    return found


def ask(port: int, path: str) -> bytes | None:
    """The body of a 200 answer, or None: no answer, or another one."""
    connection = http.client.HTTPConnection(HOST, port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return body if answer.status == 200 else None


def open_connections(status: bytes | None) -> int:
    """How many the application has open, by /status; 0 if there is no sense in it: it must not hold a pod up."""
    try:
        found: Any = json.loads(status or b"")
        count = found["connections"]["open"]
    except (ValueError, TypeError, LookupError):
        return 0
    return count if isinstance(count, int) else 0


def wait_until(
    condition: Callable[[], bool], seconds: float, poll_seconds: float, steady_seconds: float = 0.0
) -> bool:
    """Whether `condition` came to be true, and was for `steady_seconds`, within `seconds`."""
    until = time.monotonic() + seconds
    since: float | None = None
    while True:
        now = time.monotonic()
        if condition():
            since = now if since is None else since
            if now - since >= steady_seconds:
                return True
        else:
            since = None
        if now >= until:
            return False
        time.sleep(poll_seconds)


def main(arguments: Sequence[str]) -> int:
    given = parser().parse_args(arguments)
    if given.up is not None:
        if wait_until(lambda: ask(given.port, "/livez") is not None, given.up, POLL_SECONDS):
            return 0
        sys.stderr.write(f"evenstream gate: no answer on {HOST} port {given.port} in {given.up} s\n")
        return EXIT_LATE

    def idle() -> bool:
        return open_connections(ask(given.port, "/status")) == 0

    wait_until(idle, given.idle, IDLE_POLL_SECONDS, IDLE_SECONDS)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
