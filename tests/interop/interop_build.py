"""Builds of other languages' programs: each once, kept outside the tree, keyed by all that goes into it."""

from __future__ import annotations

import fcntl
import hashlib
import inspect
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

HERE: Final = Path(__file__).parent
PROTO: Final = HERE / "proto" / "interop.proto"
# A cold build fetches packages and compiles a crate tree on a shared machine: minutes, not more.
BUILD_TIMEOUT: Final = 1200.0
# Enough of a compiler's output to see the error.
SHOWN_CHARACTERS: Final = 6000
# A build that was not used for a week belongs to no checkout that is still worked on.
KEPT_SECONDS: Final = 7 * 24 * 3600.0
COMPLETE: Final = ".complete"


class ToolMissingError(Exception):
    """A toolchain that a stack needs is not on PATH; the message names the stack and the tool."""


class BuildFailedError(Exception):
    """A build command failed; the message holds it and the end of its output."""


class Recipe(NamedTuple):
    """How a stack's programs come to be. `build` gets the empty folder to fill."""

    name: str
    tools: tuple[str, ...]  # programs that must be on PATH
    versions: tuple[tuple[str, ...], ...]  # commands whose output is part of the key
    sources: tuple[Path, ...]  # files and folders that are part of the key
    build: Callable[[Path], None]


def cache_root() -> Path:
    base = os.environ.get("EVENSTREAM_CACHE") or str(Path.home() / ".cache" / "evenstream")
    return Path(base) / "interop"


def run(argv: Sequence[str | Path], cwd: Path, env: Mapping[str, str] | None = None) -> None:
    """Runs a build command politely. Raises BuildFailedError."""
    command = ["nice", *map(str, argv)]
    result = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=BUILD_TIMEOUT,
        check=False,
    )
    if result.returncode != 0:
        output = result.stdout.decode(errors="replace")[-SHOWN_CHARACTERS:]
        raise BuildFailedError(f"{' '.join(command)} in {cwd} exited {result.returncode}:\n{output}")


def copy_sources(recipe: Recipe, target: Path) -> None:
    """Copies the recipe's sources into the build folder, so that no build writes into the tree."""
    for source in recipe.sources:
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            shutil.copy2(source, target)


def _files(sources: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for source in sources:
        found += sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]
    return [path for path in found if "__pycache__" not in path.parts]


def _key(recipe: Recipe) -> str:
    digest = hashlib.sha256(inspect.getsource(recipe.build).encode())
    for command in recipe.versions:
        printed = subprocess.run(command, capture_output=True, timeout=60, check=True)
        digest.update(printed.stdout + printed.stderr)
    for path in _files(recipe.sources):
        digest.update(str(path.relative_to(HERE)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def ensure(recipe: Recipe) -> Path:
    """The folder with the recipe's programs, built now if it was not. Safe against parallel callers.

    Raises ToolMissingError and BuildFailedError.
    """
    for tool in recipe.tools:
        if shutil.which(tool) is None:
            raise ToolMissingError(f"interop stack {recipe.name}: {tool} is not on PATH")
    root = cache_root()
    root.mkdir(parents=True, exist_ok=True)
    done = root / f"{recipe.name}-{_key(recipe)}"
    with (root / f"{recipe.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # A marker and not a rename at the end: Java's class archive remembers the path of its jars.
        if not (done / COMPLETE).exists():
            shutil.rmtree(done, ignore_errors=True)
            done.mkdir()
            recipe.build(done)
            (done / COMPLETE).touch()
            _remove_stale(root, recipe.name)
        os.utime(done)
    return done


def _remove_stale(root: Path, name: str) -> None:
    """Removes the stack's builds that nobody used for KEPT_SECONDS: several checkouts may share the cache."""
    for folder in root.glob(f"{name}-*"):
        if time.time() - folder.stat().st_mtime > KEPT_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)
