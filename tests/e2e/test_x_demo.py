"""`make demo-cluster` as its user sees it."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from clusterkit import mesh
from clusterkit.kube import ROOT, Cluster

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not os.environ.get("E2E_LONG"), reason="takes a minute: make e2e-long"),
]

NAMESPACE = "evenstream-demo"


def test_the_demo_is_even_and_says_how_to_go_on(installed: Cluster) -> None:
    if not installed.local:
        pytest.skip("in a context it takes the Evenstream that these tests installed for somebody's own")
    command = [sys.executable, str(ROOT / "hack" / "demo-cluster"), "--quick", "--images=present"]
    wide = {**os.environ, "COLUMNS": "120"}  # room for a table
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=wide)
    mesh.delete_namespace(installed, NAMESPACE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "EVEN: every server got its share, and no call failed." in done.stdout
    rows = dict(re.findall(r"^(before|annotated|3 -> 5|5 -> 2) +(\d.*)$", done.stdout, re.MULTILINE))
    assert set(rows) == {"before", "annotated", "3 -> 5", "5 -> 2"}
    assert "3.00" in rows["before"].split()
    assert "hack/cluster down" in done.stdout
