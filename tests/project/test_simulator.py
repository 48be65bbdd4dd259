"""The simulator looks into the engine, so it has to follow it: a quick look, for `tests/sim` takes longer."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
SIM = ROOT / "tests" / "sim"
FIRST, SEEDS = "0", "30"  # the same each time: fresh ones are for `make test` and `make sim`


def planted() -> ModuleType:
    spec = importlib.util.spec_from_file_location("planted_bugs", SIM / "simulator" / "planted.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.once
def test_planted_bugs_still_find_their_place() -> None:
    """A line that has changed is changed in tests/sim/simulator/planted.py too."""
    for name, bug in planted().BUGS.items():
        text = (ROOT / (bug.module.replace(".", "/") + ".py")).read_text()
        assert text.count(bug.right) == 1, f"{name}: {bug.module} no longer has, once:\n{bug.right}"


@pytest.mark.once
def test_a_few_seeds_play() -> None:
    done = subprocess.run(
        [sys.executable, str(SIM / "run.py"), "--first", FIRST, "--seeds", SEEDS, "--jobs", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.fail(done.stdout[-6000:] + done.stderr[-2000:], pytrace=False)
