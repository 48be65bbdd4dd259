"""Compiles the packages that move bytes with mypyc; everything else stands in pyproject.toml.

EVENSTREAM_COMPILE=0 leaves them interpreted. Anything else compiles, and a build that cannot compile
fails: a sidecar that is quietly five times slower is worse than a build error.
"""

import os
from pathlib import Path

from setuptools import setup

COMPILED_PACKAGES = ("sidecar/wire", "sidecar/balance", "sidecar/splice", "sidecar/net")


def extension_modules() -> list[object]:
    if os.environ.get("EVENSTREAM_COMPILE", "1") == "0":
        return []
    from mypyc.build import mypycify

    sources = [
        str(path)
        for package in COMPILED_PACKAGES
        for path in sorted(Path(package).glob("*.py"))
        if path.name != "__init__.py"
    ]
    return mypycify([*sources], opt_level="3", debug_level="0", group_name="evenstream", strip_asserts=False)


setup(ext_modules=extension_modules())
