"""Bugs of ours that showed themselves as an exception: counted by where, told under a rate limit."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Final, final

from mypy_extensions import i64

from sidecar.wire.budget import Budget

# Tracebacks told at once, and then one in ten seconds: enough to find the bug by, and no flood if a peer can cause it.
REPORTS: Final[i64] = 10
REPORTS_PER_SECOND: Final = 0.1
# Of an exception's text, which may quote a peer.
MAX_TEXT: Final = 200


@final
class InternalErrors:
    """Set `report` to what takes a traceback as text; until then they are only counted."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}  # by what was being done
        self.last: str = ""  # one line
        self.report: Callable[[str], None] | None = None
        self._budget = Budget(REPORTS, REPORTS_PER_SECOND)
        self._untold: int = 0

    def note(self, where: str, error: BaseException, now: float) -> None:
        """Never raises: there may be no memory left to tell it with."""
        try:
            self.counts[where] = self.counts.get(where, 0) + 1
            text = " ".join(str(error).split())[:MAX_TEXT]
            self.last = f"{where}: {type(error).__name__}: {text}"
            report = self.report
            if report is None:
                return
            if not self._budget.spend(now):
                self._untold += 1
                return
            more = f" ({self._untold} more were not told)" if self._untold else ""
            self._untold = 0
            trace = "".join(traceback.format_exception(error)).rstrip()
            report(f"internal error, {where}{more}; please report it\n{trace}")
        except Exception:  # noqa: S110 - what could tell it has failed too
            pass
