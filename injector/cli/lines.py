"""One thing that was checked: what was found, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple

from rich.text import Text

from injector.cli import screen

Level = Literal["ok", "note", "warning", "failed", "skipped"]
_SHOWN: Final = {
    "ok": ("ok  ", "green"),
    "note": ("note", "cyan"),
    "warning": ("warn", "yellow"),
    "failed": ("FAIL", "bold red"),
    "skipped": ("skip", "dim"),
}


class Line(NamedTuple):
    section: str
    name: str
    level: Level
    text: str
    do: str = ""  # empty if nothing is to be done


def show(lines: Sequence[Line]) -> None:
    terminal = screen.console()
    section = ""
    for line in lines:
        if line.section != section:
            terminal.print(Text(("\n" if section else "") + line.section, "bold"))
            section = line.section
        word, style = _SHOWN[line.level]
        terminal.print(Text.assemble("  ", (word, style), f"  {line.name}: {line.text}"))
        if line.do:
            terminal.print(Text(f"        -> {line.do}", "bold"))


def as_json(lines: Sequence[Line]) -> dict[str, Any]:
    return {"ok": not failed(lines), "checks": [line._asdict() for line in lines]}


def failed(lines: Sequence[Line]) -> bool:
    return any(line.level == "failed" for line in lines)
