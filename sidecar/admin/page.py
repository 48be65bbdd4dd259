"""The status page: page.html, with a nonce for each NONCE so that its policy allows nothing but itself."""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def _template() -> str:
    return Path(__file__).with_name("page.html").read_text(encoding="utf-8")


def page(nonce: str) -> str:
    """The page for one answer. Raises FileNotFoundError if the build left it out."""
    return _template().replace("NONCE", nonce)
