"""h2spec (strict) against the sidecar's listener, with a plain HTTP/2 server behind it: a test per section.

h2spec 2.2.1, the newest that the Go module proxy serves, is built with the Go programs. It runs once.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple
from xml.etree import ElementTree

import interop_programs as programs
import interop_stacks as stacks
import pytest

if TYPE_CHECKING:
    from conftest import Builds

pytestmark = [pytest.mark.interop, pytest.mark.xdist_group("h2spec")]

# How many cases h2spec 2.2.1 has in each section: a run that left some out must not look good.
# fmt: off
SECTIONS: Final[Mapping[str, int]] = {
    "generic/1": 1, "generic/2": 5, "generic/3.1": 3, "generic/3.2": 3, "generic/3.3": 5, "generic/3.4": 1,
    "generic/3.5": 1, "generic/3.7": 1, "generic/3.8": 1, "generic/3.9": 2, "generic/3.10": 2,
    "generic/4": 4, "generic/5": 15, "http2/3.5": 2, "http2/4.1": 3, "http2/4.2": 3, "http2/4.3": 3,
    "http2/5.1": 13, "http2/5.1.1": 2, "http2/5.1.2": 1, "http2/5.3.1": 2, "http2/5.4.1": 2, "http2/5.5": 2,
    "http2/6.1": 3, "http2/6.2": 4, "http2/6.3": 2, "http2/6.4": 3, "http2/6.5": 3, "http2/6.5.2": 5,
    "http2/6.5.3": 2, "http2/6.7": 4, "http2/6.8": 1, "http2/6.9": 3, "http2/6.9.1": 3, "http2/6.9.2": 3,
    "http2/6.10": 6, "http2/7": 2, "http2/8.1": 1, "http2/8.1.2": 1, "http2/8.1.2.1": 4, "http2/8.1.2.2": 2,
    "http2/8.1.2.3": 7, "http2/8.1.2.6": 2, "http2/8.2": 1, "hpack/2.3.3": 1, "hpack/4.2": 1,
    "hpack/5.2": 3, "hpack/6.1": 1, "hpack/6.3": 1,
}
# fmt: on
# Each case waits at most this long for an answer (seconds).
CASE_TIMEOUT: Final = 2
# 146 cases that all run into it.
RUN_TIMEOUT: Final = 300.0


class Case(NamedTuple):
    section: str
    title: str
    failure: str  # what was expected and what came; empty if it passed


class Report(NamedTuple):
    cases: tuple[Case, ...]
    log: str  # the sidecar's


def read_report(path: Path) -> tuple[Case, ...]:
    """The cases of a JUnit report as h2spec writes it."""
    found = []
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        problem = case.find("failure")
        if problem is None:
            problem = case.find("error")
        text = "" if problem is None else (problem.text or problem.get("message") or "failed")
        skipped = case.find("skipped") is not None
        found.append(Case(case.get("package", ""), case.get("classname", ""), "skipped" if skipped else text))
    return tuple(found)


@pytest.fixture(scope="session")
def report(builds: Builds, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Report]:
    build = builds(stacks.GO_RECIPE)
    folder = tmp_path_factory.mktemp("h2spec")
    junit = folder / "report.xml"

    def command(port: int) -> programs.Command:
        return programs.Command((str(build / "bin" / "h2c"), f"--port={port}"))

    backend, backend_port = programs.start_listening("h2c server", command, folder / "server.log")
    try:
        with programs.sidecar([backend_port], folder) as between:
            flags = ("--strict", "--host", programs.HOST, "--port", str(between.port))
            more = ("--timeout", str(CASE_TIMEOUT), "--junit-report", str(junit))
            with (folder / "h2spec.log").open("wb") as output:
                subprocess.run(
                    (build / "bin" / "h2spec", *flags, *more),
                    stdout=output,
                    stderr=output,
                    timeout=RUN_TIMEOUT,
                    check=False,  # 1 if a case failed: the report says which
                )
            assert junit.exists(), (folder / "h2spec.log").read_text()
            assert between.program.alive(), between.program.log_since(0)
            yield Report(read_report(junit), between.program.log_since(0))
    finally:
        backend.stop()


def test_every_case_ran(report: Report) -> None:
    counts: dict[str, int] = {}
    for case in report.cases:
        counts[case.section] = counts.get(case.section, 0) + 1
    assert counts == SECTIONS


def test_the_sidecar_stays_calm(report: Report) -> None:
    assert "Traceback (most recent call last)" not in report.log


@pytest.mark.parametrize("section", SECTIONS)
def test_section(report: Report, section: str) -> None:
    cases = [case for case in report.cases if case.section == section]
    failed = [case for case in cases if case.failure]
    told = "\n".join(f"{case.title}\n{case.failure}" for case in failed)
    if failed:
        pytest.fail(f"h2spec {section}: {len(failed)} of {SECTIONS[section]} failed\n{told}", pytrace=False)
