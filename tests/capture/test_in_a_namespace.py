"""The rules in force, in a network namespace of the test's own: real connections, real SO_ORIGINAL_DST.

`inside.py` runs within it and prints what it saw as JSON.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def _why_not() -> str:
    if os.geteuid() != 0:
        return "needs root: makes a network namespace and writes rules in it"
    missing = [name for name in ("unshare", "ip", "iptables", "ip6tables") if shutil.which(name) is None]
    if missing:
        return f"needs {', '.join(missing)} (Debian: util-linux iproute2 iptables)"
    tried = subprocess.run(
        ["unshare", "--net", "ip", "link", "add", "name", "eth0", "type", "veth"], capture_output=True
    )
    return "" if tried.returncode == 0 else "this machine's kernel gives no network namespace with veth"


pytestmark = pytest.mark.skipif(bool(_why_not()), reason=_why_not())


@pytest.fixture(scope="module", params=["nft", "legacy"])
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What inside.py saw, with only this backend to be found."""
    programs = tmp_path_factory.mktemp("programs")
    for family in ("iptables", "ip6tables"):
        for suffix in ("", "-restore", "-save"):
            found = shutil.which(f"{family}-{request.param}{suffix}")
            if found is None:
                pytest.skip(f"{family}-{request.param}{suffix} is not installed")
            (programs / f"{family}-{request.param}{suffix}").symlink_to(found)
    environment = {**os.environ, "EVENSTREAM_TEST_PROGRAMS": str(programs), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["unshare", "--net", sys.executable, str(HERE / "inside.py")],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert request.param in result["reports"]
    return result


def test_outbound_tcp_arrives_at_the_sidecar_and_says_where_it_meant_to_go(seen: dict):
    assert seen["v4"] == ["10.250.0.9", 50051]
    assert seen["v6"] == ["fd00:250::9", 50051]


def test_excluded_ports_networks_dns_and_the_api_server_are_not_redirected(seen: dict):
    assert seen["not redirected"] == {
        "port": True,
        "network": True,
        "network v6": True,
        "dns": True,
        "api server": True,
    }


def test_another_port_of_the_api_servers_address_is_redirected(seen: dict):
    assert seen["api server, other port"] == ["10.250.0.43", 50051]


def test_the_sidecars_own_user_is_not_redirected(seen: dict):
    assert seen["own user"] == {"v4": True, "v6": True}


def test_loopback_and_the_pods_own_address_are_not_redirected(seen: dict):
    assert seen["inside the pod"] == {"127.0.0.1": True, "10.250.0.2": True, "::1": True, "fd00:250::2": True}


def test_a_second_run_changes_nothing(seen: dict):
    assert seen["second run"] == seen["first run"]
    assert seen["first run"].count("-A OUTPUT -p tcp -j EVENSTREAM_OUTPUT") == 2  # one a family
