"""The test run's own footing: pytest-xdist keeps tests that share something expensive in one worker."""

from __future__ import annotations

import pytest


def test_groups_are_seen(request: pytest.FixtureRequest) -> None:
    """xdist marks a group by writing to a node's `_nodeid`; pytest 9.2 does not look there, and says nothing."""
    item = request.node
    before = item.nodeid
    item._nodeid = f"{before}@group"
    try:
        assert item.nodeid == f"{before}@group"
    finally:
        item._nodeid = before
