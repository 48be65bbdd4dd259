"""Samples to report on, without a proxy or a load."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench.measure import Sample


@pytest.fixture
def sample() -> Callable[..., Sample]:
    def make(case: str, peer: str, value: float | None = None, number: int = 0, **more: object) -> Sample:
        figures = {} if value is None else {case: value}
        return Sample(case, peer, number, figures, **more)  # type: ignore[arg-type]

    return make
