"""The simulator finds what it is for: each planted bug within a thousand seeds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from simulator import planted

RUN = Path(__file__).with_name("run.py")
SEEDS = 1000
FIRST = 0


@pytest.mark.once
@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", planted.BUGS)
def test_it_is_found(bug: str) -> None:
    done = subprocess.run(
        [
            *(sys.executable, str(RUN), "--plant", bug, "--until-found"),
            *("--first", str(FIRST), "--seeds", str(SEEDS), "--jobs", "1"),
        ],
        env={**os.environ, "EVENSTREAM_BUILD": "interpreted"},
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout[-2000:])
    assert done.returncode == 1, f"not found in {SEEDS} seeds\n{done.stderr[-2000:]}"
    assert "failed" in done.stdout, done.stderr[-2000:]
