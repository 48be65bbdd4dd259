"""What a person watches: a panel redrawn in place on a terminal, plain lines anywhere else."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Protocol, TextIO

_CSI: Final = "\x1b["
_STYLES: Final = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_STYLED: Final = re.compile(r"\x1b\[[0-9;]*m")
_EIGHTHS: Final = " ▏▎▍▌▋▊▉"
MAX_DOTS: Final = 12  # more open streams than this are told by the number beside them
MAX_BAR: Final = 50
MIN_NAME: Final = 10  # the column of names, so that it does not move when the first longer one comes
MIN_BAR: Final = 10  # a shorter bar shows nothing that the per cent beside it do not
MAX_PLAIN_NAME: Final = 12  # longer ones are shortened where five of them stand on a line
PLAIN_EVERY_S: Final = 1.0
DRAW_EVERY_S: Final = 0.08  # smooth to the eye, and no load

# How a server's state is shown; the word stands beside it, so that colour is never all there is.
STATES: Final = {
    "": "green",
    "busy": "red",
    "idle": "dim",
    "starting": "dim",
    "new": "cyan",
    "leaving": "yellow",
    "stopped": "dim",
}


ABSENT: Final = ("starting", "leaving", "stopped")  # they have no share

STATE_WIDTH: Final = max(map(len, STATES))


class Row(NamedTuple):
    """One server on the panel."""

    name: str
    state: str  # a key of STATES
    share: float  # of the calls in the last second, 0 to 1
    calls: int  # in this phase
    streams: int  # open now


class View(NamedTuple):
    """The panel at one moment."""

    rows: Sequence[Row]
    rate: float  # calls a second, now
    failed: int  # since the start


class Screen(Protocol):
    """Where the demo tells its story. `close` comes last, always, and leaves the terminal as it was."""

    def phase(self, title: str, text: str) -> None: ...
    def event(self, text: str) -> None: ...
    def show(self, view: View) -> None: ...
    def lines(self, lines: Sequence[str], style: str = "") -> None: ...
    def close(self) -> None: ...


def choose(out: TextIO, environment: Mapping[str, str], plain: bool) -> Screen:
    """The live screen on a terminal that can redraw, else the plain one. NO_COLOR is respected
    (https://no-color.org), and so is an encoding that has no block characters."""
    live = not plain and out.isatty() and environment.get("TERM", "dumb") not in ("", "dumb")
    if not live:
        return PlainScreen(out)
    unicode = (out.encoding or "").lower().replace("-", "") == "utf8"
    return LiveScreen(out, colour=not environment.get("NO_COLOR"), unicode=unicode)


class PlainScreen:
    """For logs and pipes: each phase, each event, and the counts once a second."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._begin = time.monotonic()
        self._next = 0.0

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self._begin:6.1f} s  {text}", file=self._out, flush=True)

    def phase(self, title: str, text: str) -> None:
        print(f"\n{title}\n{text}", file=self._out, flush=True)

    def event(self, text: str) -> None:
        self._say(f"* {text}")

    def show(self, view: View) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + PLAIN_EVERY_S
        names = short_names([row.name for row in view.rows])
        calls = ", ".join(f"{name} {row.calls}" for name, row in zip(names, view.rows, strict=True))
        streams = " ".join(str(row.streams) for row in view.rows)
        self._say(f"calls: {calls}; open streams: {streams}; failed: {view.failed}")

    def lines(self, lines: Sequence[str], style: str = "") -> None:
        print("\n".join(lines), file=self._out, flush=True)

    def close(self) -> None:
        self._out.flush()


def short_names(names: Sequence[str]) -> list[str]:
    """Long ones, as pods of one ReplicaSet have, without what they have in common."""
    if max(map(len, names), default=0) <= MAX_PLAIN_NAME:
        return list(names)
    parts = [name.split("-") for name in names]
    common = 0
    for column in zip(*parts, strict=False):
        if len(set(column)) > 1:
            break
        common += 1
    return ["-".join(each[min(common, len(each) - 1) :]) for each in parts]


class LiveScreen:
    """A panel per phase, redrawn in place: title, a row per server, what happened. The panels of earlier
    phases stay above it as they ended."""

    def __init__(self, out: TextIO, *, colour: bool, unicode: bool) -> None:
        self._out = out
        self._colour = colour
        self._unicode = unicode
        self._begin = time.monotonic()
        self._next = 0.0
        self._title = ""
        self._text = ""
        self._view = View((), 0.0, 0)
        self._events: list[tuple[str, str]] = []  # of this phase: when, what
        self._drawn: list[int] = []  # the lengths of the panel's lines as they stand on the terminal
        self._out.write(f"{_CSI}?25l")  # no cursor jumping about

    def phase(self, title: str, text: str) -> None:
        self._draw()
        self._drawn, self._events = [], []
        self._view = View((), 0.0, self._view.failed)
        self._title, self._text = title, text
        self._draw()

    def event(self, text: str) -> None:
        self._events.append((f"{time.monotonic() - self._begin:6.1f} s", text))
        self._draw()

    def show(self, view: View) -> None:
        self._view = view
        if time.monotonic() >= self._next:
            self._draw()

    def lines(self, lines: Sequence[str], style: str = "") -> None:
        """Leave the panel as it stands and write below it."""
        self._draw()
        self._drawn, self._title, self._events = [], "", []
        self._out.write("".join(f"{self._style(line, style)}\n" for line in lines))
        self._out.flush()

    def close(self) -> None:
        self._out.write(f"{_CSI}0m{_CSI}?25h")
        self._out.flush()

    def _style(self, text: str, style: str) -> str:
        return f"{_CSI}{_STYLES[style]}m{text}{_CSI}0m" if self._colour and style else text

    def _draw(self) -> None:
        """Over what stands there, line by line: nothing flickers, and no terminal takes it for a clearing of
        the screen that it should keep a copy of."""
        self._next = time.monotonic() + DRAW_EVERY_S
        width, height = shutil.get_terminal_size((80, 24))
        # Of now: a terminal made narrower has wrapped what was drawn.
        up = sum(max(1, -(-length // max(width, 1))) for length in self._drawn)
        lines = self._panel(width, height - 1)
        self._drawn = [len(_STYLED.sub("", line)) for line in lines]
        self._out.write(f"{_CSI}{up}A\r" if up else "")
        self._out.write("".join(f"{line}{_CSI}K\n" for line in lines) + f"{_CSI}J")
        self._out.flush()

    def _panel(self, width: int, height: int) -> list[str]:
        """At most `height` lines, none as wide as `width`: a panel taller than the terminal could not be
        redrawn, for the cursor does not go up into the scrollback."""
        view = self._view
        events = [line for moment, text in self._events for line in self._event_lines(moment, text, width)]
        if not self._title:
            return events[-height:]
        head = [self._style(line, "bold") for line in _wrapped(self._title, width - 1)]
        text = [self._style(line, "dim") for line in _wrapped(self._text, width - 1)]
        legend = f"  {'':<{self._name_width()}} share of calls, last second"
        shown = [self._style(legend, "dim")] if view.rows and len(legend) + MIN_BAR < width else []
        rows = [self._row(row, width) for row in view.rows]
        # From what can be spared first to what comes last: explanations, older events, the title.
        for panel in (
            ["", *head, *text, "", *shown, *rows, "", self._foot(width), *events],
            [*head, *shown, *rows, self._foot(width), *events],
            [*head, *rows, *events[-max(height - len(head) - len(rows), 1) :]],
        ):
            if len(panel) <= height:
                return panel
        return rows[:height]

    def _foot(self, width: int) -> str:
        calls = sum(row.calls for row in self._view.rows)
        streams = sum(row.streams for row in self._view.rows)
        failed = f"{self._view.failed} failed"
        for counts in (f"{calls} calls, {self._view.rate:.0f} a second, {streams} open streams, ", ""):
            if 2 + len(counts) + len(failed) < width:
                break
        return f"  {counts}{self._style(failed, 'red' if self._view.failed else '')}"

    def _event_lines(self, moment: str, text: str, width: int) -> list[str]:
        lines = _wrapped(text, width - len(moment) - 2)
        first = f"{self._style(moment, 'dim')}  {lines[0]}"
        return [first, *(" " * (len(moment) + 2) + line for line in lines[1:])]

    def _row(self, row: Row, width: int) -> str:
        style = STATES[row.state]
        name = f"  {row.name:<{self._name_width()}} "
        counts = f"{row.share:>5.0%} {row.calls:>6} calls  "
        # Dots for the streams and a bar where there is room, else a number and a bar, else no bar.
        for streams in (self._dots(row.streams), f"{row.streams:>2} open "):
            bar = width - 1 - len(name) - len(counts) - len(streams) - STATE_WIDTH
            if bar >= MIN_BAR:
                drawn = self._bar(row.share, min(bar, MAX_BAR), style)
                return f"{name}{drawn}{counts}{self._style(streams + row.state, style)}".rstrip()
        text = f"{name}{counts}{row.streams:>2} open {row.state}"
        return self._style(text[: max(width - 1, 1)].rstrip(), style)

    def _name_width(self) -> int:
        return max([MIN_NAME, *(len(row.name) for row in self._view.rows)])

    def _bar(self, share: float, width: int, style: str) -> str:
        """`share` of `width`, and a mark where all bars end when it is even."""
        present = [row for row in self._view.rows if row.state not in ABSENT]
        fair = round(width / len(present)) if len(present) > 1 else width
        if self._unicode:
            whole, part = divmod(round(share * width * 8), 8)
            full = "█" * whole + (_EIGHTHS[part] if part else "")
        else:
            full = "#" * round(share * width)
        rest = [" "] * (width - len(full))
        if len(full) < fair <= width and rest:
            rest[min(fair - len(full), len(rest)) - 1] = "┊" if self._unicode else "|"
        return self._style(full, style) + self._style("".join(rest), "dim")

    def _dots(self, streams: int) -> str:
        dot = "●" if self._unicode else "o"
        return f"{dot * min(streams, MAX_DOTS):<{MAX_DOTS}} {streams:>2} "


def _wrapped(text: str, width: int) -> list[str]:
    """`text` in lines of at most `width` characters, broken between words where there are any."""
    lines: list[str] = []
    for word in text.split(" "):
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += " " + word
        else:
            lines.append(word[: max(width, 1)])
    return lines
