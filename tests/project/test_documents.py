"""README.md and docs/: every command is run by something, every link leads somewhere, every YAML is good."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from contract import names, settings

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "readme"))
from doc_commands import COMMANDS, OTHER_LANGUAGES, Block, all_blocks, anchors, links, pages, prose  # noqa: E402

pytestmark = pytest.mark.once

# A line of code by indentation that begins like this is a command nobody runs.
_INDENTED_COMMAND = re.compile(
    r"^ {4,}(?:\$ |(?:make|python3?|pip|kubectl|hack/cluster|docker|curl|helm|git|evenstream|export) )",
    re.MULTILINE,
)


def _page(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_fenced_block_says_what_it_is() -> None:
    unknown = [str(b) for b in all_blocks() if b.language != COMMANDS and b.language not in OTHER_LANGUAGES]
    assert not unknown, f"allowed after the fence: {COMMANDS}, {', '.join(sorted(OTHER_LANGUAGES))}"


def test_every_command_is_run_by_something() -> None:
    unmarked = [str(block) for block in all_blocks() if block.language == COMMANDS and not _is_run(block)]
    assert not unmarked, "nothing runs these commands; tests/readme/doc_commands.py says how to mark them"


def _is_run(block: Block) -> bool:
    return block.runs in ("here", "cluster", "ci") or (
        block.runs.startswith("tests/") and (ROOT / block.runs).exists()
    )


@pytest.mark.parametrize("page", pages(), ids=_page)
def test_commands_stand_in_fences(page: Path) -> None:
    found = _INDENTED_COMMAND.findall(prose(page))
    assert not found, f"{_page(page)}: put commands into a fenced block marked {COMMANDS}"


@pytest.mark.parametrize("page", pages(), ids=_page)
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = [link for link in links(page) if not _leads_somewhere(page, link)]
    assert not broken


def _leads_somewhere(page: Path, link: str) -> bool:
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return parts.scheme in ("http", "https")
    target = (page.parent / parts.path).resolve() if parts.path else page
    if not target.exists():
        return False
    return not parts.fragment or (target.suffix == ".md" and parts.fragment in anchors(target))


@pytest.mark.parametrize("block", [b for b in all_blocks() if b.language == "yaml"], ids=str)
def test_yaml_is_yaml_and_its_annotations_are_ours(block: Block) -> None:
    for document in yaml.safe_load_all(block.text):
        for found in _annotations(document):
            ours = {k: v for k, v in found.items() if str(k).startswith(names.ANNOTATION_PREFIX)}
            assert all(isinstance(value, str) for value in ours.values()), "quote it"
            settings.from_annotations(ours)


def _annotations(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, list):
        return [found for each in value for found in _annotations(each)]
    if not isinstance(value, dict):
        return []
    own = [value] if any(str(key).startswith(names.ANNOTATION_PREFIX) for key in value) else []
    return own + [found for each in value.values() for found in _annotations(each)]
