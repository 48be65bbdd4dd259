"""Records in, lines out: as text and as JSON, and how many of them at most."""

from __future__ import annotations

import io
import json
import logging
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from freeports import free_port

from contract import logs

pytestmark = pytest.mark.once


class Logged:
    """A root logger of its own clock, and the lines it wrote."""

    def __init__(self) -> None:
        self.now = 100.0
        self.stream = io.StringIO()
        self.log = logging.getLogger("tests.contract.logs")

    def configure(self, level: str, form: str) -> Logged:
        logs.configure(level, form, self.stream, lambda: self.now)
        return self

    @property
    def lines(self) -> list[str]:
        return self.stream.getvalue().splitlines()


@pytest.fixture
def logged() -> Iterator[Logged]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield Logged()
    root.handlers[:] = before
    root.setLevel(level)


def test_text_is_one_line_for_people(logged: Logged):
    logged.configure("info", "text").log.warning("endpoint %s is gone", "10.0.0.7:50051")
    (line,) = logged.lines
    assert line.endswith(" WARNING tests.contract.logs: endpoint 10.0.0.7:50051 is gone")


def test_json_is_one_object_a_line(logged: Logged):
    logged.configure("info", "json").log.info("%d endpoints", 3)
    (line,) = logged.lines
    told = json.loads(line)
    assert told.pop("time").endswith("Z")
    assert told == {"level": "info", "logger": "tests.contract.logs", "message": "3 endpoints"}


def test_an_exception_stays_within_its_json_line(logged: Logged):
    logged.configure("info", "json")
    try:
        raise ValueError("no such thing")
    except ValueError:
        logged.log.exception("review failed")
    (line,) = logged.lines
    assert "ValueError: no such thing" in json.loads(line)["exception"]


@pytest.mark.parametrize("form", logs.FORMATS)
def test_a_line_break_in_a_message_makes_no_second_record(logged: Logged, form: str):
    logged.configure("info", form).log.info("peer said %s", "a\n2026-01-01 00:00:00 ERROR forged\r\nb")
    assert len(logged.lines) == 1


def test_levels_below_are_left_out(logged: Logged):
    logged.configure("warning", "text").log.info("not told")
    assert logged.lines == []


def test_a_flood_of_the_same_message_is_a_few_lines_and_a_number(logged: Logged):
    logged.configure("info", "json")
    for _ in range(100_000):
        logged.log.error("no endpoint")
    assert len(logged.lines) == logs.SAME_BURST
    logged.now += logs.SAME_SECONDS
    logged.log.error("no endpoint")
    assert json.loads(logged.lines[-1])["left_out"] == 100_000 - logs.SAME_BURST


def test_the_text_says_how_many_were_left_out(logged: Logged):
    logged.configure("info", "text")
    for _ in range(logs.SAME_BURST + 41):
        logged.log.error("no endpoint")
    logged.now += logs.SAME_SECONDS
    logged.log.error("no endpoint")
    assert logged.lines[-1].endswith("no endpoint (41 more like it left out)")


def test_a_flood_of_different_messages_is_bounded_too(logged: Logged):
    """A day of a thousand different messages a second: what is written grows by the steady rate only."""
    logged.configure("info", "text")
    seconds = 86_400 // 100  # a hundredth of a day, so that the test stays short
    for number in range(seconds * 100):
        logged.now += 0.01
        logged.log.error("peer %d is broken", number)
    most = logs.ALL_BURST + seconds * logs.ALL_PER_SECOND
    assert most * 0.95 <= len(logged.lines) <= most + 1
    assert "of other kinds left out" in logged.lines[-1]


def test_what_was_held_back_and_never_came_again_is_told_with_the_next_message(logged: Logged):
    logged.configure("info", "json")
    for _ in range(logs.SAME_BURST + 45):
        logged.log.info("pod shop/web-*: injected")
    logged.now += logs.SAME_SECONDS
    logged.log.info("something else")
    told = [json.loads(line) for line in logged.lines[-2:]]
    assert [each["message"] for each in told] == ["pod shop/web-*: injected", "something else"]
    assert told[0]["left_out"] == 45
    assert "left_out" not in told[1]
    logged.log.info("and again")
    assert len(logged.lines) == logs.SAME_BURST + 3, "told once"


def test_what_was_held_back_is_told_at_the_end(logged: Logged):
    logged.configure("info", "text")
    for _ in range(logs.SAME_BURST + 7):
        logged.log.info("pod shop/web-*: injected")
    logging.getLogger().handlers[0].close()
    assert logged.lines[-1].endswith("pod shop/web-*: injected (7 more like it left out)")


def test_other_messages_are_told_while_one_floods(logged: Logged):
    logged.configure("info", "text")
    for number in range(50):
        for _ in range(1000):
            logged.log.error("no endpoint")
        logged.log.info("pod %d: injected", number)
    assert sum("injected" in line for line in logged.lines) == 50


def test_what_is_remembered_is_bounded(logged: Logged):
    limit = logs.RateLimit(lambda: logged.now)
    for number in range(10 * logs.MAX_MESSAGES):
        logged.now += 1.0
        record = logging.LogRecord("x", logging.ERROR, "", 0, f"{number} {'a' * 10_000}", None, None)
        limit.filter(record)
    assert len(limit._same) == logs.MAX_MESSAGES
    assert max(len(key[2]) for key in limit._same) == logs.MAX_KEY


def test_debug_is_told_in_full(logged: Logged):
    logged.configure("debug", "text")
    for _ in range(2000):
        logged.log.debug("again")
    assert len(logged.lines) == 2000


def test_the_sidecar_logs_as_it_is_told(tmp_path: Path):
    port = free_port()
    (tmp_path / "endpoints.json").write_text("{}")
    command = [sys.executable, "-m", "sidecar", "--log-format", "json", "--admin", f"127.0.0.1:{port}"]
    process = subprocess.Popen(
        [*command, "--source", f"file:{tmp_path / 'endpoints.json'}"], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    first = json.loads(process.stderr.readline())
    process.send_signal(signal.SIGTERM)
    rest = process.stderr.read().splitlines()
    assert process.wait(30) == 0
    assert first["level"] == "info"
    assert first["message"].startswith("evenstream sidecar ")
    assert [json.loads(line)["message"] for line in rest][-1].startswith("drained")
