"""The commands of docs/performance.md: the short one is run, of the long ones the arguments are taken."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bench import __main__ as bench
from bench import profile

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "readme"))
from doc_commands import blocks  # noqa: E402

pytestmark = pytest.mark.once

HERE = str(Path(__file__).resolve().relative_to(ROOT))
COMMANDS = [
    shlex.split(line, comments=True)
    for block in blocks(ROOT / "docs" / "performance.md")
    if block.runs == HERE
    for line in block.lines()
]
SHORT = [".venv/bin/python", "-m", "bench", "--quick", "--only", "unary-4x32", "--peers", "ours"]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_its_arguments_are_taken(words: list[str]) -> None:
    if words[:2] == ["make", "bench"]:
        planned = subprocess.run(
            ["make", "-n", "bench"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert "-m bench" in planned.stdout
        return
    assert words[0] == ".venv/bin/python"
    parser = {"bench": bench.parser, "bench.profile": profile.parser}[words[2]]()
    parser.parse_args(words[3:])


@pytest.mark.timeout(300)  # the load program is compiled first
def test_the_short_one_measures(tmp_path: Path) -> None:
    assert SHORT in COMMANDS
    done = subprocess.run(
        [sys.executable, *SHORT[1:], "--seconds", "0.2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "unary 64 B, 4 x 32" in done.stdout
