#!/usr/bin/env python3
"""Writes the list of limits in docs/limits.md from the sidecar's source: each constant with the comment that gives
its reason. Run it after a change: .venv/bin/python hack/limits.py
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from markdowntable import table

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "limits.md"
BEGIN = "<!-- limits:begin (written by hack/limits.py) -->\n"
END = "<!-- limits:end -->\n"
# Numbers in these stand in a specification; they are no limits of ours.
PROTOCOL = {"wire/frames.py", "wire/fields.py", "wire/huffman.py", "splice/states.py", "splice/replies.py"}


# Numbers that limit nothing: codes, bits, kinds.
NOT_LIMITS = {
    *("EXIT_OK", "EXIT_PORT", "EXIT_USAGE", "EXIT_FAILED", "EXIT_LATE", "DNS_PORT", "FORMAT", "UNKNOWN"),
    *("RESET_BY_US", "RESET_BY_PEER", "FIRST_STREAM", "DUPLICATE_PSEUDO", "LATE_PSEUDO"),
    *("HUFFMAN", "NEVER_INDEXED", "JSON_INDENTED_LEVELS"),
}


class Limit(NamedTuple):
    module: str
    name: str
    value: str
    reason: str  # empty: the source gives none


def limits() -> Iterator[Limit]:
    """Every public numeric constant of the sidecar's modules."""
    for path in sorted((ROOT / "sidecar").rglob("*.py")):
        module = str(path.relative_to(ROOT / "sidecar"))
        if module in PROTOCOL:
            continue
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines()
        for node in ast.parse(text).body:
            if (
                not isinstance(node, ast.AnnAssign)
                or not isinstance(node.target, ast.Name)
                or node.value is None
            ):
                continue
            name = node.target.id
            if name.startswith("_") or not name.isupper() or name in NOT_LIMITS or not _is_number(node.value):
                continue
            yield Limit(module, name, ast.unparse(node.value), _reason(lines, node))


def _is_number(value: ast.expr) -> bool:
    """Written as one: 5, 2.5, 64 * 1024, MOST // 2."""
    if isinstance(value, ast.BinOp):
        return _is_number(value.left) and _is_number(value.right)
    constant = isinstance(value, ast.Constant) and isinstance(value.value, int | float)
    return (constant and not isinstance(value.value, bool)) or (
        isinstance(value, ast.Name) and value.id.isupper()
    )


def _reason(lines: list[str], node: ast.AnnAssign) -> str:
    """The comment behind the constant, or the one above it, or above the constants it stands among."""
    assert node.end_lineno is not None
    _, _, behind = lines[node.end_lineno - 1].partition("  # ")
    behind = "" if behind.startswith("noqa") else behind.partition("  # noqa")[0]
    at = node.lineno - 2
    while at >= 0 and lines[at].strip() and not lines[at].startswith("#"):
        at -= 1
    above: list[str] = []
    while at >= 0 and lines[at].startswith("# ") and not lines[at].startswith("# ---"):
        above.insert(0, lines[at][2:])
        at -= 1
    return ". ".join(part.rstrip(".") for part in (behind, " ".join(above)) if part)


def text() -> str:
    rows = [[f"`{each.module}`", f"`{each.name}`", each.value, each.reason] for each in limits()]
    return table(["module", "constant", "value", "why"], rows)


def page() -> str:
    """The page with the list as it is now."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + text() + END + after


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
