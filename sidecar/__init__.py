"""The sidecar: takes a pod's outbound gRPC streams and spreads them over a Service's endpoints.

Layers, imports point one way: `__main__` -> app, view -> admin, net, discovery -> splice -> balance -> wire.

`wire`, `balance`, `splice` and `net` are compiled by mypyc where the build could; EVENSTREAM_BUILD=interpreted
runs the same files as they stand, for debugging and for tests.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Final

BUILD_ENV: Final = "EVENSTREAM_BUILD"
_COMPILED_PACKAGES: Final = ("sidecar.wire.", "sidecar.balance.", "sidecar.splice.", "sidecar.net.")


class _SourceFinder(importlib.abc.MetaPathFinder):
    """Finds the .py beside a compiled module."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith(_COMPILED_PACKAGES) or not path:
            return None
        source = Path(path[0], fullname.rpartition(".")[2] + ".py")
        return importlib.util.spec_from_file_location(fullname, source) if source.exists() else None


if os.environ.get(BUILD_ENV) == "interpreted":
    sys.meta_path.insert(0, _SourceFinder())
