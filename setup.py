"""Compiles the packages that move bytes with mypyc; everything else stands in pyproject.toml.

EVENSTREAM_COMPILE=0 leaves them interpreted; 1, the default, compiles, and a build that cannot compile fails: a
sidecar that is quietly five times slower is worse than a build error.
"""

import os
import subprocess
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError

COMPILED_PACKAGES = ("sidecar/wire", "sidecar/balance", "sidecar/splice", "sidecar/net")
# mypyc makes every function one that other libraries could replace, so each call between ours would go by a table and
# none could be inlined. All of ours are in one library, and Python asks it for its init functions only.
COMPILER_FLAGS = ["-fvisibility=hidden", "-fno-plt"]
SWITCH = "EVENSTREAM_COMPILE"
# pip asks for the metadata first, by one of these. They say nothing of what is compiled, and mypyc takes its time.
METADATA_ONLY = (["egg_info"], ["dist_info"])
WAY_OUT = f"{SWITCH}=0 builds it interpreted instead, several times slower"


def extension_modules() -> list[object]:
    wanted = os.environ.get(SWITCH, "1")
    if wanted not in ("0", "1"):
        raise SystemExit(
            f"error: {SWITCH} is {wanted!r}; allowed are 1 (compiled, the default) and 0 (interpreted)"
        )
    if wanted == "0" or sys.argv[1:2] in METADATA_ONLY:
        return []
    try:
        from mypyc.build import mypycify
    except ImportError as error:
        raise SystemExit(
            f"error: Evenstream is compiled with mypyc, which cannot be imported ({error}): install what"
            f" build-system.requires in pyproject.toml names. {WAY_OUT}."
        ) from None

    sources = [
        str(path)
        for package in COMPILED_PACKAGES
        for path in sorted(Path(package).glob("*.py"))
        if path.name != "__init__.py"
    ]
    found = mypycify([*sources], opt_level="3", debug_level="0", group_name="evenstream", strip_asserts=False)
    for module in found:
        module.extra_compile_args += COMPILER_FLAGS
    return list(found)


class BuildExtensions(build_ext):
    """build_ext whose last line, if it fails, says what is missing."""

    def run(self) -> None:
        try:
            super().run()
        except (BaseError, CCompilerError, OSError, subprocess.SubprocessError) as error:
            raise SystemExit(
                f"error: {error}\nerror: Evenstream could not be compiled: it takes a C compiler and Python's"
                f" headers. {WAY_OUT}."
            ) from None


setup(ext_modules=extension_modules(), cmdclass={"build_ext": BuildExtensions})
