"""Exit codes, the same for all commands, and the error that carries one."""

from __future__ import annotations

from typing import Final

OK: Final = 0
FOUND: Final = 1
USAGE: Final = 2
UNEVEN: Final = 3
CLUSTER: Final = 4
INTERRUPTED: Final = 130  # 128 + SIGINT, as shells have it
BROKEN_PIPE: Final = 141  # 128 + SIGPIPE

MEANING: Final = {
    OK: "done, and nothing is wrong",
    FOUND: "something was found: a failed check, a bad annotation, a difference",
    USAGE: "a flag, a file or a value is not allowed",
    UNEVEN: "top: the streams of a Service are not spread evenly",
    CLUSTER: "the cluster did not answer, or did not let us",
}


class CliError(Exception):
    """Ends the command: one line for people, and the exit code."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code
