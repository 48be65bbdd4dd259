"""hack/imagefiles.py says what is in an image, and in what two of them differ."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "hack"))

import imagefiles  # noqa: E402

pytestmark = pytest.mark.once

Layer = dict[str, tuple[bytes, int]]  # by path: content and date


def saved(*layers: Layer) -> tarfile.TarFile:
    """As `docker save` writes an image of these layers."""
    inside = {f"{number}/layer.tar": (packed(layer), 0) for number, layer in enumerate(layers)}
    manifest = [{"Config": "config.json", "RepoTags": [], "Layers": list(inside)}]
    inside["config.json"] = (b'{"config": {"User": "1:1"}}', 0)
    inside["manifest.json"] = (json.dumps(manifest).encode(), 0)
    return tarfile.open(fileobj=io.BytesIO(packed(inside)))


def packed(files: Layer) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for path, (content, date) in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mtime = len(content), date
            archive.addfile(entry, io.BytesIO(content))
    return target.getvalue()


def test_a_layer_covers_and_removes_what_is_below():
    image = saved(
        {"etc/a": (b"old", 1), "etc/b": (b"gone", 1), "opt/x/y": (b"gone", 1), "var/z": (b"gone", 1)},
        {"./etc/a": (b"new", 2), "etc/.wh.b": (b"", 0), "opt/.wh.x": (b"", 0), "var/.wh..wh..opq": (b"", 0)},
    )
    found = imagefiles.files(image)
    assert {path: file.date for path, file in found.items()} == {"etc/a": 2}
    assert imagefiles.content(image, "etc/a") == b"new"
    assert imagefiles.config(image) == {"config": {"User": "1:1"}}


def test_two_images_differ_in_what_differs():
    one = imagefiles.files(saved({"a": (b"1", 1), "b": (b"1", 1), "c": (b"1", 1), "d": (b"1", 1)}))
    other = imagefiles.files(saved({"a": (b"1", 1), "b": (b"2", 1), "c": (b"1", 2), "e": (b"1", 1)}))
    assert imagefiles.differences(one, one) == {}
    assert imagefiles.differences(one, other) == {
        "b": "content",
        "c": "date",
        "d": "only in one",
        "e": "only in one",
    }


def test_sizes_are_of_all_layers_and_of_those_above_the_base():
    base, above = {"a": (b"\0" * 100_000, 0)}, {"b": (bytes(range(256)) * 100, 0)}
    image = saved(base, above)
    assert imagefiles.sizes(image) == (len(packed(base)) + len(packed(above)), len(packed(above)))
    assert 0 < imagefiles.to_pull(image) < len(packed(base)) / 10
