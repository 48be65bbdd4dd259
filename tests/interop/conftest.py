"""Fixtures of the interop tests: builds, running servers with a sidecar before them, and the matrix."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import interop_build
import interop_programs as programs
import interop_stacks as stacks

HERE: Final = Path(__file__).parent
# Of a test itself. Setting one up may compile a stack's programs, which takes minutes on a cold machine.
TEST_SECONDS: Final = 120
REQUIRED: Final = "EVENSTREAM_REQUIRE_INTEROP"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--interop-direct",
        action="store_true",
        default=False,
        help="run the interop cases without the sidecar: what fails then is not ours",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "smoke: the quick part of a long suite (with -m 'interop and smoke')")
    config.addinivalue_line("markers", "xdist_group(name): tests that share running programs")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(TEST_SECONDS, func_only=True))


class Builds:
    """Each recipe's folder, built at most once a run; a failure is remembered too."""

    def __init__(self) -> None:
        self._done: dict[str, Path | Exception] = {}

    def __call__(self, recipe: interop_build.Recipe) -> Path:
        if recipe.name not in self._done:
            try:
                self._done[recipe.name] = interop_build.ensure(recipe)
            except (interop_build.ToolMissingError, interop_build.BuildFailedError) as error:
                self._done[recipe.name] = error
        done = self._done[recipe.name]
        if isinstance(done, interop_build.ToolMissingError) and os.environ.get(REQUIRED) != "1":
            pytest.skip(f"{done} ({REQUIRED}=1 makes this a failure)")
        if isinstance(done, Exception):
            pytest.fail(str(done), pytrace=False)
        return done


@pytest.fixture(scope="session")
def builds() -> Builds:
    return Builds()


class Target(NamedTuple):
    """What a client dials, and all whose logs explain a failure."""

    port: int
    watched: tuple[programs.Program, ...]
    sidecar: programs.Sidecar | None


@contextlib.contextmanager
def serve(stack: stacks.Stack, build: Path, folder: Path, *, direct: bool) -> Iterator[Target]:
    """The stack's servers behind a sidecar, or one server alone."""
    start = stack.server
    assert start is not None

    command = functools.partial(start, build, folder)

    with contextlib.ExitStack() as running:
        servers: list[programs.Program] = []
        ports: list[int] = []
        for index in range(1 if direct else programs.ENDPOINTS):
            name = f"{stack.name} server {index}"
            server, port = programs.start_listening(name, command, folder / f"server-{index}.log")
            running.callback(server.stop)
            servers.append(server)
            ports.append(port)
        if direct:
            yield Target(ports[0], tuple(servers), None)
            return
        between = running.enter_context(programs.sidecar(ports, folder))
        yield Target(between.port, (between.program, *servers), between)


class Running:
    """The one set of programs that runs now. Tests of one server stack follow each other, so keeping the last
    set is enough; pytest itself would start a parametrised session fixture anew for every row."""

    def __init__(self, builds: Builds, tmp_path_factory: pytest.TempPathFactory) -> None:
        self._builds = builds
        self._factory = tmp_path_factory
        self._key: tuple[str, str] | None = None
        self._stack = contextlib.ExitStack()
        self._target: Target | None = None

    def get(self, path: str, name: str) -> Target:
        alive = self._target is not None and all(program.alive() for program in self._target.watched)
        if self._target is None or self._key != (path, name) or not alive:
            self.stop()
            stack = stacks.SERVERS[name]
            build = self._builds(stack.recipe)
            folder = self._factory.mktemp(f"{path}-{name}")
            self._target = self._stack.enter_context(serve(stack, build, folder, direct=path == "direct"))
            self._key = (path, name)
        return self._target

    def stop(self) -> None:
        self._target = self._key = None
        self._stack.close()


@pytest.fixture(scope="session")
def running(builds: Builds, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    found = Running(builds, tmp_path_factory)
    yield found
    found.stop()


@pytest.fixture
def target(request: pytest.FixtureRequest, running: Running) -> Target:
    """Indirectly parametrised with (path, server stack)."""
    return running.get(*request.param)


@pytest.fixture
def watched(target: Target, request: pytest.FixtureRequest) -> Iterator[Callable[[], str]]:
    """A function that gives what the programs logged since the test began. The test fails if one of them
    died or the sidecar logged a traceback, even if the client saw nothing of it."""
    before = [program.log_size() for program in target.watched]

    def logged() -> str:
        parts = []
        for program, offset in zip(target.watched, before, strict=True):
            state = "" if program.alive() else " (DEAD)"
            parts.append(f"--- {program.name}{state} logged ---\n{program.log_since(offset)}")
        return "\n".join(parts)

    yield logged
    for program in target.watched:
        assert program.alive(), f"{program.name} died:\n{logged()}"
    if target.sidecar is not None:
        assert "Traceback (most recent call last)" not in target.sidecar.program.log_since(before[0]), (
            logged()
        )


def _group(server: str) -> pytest.MarkDecorator:
    return pytest.mark.xdist_group(f"interop-{server}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The matrix. Servers outermost, so that each set of programs runs once."""
    path = "direct" if metafunc.config.getoption("interop_direct", default=False) else "sidecar"
    if "case" not in metafunc.fixturenames:
        if "target" in metafunc.fixturenames:
            servers = [pytest.param((path, s), id=s, marks=_group(s)) for s in stacks.SERVERS]
            metafunc.parametrize("target", servers, indirect=True)
        return
    rows = [
        pytest.param(
            client.name,
            (path, server.name),
            case,
            id=f"{path}-{client.name}-{server.name}-{case}",
            marks=[
                _group(server.name),
                *([pytest.mark.smoke] if stacks.smoke(client.name, server.name, case) else []),
            ],
        )
        for server in stacks.SERVERS.values()
        for client in stacks.CLIENTS.values()
        for case in stacks.cases(client, server)
    ]
    metafunc.parametrize(("client", "target", "case"), rows, indirect=["target"])
