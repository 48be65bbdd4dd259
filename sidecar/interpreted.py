"""Imports the .py beside each compiled module, for EVENSTREAM_BUILD=interpreted.

A module of its own: importlib's finders bring half a standard library with them, which a sidecar in everybody's
pod should not carry.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Final

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


def install() -> None:
    """Call once, before any of the packages that may be compiled is imported."""
    sys.meta_path.insert(0, _SourceFinder())
