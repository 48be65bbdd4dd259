"""What is installed is pinned: in the images, in the build, and here."""

from __future__ import annotations

import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "hack"))

import lock  # noqa: E402

pytestmark = pytest.mark.once

FILES = lock.wanted()
DEV = "hack/requirements/dev.txt"
_HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


class Pin(NamedTuple):
    """One line of a lock: the requirement with its marker, its version, and how many files it may be."""

    requirement: Requirement
    version: str
    hashes: int


def pins(name: str) -> list[Pin]:
    text = "".join(
        line for line in (ROOT / name).read_text().splitlines(keepends=True) if not line.startswith("#")
    )
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        words = line.split("--hash", 1)[0].strip()
        requirement = Requirement(words)
        (only,) = requirement.specifier
        assert only.operator == "=="
        found.append(Pin(requirement, only.version, len(_HASH.findall(line))))
    return found


def versions(name: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for pin in pins(name):
        found.setdefault(canonicalize_name(pin.requirement.name), set()).add(pin.version)
    return found


@pytest.mark.parametrize("name", FILES)
def test_the_lock_agrees_with_pyproject(name: str):
    locked = versions(name)
    for line in FILES[name]:
        wanted = Requirement(line)
        found = locked.get(canonicalize_name(wanted.name), set())
        assert found, f"{name} does not pin {line}: make lock LOCK=--keep"
        wrong = [version for version in found if not wanted.specifier.contains(version)]
        assert not wrong, (
            f"{name} has {wanted.name} {wrong}, pyproject.toml asks for {line}: make lock LOCK=--keep"
        )


@pytest.mark.parametrize("name", FILES)
def test_every_file_has_its_hash_and_nothing_names_an_index(name: str):
    assert all(pin.hashes for pin in pins(name))
    text = (ROOT / name).read_text()
    assert "://" not in text
    assert [line for line in text.splitlines() if line.startswith("-")] == []


def test_all_locks_pin_the_same_versions():
    everything = versions(DEV)
    for name in FILES:
        found = versions(name)
        both = everything.keys() & found.keys()
        assert {each: found[each] for each in both} == {each: everything[each] for each in both}, name


def test_the_locks_are_made_of_all_that_pyproject_names():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    named = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    named += [line for lines in extras.values() for line in lines if not line.startswith("evenstream[")]
    assert set(FILES[DEV]) == set(named)


def test_what_is_installed_here_is_what_is_pinned():
    wrong = []
    for pin in pins(DEV):
        if pin.requirement.marker is None or pin.requirement.marker.evaluate():
            try:
                found = importlib.metadata.version(pin.requirement.name)
            except importlib.metadata.PackageNotFoundError:
                found = "missing"
            if found != pin.version:
                wrong.append(f"{pin.requirement.name}: {found}, pinned {pin.version}")
    assert not wrong, "make build"


@pytest.mark.parametrize("path", ["Dockerfile.sidecar", "Dockerfile.injector", "examples/greeter/Dockerfile"])
def test_images_install_nothing_that_is_not_pinned(path: str):
    text = (ROOT / path).read_text().replace("\\\n", " ")
    installs = re.findall(r"pip(?: --python \S+)? install [^&\n]*", text)
    assert installs
    for command in installs:
        assert "--require-hashes" in command or "--no-deps --no-index /tmp/wheel" in command, command
