"""connectrpc.com/conformance through the sidecar: what arrives is checked to the field, by both ends.

Metadata, also binary and repeated, trailers alone, error details, deadlines, cancellation, half-close, sizes of
messages, answers that no good server gives. connect-go and grpc-go are servers under test, called by the
runner's own clients, and clients under test, whose requests the runner's own server inspects; a sidecar is
between. A test for each of the four; the failing cases are in its message. With --interop-direct there is no
sidecar: what fails then is not ours.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import interop_build
import interop_programs as programs
import pytest
from interop_build import HERE

if TYPE_CHECKING:
    from conftest import Builds

pytestmark = pytest.mark.interop

SOURCES: Final = HERE / "conformance"
WRAPPER: Final = HERE / "conformance_wrapper.py"
# The longest takes 20 s alone, most of it in cases that wait for a deadline.
RUN_TIMEOUT: Final = 100.0
SHOWN_CHARACTERS: Final = 8000


def _build(target: Path) -> None:
    interop_build.copy_sources(RECIPE, target)
    # Module mode with the checked-in sums only: nothing is resolved anew.
    environment = {"GOFLAGS": "-mod=readonly -buildvcs=false", "CGO_ENABLED": "0"}
    interop_build.run(("go", "build", "-o", f"{target}/bin/", "tool"), target, environment)


RECIPE: Final = interop_build.Recipe("conformance", ("go",), (("go", "version"),), (SOURCES,), _build)


class Suite(NamedTuple):
    mode: str  # what is under test: server or client
    program: str
    features: str
    cases: int  # a run that left some out must not look good
    failing: tuple[str, ...] = ()  # cases that fail with no sidecar too


# gRPC wants UNIMPLEMENTED where a unary call has no message or several; grpc-go says INTERNAL.
WRONG_COUNT: Final = {
    "server": ("**/unary/multiple-requests", "**/unary/no-request",
               "**/server-stream/multiple-requests", "**/server-stream/no-request"),
    "client": ("**/unary/multiple-responses", "**/unary/ok-but-no-response",
               "**/client-stream/multiple-responses", "**/client-stream/ok-but-no-response"),
}  # fmt: skip

SUITES: Final = (
    Suite("server", "grpcserver", "features-grpc.yaml", 374, WRONG_COUNT["server"]),
    Suite("server", "referenceserver", "features.yaml", 1296),
    Suite("client", "grpcclient", "features-grpc.yaml", 409, WRONG_COUNT["client"]),
    Suite("client", "referenceclient", "features.yaml", 1696),
)


def _parameters() -> list[object]:
    return [
        pytest.param(s, id=s.program, marks=pytest.mark.xdist_group(f"conformance-{s.program}"))
        for s in SUITES
    ]


def run(suite: Suite, build: Path, folder: Path, *, direct: bool) -> tuple[int, str]:
    """Runs the suite. The exit code and what the runner printed."""
    program = str(build / "bin" / suite.program)
    wrapped = (program,) if direct else (sys.executable, str(WRAPPER), suite.mode, str(folder), program)
    failing = [argument for case in suite.failing for argument in ("--known-failing", case)]
    flags = ("--mode", suite.mode, "--conf", str(build / suite.features), *failing)
    # A group of its own: whatever it leaves running ends with it.
    with subprocess.Popen(
        (str(build / "bin" / "connectconformance"), "-v", *flags, "--", *wrapped),
        env=programs.environment(programs.Command(())),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as runner:
        try:
            printed = runner.communicate(timeout=RUN_TIMEOUT)[0]
        except subprocess.TimeoutExpired:
            os.killpg(runner.pid, signal.SIGKILL)
            printed = runner.communicate()[0] + f"\nstill ran after {RUN_TIMEOUT} s".encode()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(runner.pid, signal.SIGKILL)
    return runner.returncode, printed.decode(errors="replace")


@pytest.fixture
def build(builds: Builds) -> Path:
    """Made ahead of the test: what compiling takes is not the suite's time."""
    return builds(RECIPE)


@pytest.mark.parametrize("suite", _parameters())
def test_conformance(suite: Suite, build: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    direct = request.config.getoption("interop_direct")
    code, printed = run(suite, build, tmp_path, direct=direct)
    logs = "\n".join(path.read_text() for path in tmp_path.glob("*/sidecar.log"))
    failed = re.findall(r"^FAILED: .*\n(?:[\t ].*\n)*", printed, re.MULTILINE)
    if code != 0:
        told = "".join(failed) or printed
        pytest.fail(
            f"{suite.program}: {len(failed)} of {suite.cases} cases failed\n{told[:SHOWN_CHARACTERS]}\n"
            f"--- the sidecars logged ---\n{logs[-SHOWN_CHARACTERS:]}",
            pytrace=False,
        )
    counted = re.search(r"^Total cases: (\d+)$", printed, re.MULTILINE)
    assert counted is not None, printed
    assert int(counted[1]) == suite.cases
    if direct:
        return
    assert "Traceback (most recent call last)" not in logs, logs
    streams = [n for path in tmp_path.glob("*/streams.json") for n in json.loads(path.read_text()).values()]
    # Each endpoint took its part, and all of them a stream a case, less what was cancelled before it was sent.
    assert min(streams) > 0
    assert sum(streams) > 0.9 * suite.cases
