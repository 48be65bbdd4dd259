"""Whether it was even: pure functions from what was counted to a table and a judgement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

# Sequential calls over fixed endpoints need not be off by more than one call; 5% leaves room for the calls
# of the report interval at either end.
EVEN_LIMIT: Final = 1.05
# A new server that waits longer than this for its first stream is not news a person would call prompt.
FIRST_STREAM_LIMIT_S: Final = 1.0
GONE: Final = "-"


class Phase(NamedTuple):
    """What was counted while the endpoints stood still. Both mappings name every server there was to
    choose from: one that got nothing has a 0, and one that was not there has no entry."""

    name: str
    calls: Mapping[str, int]  # finished unary calls, by server
    streams: Mapping[str, int]  # open long-lived streams at the end, by server
    failed: int  # calls and streams that failed in the whole phase, changes of endpoints included
    through_sidecar: bool = True


class Outcome(NamedTuple):
    """All of a run."""

    phases: Sequence[Phase]
    first_stream: Mapping[str, float]  # seconds from being written as an endpoint to the first reply
    new_streams: Mapping[str, int]  # where the streams went that were opened after servers had joined
    late_calls: int = 0  # calls on the server that left, after it had left


def max_over_mean(counts: Mapping[str, int]) -> float:
    """1.0 is even, and the number of servers is all on one. 0.0 if nothing was counted."""
    total = sum(counts.values())
    return max(counts.values()) * len(counts) / total if total else 0.0


def is_even(counts: Mapping[str, int]) -> bool:
    """False also for nothing counted at all: that shows nothing."""
    return 0.0 < max_over_mean(counts) <= EVEN_LIMIT


def reasons(outcome: Outcome) -> list[str]:
    """Why the run is not good, one sentence each; empty if it is."""
    found = [text for phase in outcome.phases for text in _phase_reasons(phase)]
    if not any(phase.through_sidecar for phase in outcome.phases):
        found.append("nothing was counted through the sidecar")
    for server, seconds in outcome.first_stream.items():
        if seconds > FIRST_STREAM_LIMIT_S:
            found.append(
                f"{server} got its first stream after {seconds * 1000:.0f} ms; "
                f"allowed: {FIRST_STREAM_LIMIT_S * 1000:.0f} ms"
            )
    elsewhere = sum(
        count for server, count in outcome.new_streams.items() if server not in outcome.first_stream
    )
    if elsewhere:
        found.append(f"{elsewhere} of the new long streams went to servers that had more than the new ones")
    if outcome.late_calls:
        found.append(f"{outcome.late_calls} calls went to a server that had left the EndpointSlice")
    return found


def _phase_reasons(phase: Phase) -> list[str]:
    found = []
    if phase.failed:
        found.append(f"{phase.name}: {phase.failed} calls failed")
    if not phase.through_sidecar:
        if sum(1 for count in phase.calls.values() if count) != 1:
            found.append(f"{phase.name}: one TCP connection did not lead to one server: {dict(phase.calls)}")
        return found
    for what, counts in (("calls", phase.calls), ("long streams", phase.streams)):
        if not is_even(counts):
            found.append(
                f"{phase.name}: {what} are not even: max/mean {max_over_mean(counts):.2f}, "
                f"allowed: {EVEN_LIMIT}"
            )
    return found


def table(phases: Sequence[Phase], servers: Sequence[str], width: int) -> list[str]:
    """A row per phase with a column per server; where `width` is too small, a block per phase (40 wide)."""
    header = ["phase", "calls", *servers, "max/mean", "open streams", "failed"]
    rows = [_row(phase, servers) for phase in phases]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    if sum(widths) + 2 * (len(widths) - 1) > width:
        short = [name.rpartition("-")[2] for name in servers]
        header = ["phase", "calls", *(f"#{name}" for name in short), "max/mean", "streams", "failed"]
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    if sum(widths) + 2 * (len(widths) - 1) > width:
        return [line for phase in phases for line in _block(phase)]
    return [_aligned(cells, widths) for cells in (header, *rows)]


def _row(phase: Phase, servers: Sequence[str]) -> list[str]:
    calls = [str(phase.calls.get(name, GONE)) for name in servers]
    streams = " ".join(str(phase.streams.get(name, GONE)) for name in servers)
    total = str(sum(phase.calls.values()))
    return [phase.name, total, *calls, f"{max_over_mean(phase.calls):.2f}", streams, str(phase.failed)]


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = zip(cells, widths, strict=True)
    return "  ".join([f"{first[0]:<{first[1]}}", *(f"{cell:>{width}}" for cell, width in rest)]).rstrip()


def _block(phase: Phase) -> list[str]:
    lines = [phase.name]
    lines += [
        f"  {name}: {count} calls, {phase.streams.get(name, 0)} open" for name, count in phase.calls.items()
    ]
    return [*lines, f"  max/mean {max_over_mean(phase.calls):.2f}", f"  failed {phase.failed}"]
