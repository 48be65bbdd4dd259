"""What MkDocs cannot do by itself: pages nobody listed, and links that lead out of docs/."""

from __future__ import annotations

import posixpath
import re
from pathlib import PurePosixPath
from typing import Any

LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Put what the nav does not name into it."""
    named = set(_paths(config["nav"]))
    pages = [file.src_uri for file in files.documentation_pages() if file.src_uri not in named]
    decisions = sorted(page for page in pages if page.startswith("adr/"))
    others = sorted(page for page in pages if not page.startswith("adr/"))
    config["nav"] += [{"Decisions": decisions}] if decisions else []
    config["nav"] += [{"More": others}] if others else []
    return files


def on_page_markdown(markdown: str, page: Any, files: Any, **_: Any) -> str:
    """A link to a file of the repository that is no page becomes the file's name."""

    def replaced(match: re.Match[str]) -> str:
        text, target = match[1], match[2]
        path = posixpath.normpath(str(PurePosixPath(page.file.src_uri).parent / target))
        if not path.startswith("..") and files.get_file_from_path(path) is not None:
            return match[0]
        named = posixpath.normpath(f"docs/{path}")
        return text if named in text else f"{text} (`{named}`)"

    return LINK.sub(replaced, markdown)


def _paths(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [path for each in (nav.values() if isinstance(nav, dict) else nav) for path in _paths(each)]
