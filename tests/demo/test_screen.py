"""What a person watches: it fits, it redraws in place, and it is plain where it has to be."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping

import pytest
from demolib.screen import LiveScreen, PlainScreen, Row, Screen, View, choose, short_names

VIEW = View(
    [
        Row("greeter-1", "", 0.5, 120, 4),
        Row("greeter-2", "leaving", 0.0, 3, 15),
        Row("greeter-3", "new", 0.5, 1000, 0),
    ],
    rate=100.0,
    failed=0,
)
CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def tell(screen: Screen) -> None:
    screen.event("before it all")
    screen.phase("1 of 1  A title that is longer than a narrow terminal is wide", "And a text.")
    screen.show(VIEW)
    screen.event("something happened that takes a few words to say")
    screen.lines(["the end"], "bold")
    screen.close()


@pytest.mark.parametrize(
    ("out", "environment", "plain", "kind"),
    [
        (Terminal(), {"TERM": "xterm-256color"}, False, LiveScreen),
        (Terminal(), {"TERM": "xterm-256color", "NO_COLOR": "1"}, False, LiveScreen),
        (Terminal(), {"TERM": "xterm-256color"}, True, PlainScreen),
        (Terminal(), {"TERM": "dumb"}, False, PlainScreen),
        (Terminal(), {}, False, PlainScreen),
        (io.StringIO(), {"TERM": "xterm-256color"}, False, PlainScreen),
    ],
)
def test_only_a_terminal_that_can_gets_the_live_screen(
    out: io.StringIO, environment: Mapping[str, str], plain: bool, kind: type
) -> None:
    assert type(choose(out, environment, plain)) is kind


def test_plain_has_no_control_sequences_and_says_everything() -> None:
    out = io.StringIO()
    tell(PlainScreen(out))
    text = out.getvalue()
    assert "\x1b" not in text
    assert "calls: greeter-1 120, greeter-2 3, greeter-3 1000; open streams: 4 15 0; failed: 0" in text
    for said in ("before it all", "A title", "something happened", "the end"):
        assert said in text


def test_no_color_still_redraws_but_without_colours() -> None:
    out = Terminal()
    tell(choose(out, {"TERM": "xterm", "NO_COLOR": "1"}, False))
    sequences = set(CONTROL.findall(out.getvalue()))
    assert any(sequence.endswith("A") for sequence in sequences)
    assert {sequence for sequence in sequences if sequence.endswith("m")} <= {"\x1b[0m"}


def test_without_unicode_the_bars_are_ascii() -> None:
    out = Terminal()
    out.encoding = "ascii"
    tell(choose(out, {"TERM": "xterm"}, False))
    assert out.getvalue().isascii()
    assert "#####" in out.getvalue()


@pytest.mark.parametrize("columns", [20, 40, 60, 80, 120, 300])
def test_no_line_is_wider_than_the_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("LINES", "40")
    out = Terminal()
    tell(choose(out, {"TERM": "xterm"}, False))
    for line in out.getvalue().replace("\r", "\n").split("\n"):
        assert len(CONTROL.sub("", line)) <= columns


@pytest.mark.parametrize(("columns", "lines"), [(80, 40), (80, 8), (40, 12)])
def test_it_redraws_in_place(monkeypatch: pytest.MonkeyPatch, columns: int, lines: int) -> None:
    """Played back on a terminal, the panel stands there once however often it was drawn."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("LINES", str(lines))
    out = Terminal()
    tell(choose(out, {"TERM": "xterm"}, False))
    rows = played_back(out.getvalue(), lines)
    assert sum("greeter-1" in row for row in rows) == 1
    assert sum("happened" in row for row in rows) == 1
    assert "the end" in rows[-2:]


def test_the_cursor_is_given_back() -> None:
    out = Terminal()
    tell(choose(out, {"TERM": "xterm"}, False))
    text = out.getvalue()
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def played_back(text: str, height: int) -> list[str]:
    """The rows of a terminal and its scrollback after `text`: newlines, cursor up, erase to the end."""
    rows = [""]
    at = column = 0
    for part in re.split(r"(\x1b\[[0-9;?]*[a-zA-Z]|\n|\r)", text):
        if part in ("\n", "\r"):
            column = 0
            at += part == "\n"
            if at == len(rows):
                rows.append("")
        elif part.startswith("\x1b[") and part.endswith("A"):
            # A terminal's cursor stops at its top row; what has scrolled off is out of reach.
            at = max(at - int(part[2:-1]), len(rows) - height, 0)
        elif part in ("\x1b[K", "\x1b[J"):
            rows[at] = rows[at][:column]
            if part == "\x1b[J":
                del rows[at + 1 :]
        elif not part.startswith("\x1b"):
            rows[at] = rows[at][:column] + part + rows[at][column + len(part) :]
            column += len(part)
    return rows


def test_long_names_lose_what_they_have_in_common() -> None:
    assert short_names(["greeter-1", "greeter-2"]) == ["greeter-1", "greeter-2"]
    assert short_names(["greeter-665644b47-w6ch4", "greeter-665644b47-w7qbb"]) == ["w6ch4", "w7qbb"]
    # Of two ReplicaSets.
    assert short_names(["greeter-665644b47-w6ch4", "greeter-77b-x"]) == ["665644b47-w6ch4", "77b-x"]
    assert short_names(["one-long-name-of-its-own"]) == ["own"]
    assert short_names(["nothing-in-common", "something-else"]) == ["nothing-in-common", "something-else"]
    assert short_names([]) == []
