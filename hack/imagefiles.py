"""What is in the project's images: how large they are, and in which files two builds differ.

    .venv/bin/python hack/imagefiles.py sizes IMAGE...
    .venv/bin/python hack/imagefiles.py compare IMAGE IMAGE     exit code 1 if a file differs

Images are read with `docker save`, so nothing of them runs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
MEGABYTE = 1_000_000
_CHUNK = 1 << 20


class File(NamedTuple):
    """All that makes a file what it is. `content`: SHA-256 of a plain file, where a link leads, else empty."""

    kind: str
    mode: int
    owner: tuple[int, int]
    content: str
    date: int


class Sizes(NamedTuple):
    """In bytes. `own`: of the layers above the base image."""

    unpacked: int
    own: int


@contextmanager
def saved(image: str) -> Iterator[tarfile.TarFile]:
    """The image as `docker save` writes it. Raises ClusterError if Docker has it not."""
    sys.path.insert(0, str(ROOT / "hack"))
    from localcluster import docker

    found = docker.Docker.find()
    with tempfile.TemporaryFile() as file:
        done = subprocess.run(
            [*found.words, "save", image], stdout=file, stderr=subprocess.PIPE, env=found.env, check=False
        )
        if done.returncode:
            raise SystemExit(f"docker save {image}: {done.stderr.decode().strip()}")
        file.seek(0)
        with tarfile.open(fileobj=file) as archive:
            yield archive


def _read(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    found = archive.extractfile(name)
    assert found is not None, name
    return found


def layers(archive: tarfile.TarFile) -> list[str]:
    """The names of the layers, the lowest first."""
    (image,) = json.load(_read(archive, "manifest.json"))
    return [str(name) for name in image["Layers"]]


def config(archive: tarfile.TarFile) -> dict[str, Any]:
    (image,) = json.load(_read(archive, "manifest.json"))
    found: dict[str, Any] = json.load(_read(archive, image["Config"]))
    return found


def files(archive: tarfile.TarFile) -> dict[str, File]:
    """By path: what a container of the image would see."""
    found: dict[str, File] = {}
    for layer in layers(archive):
        with tarfile.open(fileobj=_read(archive, layer)) as members:
            for member in members:
                path = member.name.removeprefix("./").rstrip("/")
                folder, _, name = path.rpartition("/")
                if name == ".wh..wh..opq":  # nothing of the layers below is left in this folder
                    for each in [p for p in found if p.startswith(f"{folder}/")]:
                        del found[each]
                    continue
                if name.startswith(".wh."):
                    gone = f"{folder}/{name.removeprefix('.wh.')}".removeprefix("/")
                    for each in [p for p in found if p == gone or p.startswith(f"{gone}/")]:
                        del found[each]
                    continue
                found[path] = _file(members, member)
    return found


def content(archive: tarfile.TarFile, path: str) -> bytes:
    """Of one plain file. Raises KeyError if no layer has it."""
    for layer in reversed(layers(archive)):
        with tarfile.open(fileobj=_read(archive, layer)) as members:
            for name in (path, f"./{path}"):
                if name in members.getnames():
                    return _read(members, name).read()
    raise KeyError(path)


def _file(members: tarfile.TarFile, member: tarfile.TarInfo) -> File:
    content = member.linkname
    if member.isreg():
        digest = hashlib.sha256()
        source = members.extractfile(member)
        assert source is not None
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
        content = digest.hexdigest()
    kind = "file" if member.isreg() else "folder" if member.isdir() else "link" if content else "other"
    return File(kind, member.mode, (member.uid, member.gid), content, int(member.mtime))


def differences(one: dict[str, File], other: dict[str, File]) -> dict[str, str]:
    """By path: which of a file's properties differ, in one or two words."""
    found = dict.fromkeys(one.keys() ^ other.keys(), "only in one")
    for path in one.keys() & other.keys():
        unlike = [name for name, a, b in zip(File._fields, one[path], other[path], strict=True) if a != b]
        if unlike:
            found[path] = " and ".join(unlike)
    return dict(sorted(found.items()))


def sizes(archive: tarfile.TarFile) -> Sizes:
    each = [archive.getmember(layer).size for layer in layers(archive)]
    return Sizes(sum(each), sum(each[1:]))


def to_pull(archive: tarfile.TarFile) -> int:
    """Bytes that a registry moves: each layer through gzip, as `docker push` does. Takes seconds."""
    packed = 0
    for layer in layers(archive):
        source, pressed = _read(archive, layer), zlib.compressobj(6, wbits=31)
        while chunk := source.read(_CHUNK):
            packed += len(pressed.compress(chunk))
        packed += len(pressed.flush())
    return packed


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["sizes", "compare"])
    parser.add_argument("image", nargs="+")
    options = parser.parse_args()
    if options.what == "sizes":
        for name in options.image:
            with saved(name) as archive:
                found = (*sizes(archive), to_pull(archive))
            unpacked, own, packed = (f"{size / MEGABYTE:.0f} MB" for size in found)
            print(f"{name}: {unpacked} unpacked, {packed} to pull; {own} above the base image")
        return 0
    if len(options.image) != 2:
        parser.error("compare takes two images")
    both = []
    for name in options.image:
        with saved(name) as archive:
            both.append(files(archive))
    unlike = differences(*both)
    for path, how in unlike.items():
        print(f"{path}: {how}")
    print(f"{len(unlike)} of {len(both[0])} files differ")
    return 1 if unlike else 0


if __name__ == "__main__":
    sys.exit(main())
