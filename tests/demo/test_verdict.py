"""The judgement must fail whatever is not even, and only that."""

from __future__ import annotations

from typing import Any

import pytest
from demolib.verdict import Outcome, Phase, is_even, max_over_mean, reasons, table

DIRECT = Phase("direct", {"a": 300, "b": 0, "c": 0}, {"a": 12, "b": 0, "c": 0}, 0, through_sidecar=False)
EVEN = Phase("sidecar", {"a": 100, "b": 101, "c": 100}, {"a": 4, "b": 4, "c": 4}, 0)
GOOD = Outcome([DIRECT, EVEN], first_stream={"c": 0.02}, new_streams={"c": 4})


def with_phase(**changes: Any) -> Outcome:
    return GOOD._replace(phases=[DIRECT, EVEN._replace(**changes)])


def test_a_good_run_has_no_reasons() -> None:
    assert reasons(GOOD) == []


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (with_phase(calls={"a": 120, "b": 90, "c": 90}), "sidecar: calls are not even: max/mean 1.20"),
        # All on one: even among those that answered, and not at all among those there are.
        (with_phase(calls={"a": 300, "b": 0, "c": 0}), "sidecar: calls are not even: max/mean 3.00"),
        (with_phase(calls={"a": 0, "b": 0, "c": 0}), "sidecar: calls are not even: max/mean 0.00"),
        (with_phase(calls={}), "sidecar: calls are not even"),
        (with_phase(streams={"a": 5, "b": 4, "c": 3}), "sidecar: long streams are not even: max/mean 1.25"),
        (with_phase(failed=1), "sidecar: 1 calls failed"),
        (GOOD._replace(phases=[DIRECT._replace(failed=2), EVEN]), "direct: 2 calls failed"),
        (
            GOOD._replace(phases=[DIRECT._replace(calls={"a": 150, "b": 150, "c": 0}), EVEN]),
            "direct: one TCP connection did not lead to one server",
        ),
        (GOOD._replace(first_stream={"c": 1.5}), "c got its first stream after 1500 ms; allowed: 1000 ms"),
        (GOOD._replace(new_streams={"c": 3, "a": 1}), "1 of the new long streams went to servers that had"),
        (GOOD._replace(phases=[DIRECT]), "nothing was counted through the sidecar"),
        (GOOD._replace(phases=[]), "nothing was counted through the sidecar"),
        (GOOD._replace(late_calls=3), "3 calls went to a server that had left"),
    ],
)
def test_what_is_not_good_is_named(outcome: Outcome, reason: str) -> None:
    (found,) = reasons(outcome)
    assert found.startswith(reason)


@pytest.mark.parametrize(("most", "even"), [(105, True), (106, False)])
def test_the_limit_is_five_per_cent(most: int, even: bool) -> None:
    rest = 200 - most
    assert is_even({"a": most, "b": rest}) is even
    assert max_over_mean({"a": most, "b": rest}) == pytest.approx(most / 100)


def test_the_table_shows_every_server_of_every_phase() -> None:
    header, direct, sidecar = table(GOOD.phases, ["a", "b", "c"], 80)
    assert header.split() == ["phase", "calls", "a", "b", "c", "max/mean", "open", "streams", "failed"]
    assert direct.split() == ["direct", "300", "300", "0", "0", "3.00", "12", "0", "0", "0"]
    assert sidecar.split() == ["sidecar", "301", "100", "101", "100", "1.01", "4", "4", "4", "0"]


def test_a_server_that_was_not_there_is_no_zero() -> None:
    left = Phase("one left", {"greeter-1": 5, "greeter-3": 5}, {"greeter-1": 1, "greeter-3": 1}, 0)
    _, row = table([left], ["greeter-1", "greeter-2", "greeter-3"], 100)
    assert row.split()[3:6] == ["5", "-", "5"]


@pytest.mark.parametrize("width", [40, 50, 66, 80, 104, 200])
def test_the_table_fits_the_terminal(width: int) -> None:
    names = [f"greeter-{number}" for number in range(1, 6)]
    counts = dict.fromkeys(names, 1000)
    lines = table([Phase("two joined", counts, counts, 0)], names, width)
    assert max(map(len, lines)) <= width
    assert "1000" in "\n".join(lines)
