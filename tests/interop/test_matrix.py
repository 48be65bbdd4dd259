"""Every client stack against every server stack through the sidecar, a test for each official interop case.

    pytest tests/interop -m interop                    the whole matrix
    pytest tests/interop -m "interop and smoke"        all four kinds of call on a few pairs
    pytest tests/interop -k go-java                    grpc-go's client, grpc-java's server
    pytest tests/interop --interop-direct              without the sidecar: what fails then is not ours

The programs are built once into ${EVENSTREAM_CACHE:-$HOME/.cache/evenstream}/interop.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import interop_programs as programs
import interop_stacks as stacks
import pytest

if TYPE_CHECKING:
    from conftest import Builds, Target

pytestmark = pytest.mark.interop

# The slowest case (a JVM that opens ten channels on a busy machine) takes a few seconds; a case that hangs
# is what this is for. Above the clients' own limits, so that they can say what they waited for.
CASE_TIMEOUT: Final = 45.0
SHOWN_CHARACTERS: Final = 6000


def run_client(
    stack: stacks.Stack, build: Path, port: int, case: str, logged: Callable[[], str]
) -> subprocess.CompletedProcess[bytes]:
    """Runs one case of a client. Fails the test with all output and logs unless it exits 0."""
    command = stack.client(build, programs.HOST, port, case)
    try:
        result = subprocess.run(
            command.argv,
            env=programs.environment(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=CASE_TIMEOUT,
            check=False,
        )
        outcome, output = f"exited {result.returncode}", result.stdout
    except subprocess.TimeoutExpired as error:
        result, outcome, output = None, f"was still running after {CASE_TIMEOUT} s", error.stdout or b""
    if result is None or result.returncode != 0:
        shown = output.decode(errors="replace")[-SHOWN_CHARACTERS:]
        pytest.fail(
            f"{stack.name} client, case {case}, {outcome}\n{' '.join(command.argv)}\n"
            f"--- client printed ---\n{shown}\n{logged()[-SHOWN_CHARACTERS:]}",
            pytrace=False,
        )
    return result


@pytest.fixture
def client_build(client: str, builds: Builds) -> Path:
    """Made ahead of the test: what compiling takes is not the case's time."""
    return builds(stacks.CLIENTS[client].recipe)


def test_case(client: str, client_build: Path, target: Target, case: str, watched: Callable[[], str]) -> None:
    run_client(stacks.CLIENTS[client], client_build, target.port, case, watched)


def test_one_channel_reaches_both_endpoints(
    target: Target, builds: Builds, watched: Callable[[], str]
) -> None:
    """grpc-python's single channel, 20 calls one after the other: each endpoint takes its half."""
    if target.sidecar is None:
        pytest.skip("no sidecar with --interop-direct")
    before = target.sidecar.streams_per_endpoint()
    run_client(stacks.PYTHON, builds(stacks.PYTHON.recipe), target.port, "rpc_soak", watched)
    after = target.sidecar.streams_per_endpoint()
    assert len(after) == programs.ENDPOINTS
    taken = {address: after[address] - before.get(address, 0) for address in after}
    assert sorted(taken.values()) == [10, 10], f"streams per endpoint: {taken}"
