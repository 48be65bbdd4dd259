"""`capture: hosts` as a pod has it, in namespaces of the test's own: the names, the listener, the spread."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SERVERS = {"127.0.0.2", "127.0.0.3", "127.0.0.4"}


def _why_not() -> str:
    if os.geteuid() != 0:
        return "needs root: makes a network namespace"
    missing = [name for name in ("unshare", "ip", "setpriv", "mount") if shutil.which(name) is None]
    if missing:
        return f"needs {', '.join(missing)} (Debian: util-linux iproute2)"
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "ip", "link", "add", "name", "eth0", "type", "veth"],
        capture_output=True,
    )
    return "" if tried.returncode == 0 else "this machine's kernel gives no network namespace with veth"


pytestmark = pytest.mark.skipif(bool(_why_not()), reason=_why_not())


@pytest.mark.parametrize("families", ["4", "46", "6"])
def test_every_name_of_the_service_leads_to_all_its_servers_without_a_privilege(
    families: str, tmp_path: Path
):
    """In pods with IPv4, with both families and with IPv6 alone: loopback is there in each."""
    done = subprocess.run(
        [
            "unshare",
            "--net",
            "--mount",
            sys.executable,
            str(HERE / "hosts_inside.py"),
            str(tmp_path),
            families,
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["containers"] == ["evenstream"]
    assert seen["privileges"]["capabilities"] == {"drop": ["ALL"]}
    assert list(seen["calls"]) == [
        "greeter",
        "greeter.shop",
        "greeter.shop.svc",
        "greeter.shop.svc.cluster.local",
    ]
    for name, calls in seen["calls"].items():
        assert calls == dict.fromkeys(SERVERS, 10), name
