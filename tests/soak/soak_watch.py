"""What a process takes, second by second, and whether it takes more in the end than in the beginning."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

# Memos fill and pools grow in the first part of a run; what comes after it is compared.
WARM_UP_SHARE: Final = 0.2
# Of the run, at each end of what is compared. The median of a window: one large message more or less on the way when
# it is looked at says nothing.
WINDOW_SHARE: Final = 0.1


class Sample(NamedTuple):
    at: float  # seconds since the load began
    resident: int  # bytes
    files: int  # open file descriptors


class Drift(NamedTuple):
    before: float  # bytes, at the end of the warm-up
    after: float  # bytes, at the end

    @property
    def percent(self) -> float:
        return (self.after / self.before - 1) * 100


def take(pid: int, at: float) -> Sample:
    """Raises OSError when the process is gone."""
    proc = Path(f"/proc/{pid}")
    resident = int((proc / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return Sample(at, resident, sum(1 for _ in (proc / "fd").iterdir()))


def drift(samples: Sequence[Sample], seconds: float) -> Drift | None:
    """Of a run of `seconds`; None if it has not come to its end yet."""

    def median(begin: float) -> float:
        within = [each.resident for each in samples if begin <= each.at < begin + WINDOW_SHARE * seconds]
        return statistics.median(within) if within else 0.0

    found = Drift(median(WARM_UP_SHARE * seconds), median((1 - WINDOW_SHARE) * seconds))
    return found if all(found) else None


def course(samples: Sequence[Sample], parts: int = 10) -> list[float]:
    """The median resident bytes of equal parts of the run so far."""
    if not samples:
        return []
    end = samples[-1].at + 1e-9
    groups: list[list[int]] = [[] for _ in range(parts)]
    for each in samples:
        groups[int(each.at / end * parts)].append(each.resident)
    return [statistics.median(group) for group in groups if group]
