import pytest

from bench import cases
from bench.__main__ import main, measurements, order


def test_names_and_rows_are_unique_and_targets_exist() -> None:
    rows = [row for case in cases.CASES for row in case.rows]
    assert len({case.name for case in cases.CASES}) == len(cases.CASES)
    assert len({row.key for row in rows}) == len(rows)
    for row in rows:
        for target in row.targets:
            assert target.peer in cases.PEERS
            assert not target.row or target.row in {other.key for other in rows}


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["unary"], ["unary-4x32", "unary-32x8", "unary-1x1"]),
        (["own-4x32", "start"], ["own-4x32", "start"]),
        (["*-1x1"], ["unary-1x1", "own-1x1"]),
    ],
)
def test_cases_are_chosen_by_name_prefix_or_pattern(patterns: list[str], names: list[str]) -> None:
    assert [case.name for case in cases.choose_cases(patterns, quick=True)] == names


def test_quick_leaves_cases_out_unless_they_are_asked_for() -> None:
    quick = cases.choose_cases([], quick=True)
    assert 0 < len(quick) < len(cases.choose_cases([], quick=False)) == len(cases.CASES)


def test_an_unknown_name_says_what_there_is() -> None:
    with pytest.raises(cases.UnknownNameError, match="'unray' is not allowed; cases: unary-4x32"):
        cases.choose_cases(["unray"], quick=False)
    with pytest.raises(cases.UnknownNameError, match="'nginx' is not allowed; peers: haproxy-tcp"):
        cases.choose_peers(["nginx"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--only", "unray"],
        ["--peers", "nginx"],
        ["--rounds", "1000"],
        ["--rounds", "0"],
        ["--seconds", "0"],
        ["--quick", "--write-docs"],
    ],
)
def test_bad_arguments_end_with_2(arguments: list[str]) -> None:
    assert main(arguments) == 2


def test_each_round_begins_with_another_peer() -> None:
    peers = ["a", "b", "c"]
    assert [order(peers, number)[0] for number in range(4)] == ["a", "b", "c", "a"]
    assert sorted(order(peers, 2)) == peers


def test_a_case_is_measured_only_with_its_own_peers() -> None:
    event = cases.choose_cases(["event"], quick=False)
    assert [peer for _, _, peer in measurements(event, cases.PEERS, 2)] == [
        *(cases.OURS, cases.INTERPRETED),
        *(cases.OURS, cases.INTERPRETED),
    ]
