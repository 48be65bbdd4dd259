"""`make soak` in short, and what it calls good."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import soak_watch
from soak_report import Result

HERE = Path(__file__).resolve().parent
COMMAND = (sys.executable, str(HERE / "soak_run.py"), "--period", "0.7", "--drift", "60")


@pytest.mark.once
def test_some_seconds_of_everything_at_once() -> None:
    done = subprocess.run(
        [*COMMAND, "--seconds", "8"], capture_output=True, text=True, timeout=110, check=False
    )
    print(done.stdout, done.stderr)  # with the seed, should it fail
    assert done.returncode == 0
    assert "GOOD: no call failed" in done.stdout
    rows = dict(re.findall(r"^(\w+) +(\d+) +0 +[\d.]+ ms", done.stdout, re.MULTILINE))
    assert len(rows) > 15
    assert int(rows["unlike_any_other"]) > 0
    assert re.search(r"^servers +\d+ started", done.stdout, re.MULTILINE)


@pytest.mark.once
def test_a_signal_ends_it_early_with_what_was_seen_and_a_failure() -> None:
    soak = subprocess.Popen([*COMMAND, "--seconds", "20"], stdout=subprocess.PIPE, text=True)
    assert soak.stdout is not None
    try:
        lines = iter(soak.stdout)
        assert any(" calls, 0 failed, " in line for line in lines)  # the first line of progress
        soak.send_signal(signal.SIGTERM)
        rest = "".join(lines)
        assert soak.wait(60) == 128 + signal.SIGTERM
    finally:
        soak.kill()
        soak.wait()
    assert "NOT GOOD: stopped by SIGTERM" in rest
    assert re.search(r"^greeter: unary +[1-9]", rest, re.MULTILINE)
    assert re.search(r"^resident memory +\d", rest, re.MULTILINE)


# --- what it calls good ---


def samples(resident: list[int]) -> list[soak_watch.Sample]:
    """One a second."""
    return [soak_watch.Sample(at, value, 10) for at, value in enumerate(resident)]


def whole(resident: list[int]) -> Result:
    """A soak of 100 s that ran to its end, with one call."""
    result = Result(100.0, 5.0, 1)
    result.samples.extend(samples(resident))
    result.cases = {"empty_unary": {"calls": 1, "failed": 0, "median": 0.001, "slowest": 0.001}}
    result.whole = True
    return result


def test_drift_compares_the_end_with_the_end_of_the_warm_up() -> None:
    steps = [1] * 20 + [100] * 70 + [104] * 10
    assert soak_watch.drift(samples(steps), 100.0) == (100, 104)
    assert whole(steps).status() == 0


def test_growth_beyond_what_is_allowed_is_not_good() -> None:
    result = whole([100] * 90 + [106] * 10)
    assert result.reasons() == ["resident memory grew by 6.0 %, allowed: 5 %"]
    assert result.status() == 1


def test_one_large_message_on_its_way_is_no_drift() -> None:
    assert whole([100] * 90 + [100, 100, 900, 100, 100, 100, 500, 100, 100, 100]).status() == 0


def test_a_run_that_was_cut_short_claims_no_drift() -> None:
    assert soak_watch.drift(samples([100] * 50), 100.0) is None


def test_a_failed_call_is_not_good_unless_a_kill_explains_it() -> None:
    result = whole([100] * 100)
    result.failed = 3
    result.explained = 2
    assert result.reasons() == ["1 calls failed"]
    result.explained = 3
    assert result.status() == 0


def test_what_stays_open_or_breaks_the_protocol_is_not_good() -> None:
    result = whole([100] * 100)
    result.left.append("open files: 12, at first 10")
    result.protocol_errors = {"FLOW_CONTROL_ERROR": 1}
    assert len(result.reasons()) == 2
    assert result.status() == 1
