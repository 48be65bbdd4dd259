"""Tables, verdicts and the generated part of the documentation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import cases, report
from bench.__main__ import ours_failed
from bench.measure import Sample

Make = Callable[..., Sample]
UNARY = cases.choose_cases(["unary-4x32"], quick=False)
PEERS = [cases.HAPROXY, cases.ENVOY, cases.OURS]


@pytest.fixture
def rounds(sample: Make) -> list[Sample]:
    figures = {
        cases.HAPROXY: (21.0, 20.0, 22.0),
        cases.ENVOY: (50.0, 48.0, 90.0),
        cases.OURS: (9.0, 9.5, 8.0),
    }
    return [
        sample("unary-4x32", peer, value, number=number, calls=1000)
        for peer, values in figures.items()
        for number, value in enumerate(values)
    ]


def test_the_table_has_medians_ratios_and_verdicts(rounds: list[Sample]) -> None:
    header, line = report.table(UNARY, PEERS, rounds)
    assert header == [
        "what",
        "unit",
        "HAProxy h2",
        "Envoy",
        "Evenstream",
        "/ Envoy",
        "/ HAProxy h2",
        "must reach",
    ]
    assert line[1:7] == ["us/call", "21.0", "50.0", "9.00", "0.18", "0.43"]
    assert line[7] == "<= 0.2 x Envoy: yes; <= 0.5 x HAProxy h2: yes"


def test_a_missed_target_says_no(rounds: list[Sample], sample: Make) -> None:
    slow = [sample("unary-4x32", cases.OURS, 30.0) if s.peer == cases.OURS else s for s in rounds]
    assert report.table(UNARY, PEERS, slow)[1][-1] == "<= 0.2 x Envoy: NO; <= 0.5 x HAProxy h2: NO"


def test_a_target_against_another_row_of_ours(sample: Make) -> None:
    grown = cases.choose_cases(["endpoints"], quick=False)
    for most, word in ((11.9, "yes"), (12.1, "NO")):
        samples = [sample("endpoints-3", cases.OURS, 10.0), sample("endpoints-1000", cases.OURS, most)]
        assert report.table(grown, [cases.OURS], samples)[2][-1] == f"<= 1.2 x endpoints-3: {word}"


def test_an_absolute_limit(sample: Make) -> None:
    start = cases.choose_cases(["start"], quick=False)
    assert report.table(start, [cases.OURS], [sample("start", cases.OURS, 301.0)])[1][-1] == "<= 300 ms: NO"
    assert report.table(start, [cases.OURS], [sample("start", cases.OURS, 300.0)])[1][-1] == "<= 300 ms: yes"


def test_failed_calls_mark_the_figure_and_are_counted(rounds: list[Sample], sample: Make) -> None:
    bad = sample(
        "unary-4x32", cases.HAPROXY, 21.0, calls=90, failed=7, stalled=3, errors={"Internal: EOF": 7}
    )
    samples = [*rounds, bad]
    assert report.table(UNARY, PEERS, samples)[1][2] == "21.0 !"
    told = report.notes(samples)
    assert "! unary-4x32, haproxy-h2: 7 failed and 3 stalled of 3,100 calls (Internal: EOF)" in told
    assert not ours_failed(samples)


def test_a_missing_peer_is_a_dash_and_a_reason(rounds: list[Sample], sample: Make) -> None:
    samples = [s for s in rounds if s.peer != cases.ENVOY]
    samples += [sample("unary-4x32", cases.ENVOY, problem="no network")]
    line = report.table(UNARY, PEERS, samples)[1]
    assert (line[3], line[5]) == ("-", "-")
    assert line[-1] == "<= 0.2 x Envoy; <= 0.5 x HAProxy h2: yes"
    assert "- envoy not measured (unary-4x32): no network" in report.notes(samples)
    assert not ours_failed(samples)


@pytest.mark.parametrize("fault", [{"failed": 1}, {"stalled": 1}, {"problem": "did not start"}])
def test_only_our_own_failures_count(sample: Make, fault: dict[str, object]) -> None:
    assert not ours_failed([sample("start", cases.ENVOY, 1.0, **fault), sample("start", cases.OURS, 1.0)])
    assert ours_failed([sample("start", cases.OURS, 1.0, **fault)])


@pytest.mark.parametrize(("busy", "warned"), [(0.02, False), (0.6, True)])
def test_a_busy_machine_is_told(sample: Make, busy: float, warned: bool) -> None:
    line = report.notes([sample("start", cases.OURS, 1.0, busy=busy)])[-1]
    assert f"{busy:.0%}" in line
    assert ("only indicative" in line) == warned


@pytest.mark.parametrize(
    ("value", "text"),
    [(9.04, "9.04"), (21.55, "21.6"), (1234.5, "1,234"), (0.0, "0.00"), (-4252.0, "-4,252")],
)
def test_numbers(value: float, text: str) -> None:
    assert report.number(value) == text


def test_plain_columns_line_up(rounds: list[Sample]) -> None:
    header, line = report.plain(report.table(UNARY, PEERS, rounds)).splitlines()
    assert header.index("Envoy") + len("Envoy") == line.index("50.0") + len("50.0")


def test_the_documentation_is_replaced_between_its_markers_only(rounds: list[Sample], tmp_path: Path) -> None:
    path = tmp_path / "performance.md"
    path.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    for _ in range(2):  # writing twice changes nothing more
        report.write_docs(path, report.table(UNARY, PEERS, rounds), ["A remark."], "One machine.")
    text = path.read_text()
    assert text.startswith(f"before\n{report.BEGIN}\nOne machine.\n\n| what |")
    assert text.endswith(f"A remark.\n{report.END}\nafter\n")
    assert "old" not in text


def test_documentation_without_markers_is_left_alone() -> None:
    with pytest.raises(ValueError, match="are missing"):
        report.replace_between(f"{report.BEGIN} only", "body")


def test_the_real_documentation_has_the_markers() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "performance.md").read_text()
    assert "body" in report.replace_between(text, "body")


def test_json_holds_samples_and_summaries(rounds: list[Sample]) -> None:
    tree = json.loads(json.dumps(report.as_json(rounds, {"cores": 2})))
    assert len(tree["samples"]) == 9
    ours = next(figure for figure in tree["figures"] if figure["peer"] == cases.OURS)
    assert ours == {
        "row": "unary-4x32",
        "peer": "ours",
        "median": 9.0,
        "least": 8.0,
        "most": 9.5,
        "rounds": 3,
    }


def test_our_own_calls_are_told_even_when_none_failed(sample: Make) -> None:
    samples = [
        sample("call-16k", cases.OURS, 40.0, calls=20_000),
        sample("unary-4x32", cases.OURS, 9.0, calls=5),
    ]
    assert "Evenstream: 0 of 20,005 calls failed or stalled (20,000 calls of 16 KiB)." in report.notes(
        samples
    )


def test_one_reason_for_many_cases_is_one_line(sample: Make) -> None:
    cases_and_rounds = [("start", 0), ("memory", 0), ("start", 1)]
    samples = [
        sample(case, cases.ENVOY, number=number, problem="no network") for case, number in cases_and_rounds
    ]
    assert report.notes(samples)[:-1] == ["- envoy not measured (start, memory): no network"]
