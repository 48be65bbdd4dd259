"""docs/limits.md lists every limit with its reason, and names only limits and tests that are there."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "hack"))

import limits  # noqa: E402

pytestmark = pytest.mark.once


def test_the_list_is_what_the_source_says() -> None:
    written = limits.PAGE.read_text(encoding="utf-8")
    assert written == limits.page(), "run .venv/bin/python hack/limits.py"


def test_every_limit_has_a_reason() -> None:
    assert [f"{each.module}: {each.name}" for each in limits.limits() if not each.reason] == []


def test_attacks_name_limits_and_tests_that_are_there() -> None:
    known = {each.name for each in limits.limits()}
    attacks, _, _ = limits.PAGE.read_text(encoding="utf-8").partition("## All of them")
    rows = [line.split(" | ") for line in attacks.splitlines() if line.startswith("| ") and "`" in line]
    assert len(rows) >= 20
    for row in rows:
        constants = re.findall(r"`([A-Z][A-Z_]+)`", row[1])
        assert constants, row[0]
        assert set(constants) <= known, set(constants) - known
        for name, test in re.findall(r"`(test_\w+\.py)(?:::(test_\w+))?`", row[3]):
            (found,) = [
                path for folder in ("playbook", "hostile") for path in (ROOT / "tests" / folder).glob(name)
            ]
            assert not test or f"def {test}(" in found.read_text(encoding="utf-8"), test
