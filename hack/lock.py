"""Pins what the images, the build and the tests install: each version, with the hashes of its files.

`make lock` takes the newest versions that pyproject.toml allows; `make lock LOCK=--keep` changes only what
pyproject.toml no longer agrees with. uv resolves for every Python from 3.11 and every platform at once, and names no
index: pip takes the files from wherever it is set up to, and the hashes say whether they are the right ones.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLDEST_PYTHON = "3.11"
HEADER = "# The versions that are installed, with their hashes. `make lock` writes this file.\n"


def wanted() -> dict[str, list[str]]:
    """Each lock file, below the root, and the requirements it is made of. The first pins the versions of all."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    build = project["build-system"]["requires"]
    extras = project["project"]["optional-dependencies"]
    sidecar = project["project"]["dependencies"]
    own = [line for line in extras["dev"] if not line.startswith("evenstream[")]
    return {
        "hack/requirements/dev.txt": [*build, *sidecar, *own]
        + [line for name, lines in extras.items() if name != "dev" for line in lines],
        "hack/requirements/build.txt": build,
        "hack/requirements/sidecar.txt": sidecar,
        "hack/requirements/injector.txt": extras["injector"],
        "hack/requirements/sbom.txt": project["dependency-groups"]["sbom"],
        "examples/greeter/requirements.txt": extras["examples"],
    }


def resolve(target: Path, requirements: list[str], *options: str | Path) -> None:
    """Write `target`. Raises CalledProcessError, after uv has said why."""
    uv = Path(sysconfig.get_path("scripts")) / "uv"
    command = [uv, "pip", "compile", "-", "--universal", f"--python-version={OLDEST_PYTHON}"]
    command += ["--generate-hashes", "--no-header", "--no-emit-index-url", "--no-emit-find-links", "--quiet"]
    text = "".join(f"{line}\n" for line in sorted(set(requirements)))
    subprocess.run(
        [*command, "--no-annotate", f"--output-file={target}", *options],
        input=text,
        stdout=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        check=True,
    )
    target.write_text(HEADER + target.read_text(encoding="utf-8"), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keep", action="store_true", help="keep each version that is still allowed")
    options = parser.parse_args()
    files = wanted()
    first = ROOT / next(iter(files))
    for name, requirements in files.items():
        target = ROOT / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target == first:
            resolve(target, requirements, *([] if options.keep else ["--upgrade"]))
        else:
            resolve(target, requirements, "--upgrade", "--constraints", first)
        print(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
