"""A sidecar's /status as tables. The status may come from a sidecar of another version: what is missing is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from injector.cli import screen
from injector.cli.reasons import PASSED_THROUGH, LeftOut

Json = Mapping[str, Any]

STATES: Final = {
    "idle": ("idle", "dim"),
    "connecting": ("connecting", "yellow"),
    "ready": ("ready", "green"),
    "draining": ("draining: gone from the Service, its streams go on", "yellow"),
    "backoff": ("backing off: it could not be connected", "red"),
    "ejected": ("ejected: it failed too often", "red"),
}


def span(seconds: float | None) -> str:
    """1.2 s, 3 min, 5 h."""
    if seconds is None:
        return "never"
    for limit, divisor, unit in ((1.0, 0.001, "ms"), (120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            value = seconds / divisor
            return f"{value:.1f} {unit}" if value < 10 and unit == "s" else f"{value:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"


def errors(figures: Json) -> int:
    """Streams of an endpoint that did not end well."""
    status = {int(code): count for code, count in (figures.get("grpc_status") or {}).items()}
    failed = sum(count for code, count in status.items() if code > 0)
    return int(
        failed + figures["failures_total"] + figures["refused_total"] + figures["connect_failures_total"]
    )


def sidecar(terminal: Console, status: Json) -> None:
    build, source = status["build"], status["source"]
    style = "green" if status["state"] == "ready" else "yellow"
    reason = "" if status["reason"] == status["state"] else f" ({status['reason']})"
    terminal.print(
        Text.assemble(
            ("\nSidecar: ", "bold"),
            (status["state"] + reason, style),
            f", up {span(build['uptime_seconds'])}, version {build['version']}, {build['build']}",
        )
    )
    told = [str(source.get("kind")), str(source.get("server") or ""), str(source.get("state") or "")]
    heard = (
        f", last heard of {span(source['age_seconds'])} ago" if source.get("age_seconds") is not None else ""
    )
    terminal.print(f"  endpoints from: {', '.join(each for each in told if each)}{heard}")
    if source.get("last_error"):
        terminal.print(Text(f"  last error there: {source['last_error']}", "red"))


def service(terminal: Console, found: Json, left_out: Sequence[LeftOut]) -> None:
    age = found["snapshot_age_seconds"]
    told = f"told by {found['source']} {span(age)} ago" if age is not None else "not yet told by the source"
    rung, rung_age = found.get("rung", "live"), found.get("rung_age_seconds")
    stale = f", known from {rung}" if rung != "live" else ""
    stale += f" {span(rung_age)} ago" if stale and rung_age is not None else ""
    waiting = f", {found['queued_streams']} streams wait for an endpoint" if found["queued_streams"] else ""
    terminal.print(
        Text.assemble(
            (f"\n{found['service']}", "bold"),
            f"  {len(found['endpoints'])} endpoints, {told}, {found['streams_total']:,} calls",
            (stale, "yellow"),
            (waiting, "red"),
        )
    )
    if not found["exists"]:
        terminal.print(Text("  the source knows of no such Service or port", "red"))
    if found["endpoints"]:
        terminal.print(_endpoints(found["endpoints"]))
    for one in left_out:
        named = f"{one.pod} ({one.address})" if one.pod else one.address
        terminal.print(Text.assemble("  left out: ", f"{named}: ", (one.why, "yellow")))


def _endpoints(endpoints: Sequence[Json]) -> Any:
    right = ("OPEN", "CALLS", "ERRORS")
    table = screen.table("  ENDPOINT", "ADDRESS", "ZONE", *right, "STATE", right=right)
    for each in endpoints:
        word, style = STATES.get(each["state"], (each["state"], ""))
        if each["last_error"] and each["state"] != "ready":
            word += f" ({each['last_error']})"
        failed = errors(each)
        table.add_row(
            f"  {each['pod'] or '-'}",
            each["address"],
            each["zone"],
            f"{each['open_streams']:,}",
            f"{each['streams_total']:,}",
            Text(f"{failed:,}", "red" if failed else ""),
            Text(word, style),
        )
    return table


def connections(terminal: Console, found: Json) -> None:
    """What was not spread, and why."""
    reasons: Mapping[str, int] = found.get("passthrough_reasons") or {}
    if not reasons:
        terminal.print(Text.assemble(("\nPassed through: ", "bold"), "nothing"))
        return
    terminal.print(Text("\nPassed through as it came, so not spread", "bold"))
    table = screen.table("  WHY", "CONNECTIONS", "WHAT IT MEANS", right=("CONNECTIONS",))
    for reason, count in sorted(reasons.items(), key=lambda item: -item[1]):
        short, meaning = PASSED_THROUGH.get(reason, (reason, ""))
        table.add_row(f"  {short}", f"{count:,}", meaning)
    terminal.print(table)
    recent = found.get("passthrough") or ()
    if recent:
        table = screen.table("  WHERE TO", "SERVICE", "CONNECTIONS", "WHY", right=("CONNECTIONS",))
        for each in recent:
            short, _ = PASSED_THROUGH.get(each["reason"], (each["reason"], ""))
            table.add_row(
                f"  {each['destination']}", each["service"] or "-", f"{each['connections']:,}", short
            )
        terminal.print(table)
