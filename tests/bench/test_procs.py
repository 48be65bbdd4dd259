"""Children end with what started them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from bench.procs import Group, Process, ProcessFailedError, parse_busy, resident_mb

CORE = min(os.sched_getaffinity(0))
SAY = "import json, sys; print(json.dumps({'pid': 1}), flush=True); sys.stdin.read()"
STUBBORN = (
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('{}', flush=True); signal.pause()"
)


def test_a_child_is_pinned_speaks_json_and_ends_with_the_block(tmp_path: Path) -> None:
    with Group() as group:
        child = group.start([sys.executable, "-c", SAY], CORE, tmp_path / "log")
        assert child.read_json(30) == {"pid": 1}
        assert os.sched_getaffinity(child.pid) == {CORE}
        assert 1 < resident_mb(child.pid) < 200
        assert child.running()
    assert not child.running()


def test_an_exception_stops_the_children_and_passes(tmp_path: Path) -> None:
    children: list[Process] = []

    def interrupted() -> None:
        with Group() as group:
            children.append(group.start([sys.executable, "-c", SAY], CORE, tmp_path / "log"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not children[0].running()


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.procs.STOP_SECONDS", 0.2)
    with Group() as group:
        child = group.start([sys.executable, "-c", STUBBORN], CORE, tmp_path / "log")
        child.read_json(30)
    assert not child.running()


def test_a_child_that_ends_early_is_told_with_its_last_words(tmp_path: Path) -> None:
    with Group() as group:
        child = group.start(
            [sys.executable, "-c", "import sys; sys.exit('no such option')"], CORE, tmp_path / "log"
        )
        with pytest.raises(ProcessFailedError, match="ended with 1: no such option"):
            child.read_json(30)


def test_a_child_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    with Group() as group:
        child = group.start([sys.executable, "-c", "import sys; sys.stdin.read()"], CORE, tmp_path / "log")
        with pytest.raises(ProcessFailedError, match="printed nothing"):
            child.read_json(0.1)


def test_busy_is_what_was_not_idle() -> None:
    before = "cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 1 2 3\n"
    after = "cpu  120 0 110 860 10 0 0 0 0 0\ncpu0 1 2 3\n"
    assert parse_busy(before, after) == pytest.approx(0.3)
    assert parse_busy(before, before) == 0.0
