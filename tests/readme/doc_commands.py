"""The commands in README.md and docs/, and who runs each.

A fenced block of commands is marked `sh`, and the line above it says who runs it, as a comment no reader sees:

    <!-- runs: here -->       tests/readme, from the repository's root
    <!-- runs: cluster -->    tests/e2e/test_z_readme.py, on a real Kubernetes; a page's blocks run in order
    <!-- runs: ci -->         .ci/run has each of its lines
    <!-- runs: tests/... -->  the test file or folder named runs it, with another port or for a shorter time
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[2]
COMMANDS: Final = "sh"
# Output, files and pictures. What a reader could type is COMMANDS.
OTHER_LANGUAGES: Final = frozenset({"text", "yaml", "json", "python", "toml", "mermaid", "promql", "diff"})

_FENCE: Final = re.compile(r"( *)(```+)(.*)")
_MARK: Final = re.compile(r"<!-- runs: (\S+) -->")


class Block(NamedTuple):
    """One fenced block. `line`: of its opening fence, from 1. `runs`: the mark above it, or empty."""

    page: str
    line: int
    language: str
    runs: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    def lines(self) -> list[str]:
        """One command each: a line that ends in a backslash goes on in the next."""
        return [line for line in self.text.replace("\\\n", "").splitlines() if line.strip()]


def pages() -> list[Path]:
    """README.md first, then docs/ by name."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, root: Path = ROOT) -> Iterator[Block]:
    """The fenced blocks of a page, in order. Raises ValueError for one that does not end."""
    name = str(page.relative_to(root))
    lines = page.read_text(encoding="utf-8").splitlines()
    opening: re.Match[str] | None = None
    start, content = 0, list[str]()
    for number, line in enumerate(lines, 1):
        fence = _FENCE.fullmatch(line)
        if opening is None:
            if fence is not None:
                opening, start, content = fence, number, []
        elif fence is not None and fence[2] == opening[2] and not fence[3].strip():
            mark = _MARK.fullmatch(lines[start - 2].strip()) if start > 1 else None
            indent = len(opening[1])
            yield Block(
                name,
                start,
                opening[3].strip(),
                mark[1] if mark else "",
                "\n".join(c[indent:] for c in content),
            )
            opening = None
        else:
            content.append(line)
    if opening is not None:
        raise ValueError(f"{name}:{start}: this fenced block does not end")


def all_blocks() -> list[Block]:
    return [block for page in pages() for block in blocks(page)]


def commands(runs: str) -> list[Block]:
    """All blocks of commands that `runs` runs."""
    return [block for block in all_blocks() if block.language == COMMANDS and block.runs == runs]


_LINK: Final = re.compile(r"(?<!!)\[(?:[^\]\[]|\[[^\]]*\])*\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)$", re.MULTILINE)
_HEADING: Final = re.compile(r"^#{1,6} (.+?)\s*$", re.MULTILINE)
_FENCED: Final = re.compile(r"^( *)(```+).*?^\1\2 *$", re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return _FENCED.sub("", page.read_text(encoding="utf-8"))


def links(page: Path) -> list[str]:
    return [first or second for first, second in _LINK.findall(prose(page))]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs both make them."""
    found = set()
    for heading in _HEADING.findall(prose(page)):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        found.add(re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", text).strip()))
    return found
