"""The end of a demo: the table, the judgement, the exit status."""

from __future__ import annotations

from collections.abc import Sequence

from demolib import verdict
from demolib.screen import Screen


def conclude(
    screen: Screen, outcome: verdict.Outcome, servers: Sequence[str], width: int, trouble: str = ""
) -> int:
    """Show them; the exit status. `servers`: the table's columns. `trouble`: why the story did not come to
    its end."""
    if outcome.phases:
        header, *rows = verdict.table(outcome.phases, servers, width)
        screen.lines(["", header], "bold")
        screen.lines(rows)
    if outcome.first_stream:
        waits = ", ".join(f"{name} {seconds * 1000:.0f} ms" for name, seconds in outcome.first_stream.items())
        screen.lines(["", f"From an EndpointSlice's change to a new server's first stream: {waits}"])
    found = verdict.reasons(outcome) + ([trouble] if trouble else [])
    if found:
        screen.lines(["", "FAILED: it was not even, or not without failure.", *found], "red")
        return 1
    screen.lines(["", "EVEN: every server got its share, and no call failed."], "green")
    return 0
