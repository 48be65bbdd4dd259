"""docs/reference is what the programs say of themselves now."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "hack"))

import reference  # noqa: E402

pytestmark = pytest.mark.once


@pytest.mark.parametrize("name", reference.PAGES)
def test_the_page_is_what_its_program_writes(name: str) -> None:
    written = (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")
    assert written == reference.PAGES[name](), "run .venv/bin/python hack/reference.py"


def test_there_are_no_other_pages() -> None:
    assert {page.name for page in (ROOT / "docs" / "reference").iterdir()} == set(reference.PAGES)
