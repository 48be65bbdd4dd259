"""The command line as people run it: a process of its own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from typing import Any, NamedTuple


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def evenstream(*arguments: str, text: str = "", **environment: str) -> Done:
    """Without colours, as there is no terminal."""
    done = subprocess.run(
        [sys.executable, "-m", "injector.cli", *arguments],
        input=text,
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, **environment},
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def inside(*arguments: str, **environment: str) -> Done:
    """The same in this process: a tenth of the time, for what asks a cluster. No terminal either."""
    from injector.cli import app

    out, err = io.StringIO(), io.StringIO()
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = app.run(arguments)
    finally:
        os.environ.clear()
        os.environ.update(before)
    return Done(code, out.getvalue(), err.getvalue())
