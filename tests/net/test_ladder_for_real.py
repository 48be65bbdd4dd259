"""The ladder with real sockets, TLS, files and processes, in a pod's surroundings made of namespaces."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
UNSHARE = ("unshare", "--net", "--mount", "--propagation", "private")


def _why_not() -> str:
    if os.geteuid() != 0:
        return "needs root: makes network and mount namespaces"
    missing = [name for name in ("unshare", "ip", "mount") if shutil.which(name) is None]
    if missing:
        return f"needs {', '.join(missing)} (Debian: util-linux iproute2 mount)"
    tried = subprocess.run([*UNSHARE, "mount", "-t", "tmpfs", "none", "/run"], capture_output=True, text=True)
    return "" if tried.returncode == 0 else f"no namespaces on this machine: {tried.stderr}"


pytestmark = [
    pytest.mark.skipif(bool(_why_not()), reason=_why_not()),
    pytest.mark.xdist_group("ladder"),
]


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    done = subprocess.run(
        [*UNSHARE, sys.executable, str(HERE / "inside_ladder.py")],
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{HERE}:{HERE.parent / 'shared'}:{HERE.parent / 'discovery'}",
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=115,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    print(found)
    return found


def test_no_call_fails_while_the_api_server_is_away(seen: dict[str, Any]) -> None:
    assert seen["away under load"]["failed"] == []
    assert seen["away under load"]["calls"] > 100
    assert seen["memory age"] >= 5


def test_it_is_back_in_touch_within_35_seconds(seen: dict[str, Any]) -> None:
    assert seen["back after"] <= 35.0


def test_a_sidecar_that_was_killed_meanwhile_goes_on_from_disk(seen: dict[str, Any]) -> None:
    assert seen["disk"]["failed"] == []
    assert 0 <= seen["disk"]["age"] <= 100
    greeter = 'grpc_target="greeter.default:50051"'
    assert f'evenstream_discovery_rung{{{greeter},rung="disk"}} 1' in seen["disk metric"]
    assert any(
        line.startswith(f"evenstream_discovery_age_seconds{{{greeter}}}") for line in seen["disk metric"]
    )


def test_without_a_state_dns_says_where(seen: dict[str, Any]) -> None:
    assert seen["dns"]["failed"] == []
    low, high = sorted(seen["dns"]["each"])
    assert high - low <= 1


def test_it_ends_well(seen: dict[str, Any]) -> None:
    assert seen["exit"] == 0
    assert seen["tracebacks"] == 0
