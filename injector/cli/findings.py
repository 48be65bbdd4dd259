"""What is wrong in a file of manifests, as lines or JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from rich.text import Text

from contract import names
from injector.cli import screen

ERROR: Final = "error"
WARNING: Final = "warning"
_STYLES: Final = {ERROR: "bold red", WARNING: "bold yellow"}


class Finding(NamedTuple):
    file: str
    where: str  # "Deployment web"
    level: str
    message: str


class Findings:
    """Of one file."""

    def __init__(self, file: str) -> None:
        self._file = file
        self.all: list[Finding] = []

    def add(self, level: str, where: str, message: str) -> None:
        short = message.removeprefix("evenstream: ").removeprefix("pod left without the sidecar: ")
        self.all.append(Finding(self._file, where, level, short))

    def idle_annotations(self, where: str, pod: Mapping[str, Any]) -> None:
        """A pod that sets something of ours and does not say whether it wants the sidecar."""
        metadata = pod.get("metadata")
        annotations = metadata.get("annotations") if isinstance(metadata, Mapping) else None
        if not isinstance(annotations, Mapping) or names.INJECT_ANNOTATION in annotations:
            return
        for key in annotations:
            if isinstance(key, str) and key.startswith(names.ANNOTATION_PREFIX):
                text = f'annotation {key} does nothing without {names.INJECT_ANNOTATION}: "enabled"'
                self.add(WARNING, where, text)

    def show(self, *, to_stdout: bool = False) -> None:
        terminal = screen.console(error=not to_stdout)
        for finding in self.all:
            line = Text(f"{finding.file}: {finding.where}: ")
            line.append(finding.level, _STYLES[finding.level])
            line.append(f": {finding.message}")
            terminal.print(line)
