"""Which of a Service's backends are to rest: the rules of `balance.outlier`, applied to how their calls end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from mypy_extensions import i64

if TYPE_CHECKING:
    from sidecar.splice.backend import Backend
    from sidecar.splice.service import Service


def judge(service: Service, backend: Backend | None, failed: bool) -> None:
    """A call of this backend's has ended; enough failures in a row, and it is to rest."""
    context = service.context
    rules = context.ejection
    if rules is None or backend is None or backend.retired:
        return
    record = backend.record
    if not failed:
        record.succeeded()
        return
    record.failed(context.now)
    if not rules.wanted(record):
        return
    usable: i64 = 0 if backend.in_rotation else 1
    ejected: i64 = 0
    for each in service.backends.values():
        if each.in_rotation:
            usable += 1
        elif each.record.ejected:
            ejected += 1
    if rules.allowed(usable, ejected):
        backend.eject(rules.seconds, f"{record.in_a_row} failures in a row")
    else:
        record.in_a_row = 0  # looked at again after as many


def recall(backends: Iterable[Backend]) -> bool:
    """No endpoint is left: one that was to rest is better than none. The one whose rest is over first is back."""
    resting = [backend for backend in backends if backend.record.ejected and backend.connected()]
    if not resting:
        return False
    first = resting[0]
    for backend in resting:
        if backend.record.until < first.record.until:
            first = backend
    first.ejection_over(early=True)
    return first.in_rotation
