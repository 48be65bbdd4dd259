"""What is printed: tables and colours for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any, Final

from rich.console import Console
from rich.highlighter import NullHighlighter
from rich.table import Table
from rich.text import Text

# Of output that is no terminal: lines are for grep, not to be broken.
PLAIN_WIDTH: Final = 10_000
COLORS: Final = ("auto", "always", "never")

_color = "auto"


def choose_color(color: str) -> None:
    """auto: on a terminal, unless NO_COLOR is set."""
    global _color
    _color = color


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """rich would exit with 1, which means something else here."""
        raise BrokenPipeError


def console(*, error: bool = False) -> Console:
    """For one output; standard error if `error`."""
    stream = sys.stderr if error else sys.stdout
    made = _Console(
        file=stream,
        force_terminal=True if _color == "always" else None,
        no_color=True if _color == "never" else None,
        color_system="auto" if _color != "always" else "standard",
        highlighter=NullHighlighter(),
        markup=False,
        emoji=False,
        soft_wrap=not stream.isatty(),
    )
    if not stream.isatty() and _color != "always":
        made.width = PLAIN_WIDTH
    return made


def table(*heads: str, right: Sequence[str] = ()) -> Table:
    """Columns without frames, as kubectl's; those named in `right` are figures."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for head in heads:
        made.add_column(
            head, justify="right" if head in right else "left", no_wrap=head in right, overflow="fold"
        )
    return made


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def say(text: str | Text, style: str = "") -> None:
    """A line on standard error, out of the way of what another program reads."""
    console(error=True).print(text, style=style or None)
