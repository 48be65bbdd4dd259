"""Samples in, tables out. Pure but for `write_docs`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench import cases
from bench.cases import Case, Row
from bench.measure import Sample
from bench.stats import Summary, ratio, summarise

BEGIN: Final = "<!-- bench:begin (written by `python -m bench --write-docs`) -->"
END: Final = "<!-- bench:end -->"
# With others using more of the machine than this, caches and turbo are not ours and the figures wander.
BUSY_SHARE: Final = 0.15
TITLES: Final = {
    cases.HAPROXY_TCP: "HAProxy tcp",
    cases.HAPROXY: "HAProxy h2",
    cases.ENVOY: "Envoy",
    cases.OURS: "Evenstream",
    cases.INTERPRETED: "interpreted",
}

Figures = Mapping[tuple[str, str], Summary]  # by row key and peer


class Verdict(NamedTuple):
    """One thing that is to be reached, and whether it is (None: not measured)."""

    text: str
    met: bool | None


def figures(samples: Iterable[Sample]) -> dict[tuple[str, str], Summary]:
    """The rounds of each row and peer, summed up."""
    values: dict[tuple[str, str], list[float]] = {}
    for sample in samples:
        for key, value in sample.values.items():
            values.setdefault((key, sample.peer), []).append(value)
    found = {place: summarise(rounds) for place, rounds in values.items()}
    return {place: summary for place, summary in found.items() if summary is not None}


def verdicts(row: Row, found: Figures) -> list[Verdict]:
    ours = found.get((row.key, cases.OURS))
    result = []
    for target in row.targets:
        other = found.get((target.row or row.key, target.peer))
        share = ratio(ours, other)
        if share is None and ours is not None and other is not None:
            share = 0.0 if ours.median <= other.median else None  # added latency may be 0 or less
        name = f"{TITLES[target.peer]}" if not target.row else target.row
        result.append(
            Verdict(f"<= {target.most:g} x {name}", None if share is None else share <= target.most)
        )
    if row.limit is not None:
        met = None if ours is None else ours.median <= row.limit
        result.append(Verdict(f"<= {row.limit:g} {row.unit}", met))
    return result


def number(value: float) -> str:
    """Three significant figures or so, without exponents."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _cell(found: Figures, row: Row, peer: str, spoiled: set[tuple[str, str]], case: Case) -> str:
    summary = found.get((row.key, peer))
    if summary is None:
        return "-"
    return number(summary.median) + (" !" if (case.name, peer) in spoiled else "")


def table(chosen: Sequence[Case], peers: Sequence[str], samples: Sequence[Sample]) -> list[list[str]]:
    """Header and rows as text cells."""
    found = figures(samples)
    spoiled = {(s.case, s.peer) for s in samples if s.failed or s.stalled}
    header = ["what", "unit", *(TITLES[peer] for peer in peers)]
    compared = [peer for peer in (cases.ENVOY, cases.HAPROXY) if peer in peers and cases.OURS in peers]
    header += [f"/ {TITLES[peer]}" for peer in compared]
    lines = [[*header, "must reach"]]
    for case in chosen:
        for row in case.rows:
            cells = [row.title, row.unit]
            cells += [_cell(found, row, peer, spoiled, case) for peer in peers]
            for peer in compared:
                share = ratio(found.get((row.key, cases.OURS)), found.get((row.key, peer)))
                cells.append("-" if share is None else f"{share:.2f}")
            marks = {True: ": yes", False: ": NO", None: ""}
            cells.append("; ".join(f"{v.text}{marks[v.met]}" for v in verdicts(row, found)))
            lines.append(cells)
    return lines


def notes(samples: Sequence[Sample]) -> list[str]:
    """What the table cannot say: calls that failed, peers that are missing, a machine that was busy."""
    lines = []
    groups: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        groups.setdefault((sample.case, sample.peer), []).append(sample)
    for (case, peer), rounds in groups.items():
        failed, stalled = sum(s.failed for s in rounds), sum(s.stalled for s in rounds)
        if failed or stalled:
            errors = [text for s in rounds for text in s.errors]
            calls = sum(s.calls for s in rounds) + failed + stalled
            why = f" ({errors[0]})" if errors else ""
            lines.append(
                f"! {case}, {peer}: {failed:,} failed and {stalled:,} stalled of {calls:,} calls{why}"
            )
    lines.extend(_problems(samples))
    for peer in cases.OWN:
        own = [s for s in samples if s.peer == peer and s.calls]
        if own:
            calls = sum(s.calls + s.failed + s.stalled for s in own)
            bad = sum(s.failed + s.stalled for s in own)
            big = sum(s.calls for s in own if s.case == "call-16k")
            lines.append(
                f"{TITLES[peer]}: {bad:,} of {calls:,} calls failed or stalled ({big:,} calls of 16 KiB)."
            )
    busy = summarise([sample.busy for sample in samples])
    if busy is not None:
        warning = "; the figures are only indicative" if busy.median > BUSY_SHARE else ""
        lines.append(
            f"Others used {busy.median:.0%} of the machine (median; up to {busy.most:.0%}) just before "
            f"measurements{warning}."
        )
    return lines


def _problems(samples: Sequence[Sample]) -> list[str]:
    """A line for each peer and reason; one reason often spoils every case."""
    places: dict[tuple[str, str], list[str]] = {}
    for sample in samples:
        if sample.problem:
            names = places.setdefault((sample.peer, sample.problem), [])
            if sample.case not in names:
                names.append(sample.case)
    return [f"- {peer} not measured ({', '.join(names)}): {text}" for (peer, text), names in places.items()]


def plain(lines: Sequence[Sequence[str]]) -> str:
    """For a terminal: columns, figures to the right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    last = len(widths) - 1
    text = []
    for line in lines:
        cells = [
            cell.ljust(width) if column in (0, 1, last) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        text.append("  ".join(cells).rstrip())
    return "\n".join(text)


def markdown(lines: Sequence[Sequence[str]]) -> str:
    columns = len(lines[0])
    rule = ["---", "---", *["---:"] * (columns - 3), "---"]
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])


def replace_between(text: str, body: str) -> str:
    """`text` with what stands between the markers replaced. Raises ValueError without both markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the markers {BEGIN!r} and {END!r} are missing")
    return f"{before}{BEGIN}\n{body}\n{END}{after}"


def write_docs(path: Path, lines: Sequence[Sequence[str]], remarks: Sequence[str], about: str) -> None:
    body = "\n".join([about, "", markdown(lines), "", *(f"{remark}\n" for remark in remarks)]).rstrip()
    path.write_text(replace_between(path.read_text(), body))


def as_json(samples: Sequence[Sample], about: Mapping[str, Any]) -> dict[str, Any]:
    summaries = [
        {"row": key, "peer": peer, **summary._asdict()} for (key, peer), summary in figures(samples).items()
    ]
    plain_samples = [{**s._asdict(), "errors": dict(s.errors), "detail": dict(s.detail)} for s in samples]
    return {"about": dict(about), "figures": summaries, "samples": plain_samples}
