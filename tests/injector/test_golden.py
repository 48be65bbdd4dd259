"""Manifests in, manifests out, as tests/golden/README.md says; all of them twice."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from contract import names

GOLDEN = Path(__file__).parent.parent / "golden"
CASES = sorted(path.stem for path in (GOLDEN / "in").glob("*.yaml"))


def _flags(case: str) -> list[str]:
    """What the manifest's first line asks for."""
    first, _, _ = (GOLDEN / "in" / f"{case}.yaml").read_text().partition("\n")
    return first.removeprefix("# inject:").split() if first.startswith("# inject:") else []


def _inject(path: Path) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "injector", "inject", "-f", str(path), *_flags(path.stem)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "EVENSTREAM_SIDECAR_IMAGE": "evenstream-sidecar:golden"},
    )
    assert done.returncode == 0, done.stderr
    # The files outlive versions.
    version = f'"version":"{names.VERSION}"'
    return done.stdout.replace(version, '"version":"VERSION"'), done.stderr.replace(str(path), path.name)


def test_there_are_cases():
    assert len(CASES) >= 15


@pytest.mark.parametrize("case", CASES)
def test_manifest_comes_out_as_recorded(case: str):
    printed, said = _inject(GOLDEN / "in" / f"{case}.yaml")
    if os.environ.get("EVENSTREAM_UPDATE_GOLDEN"):
        (GOLDEN / "out" / f"{case}.yaml").write_text(printed)
        (GOLDEN / "out" / f"{case}.warnings").write_text(said)
    assert printed == (GOLDEN / "out" / f"{case}.yaml").read_text()
    assert said == (GOLDEN / "out" / f"{case}.warnings").read_text()


@pytest.mark.parametrize("case", CASES)
def test_a_second_pass_changes_nothing(case: str):
    printed, said = _inject(GOLDEN / "out" / f"{case}.yaml")
    assert printed == (GOLDEN / "out" / f"{case}.yaml").read_text()
    assert said == (GOLDEN / "out" / f"{case}.warnings").read_text()


@pytest.mark.parametrize("case", ["left-alone", "refused", "hosts-refused"])
def test_what_is_not_injected_is_not_changed(case: str):
    before = list(yaml.safe_load_all((GOLDEN / "in" / f"{case}.yaml").read_text()))
    after = list(yaml.safe_load_all((GOLDEN / "out" / f"{case}.yaml").read_text()))
    assert after == before


@pytest.mark.parametrize("case", ["refused", "hosts-refused"])
def test_every_refusal_says_something(case: str):
    documents = list(yaml.safe_load_all((GOLDEN / "in" / f"{case}.yaml").read_text()))
    warnings = (GOLDEN / "out" / f"{case}.warnings").read_text().splitlines()
    assert len(warnings) == len(documents)
    for document, warning in zip(documents, warnings, strict=True):
        assert f" {document['metadata']['name']}: " in warning
