"""The images as they were built: what runs, as whom, what is in them, and how large they are."""

from __future__ import annotations

import json
import re
import sys
from typing import Any, NamedTuple

import pytest
from clusterkit.kube import ROOT, Cluster
from figures import Figures
from packaging.markers import Marker

sys.path.insert(0, str(ROOT / "hack"))

import imagefiles

from contract import names

pytestmark = pytest.mark.e2e

HOME = "opt/evenstream"
DATE = 315532800  # 1980-01-01, SOURCE_DATE_EPOCH in the Dockerfiles
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==(\S+?)(?: ; ([^\\]+?))? \\$", re.MULTILINE)


class Expected(NamedTuple):
    """`megabytes`: what it may add to its base image. Measured 39 and 10, and iptables in a base without it."""

    user: str
    module: str
    megabytes: int


IMAGES = {
    "injector": Expected("15016:15016", "injector", 50),
    "sidecar": Expected(f"{names.SIDECAR_UID}:{names.SIDECAR_GID}", "sidecar", 30),
}


class Image(NamedTuple):
    name: str
    config: dict[str, Any]
    files: dict[str, imagefiles.File]
    sizes: imagefiles.Sizes
    sbom: dict[str, Any]


@pytest.fixture(scope="module", params=IMAGES)
def image(request: pytest.FixtureRequest, installed: Cluster) -> Image:
    name = request.param
    with imagefiles.saved(f"evenstream-{name}:dev") as archive:
        sbom = json.loads(imagefiles.content(archive, f"{HOME}/sbom.cdx.json"))
        return Image(
            name, imagefiles.config(archive), imagefiles.files(archive), imagefiles.sizes(archive), sbom
        )


def test_it_runs_one_program_as_a_user_without_rights(image: Image):
    expected, config = IMAGES[image.name], image.config["config"]
    assert config["User"] == expected.user
    assert config["Entrypoint"] == [f"/{HOME}/bin/python3", "-m", expected.module]


def test_its_labels_say_what_it_is(image: Image):
    labels = image.config["config"]["Labels"]
    short = {key.removeprefix("org.opencontainers.image."): value for key, value in labels.items()}
    assert short["title"] == f"evenstream-{image.name}"
    assert short["licenses"] == "Apache-2.0"
    assert short["version"] == names.VERSION
    if (ROOT / ".git").exists():
        assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", short["revision"])
        # The commit's date and not the build's, so that two builds say the same.
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", short["created"])


def test_nothing_of_the_build_is_in_it(image: Image):
    folder = f"{HOME}/lib/python3.13/site-packages/"
    ours = {path.removeprefix(folder).split("/")[0] for path in image.files if path.startswith(folder)}
    assert "contract" in ours
    # The client, too: its 120 MB stood in the injector's image for nothing.
    assert not ours & {"pip", "setuptools", "mypy", "mypyc", "wheel", "cyclonedx_py", "kubernetes"}
    assert "usr/bin/gcc" not in image.files


def test_its_files_are_of_one_date_and_nobody_may_change_them(image: Image):
    ours = {path: file for path, file in image.files.items() if path.startswith(f"{HOME}/")}
    assert len(ours) > 100
    assert {file.date for file in ours.values()} == {DATE}
    assert {file.owner for file in ours.values()} == {(0, 0)}
    assert not [path for path, file in ours.items() if file.kind != "link" and file.mode & 0o022]


def test_its_list_of_components_is_what_is_pinned(image: Image):
    assert image.sbom["bomFormat"] == "CycloneDX"
    lock = (ROOT / "hack" / "requirements" / f"{image.name}.txt").read_text()
    there = {"python_version": "3.13", "python_full_version": "3.13.0", "implementation_name": "cpython"}
    pinned = {
        name.lower(): version
        for name, version, marker in _PIN.findall(lock)
        if not marker or Marker(marker).evaluate(there)
    }
    listed = {each["name"].lower().replace("_", "-"): each["version"] for each in image.sbom["components"]}
    assert listed.pop("evenstream", names.VERSION) == names.VERSION
    assert listed == pinned
    assert image.sbom["metadata"]["component"]["name"] == "evenstream"
    assert not image.sbom.get("serialNumber"), "made anew for each build"


def test_it_is_small(image: Image, figures: Figures):
    unpacked, own = (size / imagefiles.MEGABYTE for size in image.sizes)
    what = f"{unpacked:.0f} MB, {own:.0f} MB above its base"
    figures.note("images", image.name, what, f"< {IMAGES[image.name].megabytes} MB above its base")
    assert own < IMAGES[image.name].megabytes
