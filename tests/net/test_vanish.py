"""A backend that vanishes without a FIN, with real kernels' TCP: packets are dropped in a network namespace."""

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


def _why_not() -> str:
    if os.geteuid() != 0:
        return "needs root: makes a network namespace and drops packets in it"
    missing = [name for name in ("unshare", "ip", "iptables") if shutil.which(name) is None]
    if missing:
        return f"needs {', '.join(missing)} (Debian: util-linux iproute2 iptables)"
    rule = "iptables -w -I INPUT -d 127.0.1.2 -j DROP"
    tried = subprocess.run(["unshare", "--net", "sh", "-c", rule], capture_output=True, text=True)
    return (
        ""
        if tried.returncode == 0
        else f"this machine's kernel gives no namespace with iptables: {tried.stderr}"
    )


pytestmark = [
    pytest.mark.skipif(bool(_why_not()), reason=_why_not()),
    pytest.mark.xdist_group("vanish"),
    pytest.mark.once,
]


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    done = subprocess.run(
        ["unshare", "--net", sys.executable, str(HERE / "inside_vanish.py")],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{HERE}:{HERE.parent / 'shared'}"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    print({**found, "failed": len(found["failed"])})
    return found


def test_it_is_avoided_for_new_calls_within_five_seconds(seen: dict[str, Any]) -> None:
    assert seen["stalled"] >= 1
    assert seen["last given after"] <= 5.0


def test_its_calls_end_within_thirty_seconds(seen: dict[str, Any]) -> None:
    assert 0 < seen["last failed ended after"] <= 30.0
    assert seen["its chats"]
    for code, after in seen["its chats"]:
        assert code == "UNAVAILABLE"
        assert after <= 30.0


def test_only_calls_it_had_fail(seen: dict[str, Any]) -> None:
    for began, code, text, _ in seen["failed"]:
        assert began <= 5.0
        assert code == "UNAVAILABLE"
        assert "127.0.1.2:50051" in text
    assert set(seen["other chats"]) == {"OK"}


def test_it_is_used_again_when_it_is_back(seen: dict[str, Any]) -> None:
    assert seen["used again after"] <= 10.0  # 5 s of backoff at most, and a fifth of jitter
    assert seen["exit"] == 0
