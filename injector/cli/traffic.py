"""What all client pods' sidecars tell, added up per Service and endpoint over a window. Pure.

A sidecar's totals only grow, so what happened in a window is the difference of two looks. A sidecar that is
restarted begins at 0 again, and an endpoint that left and came back too: then what it has counts as new.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from injector.cli.show import errors
from injector.cli.verdict import Verdict, judge

Json = Mapping[str, Any]

# States in which an endpoint is given streams. One in backoff gets none, which is no unevenness of ours.
TAKES: Final = ("idle", "connecting", "ready")


class Look(NamedTuple):
    """The /status of each client pod at one moment. `at` in seconds, on a clock that only rises."""

    at: float
    clients: Mapping[str, Json]  # by "namespace/pod"


class EndpointTraffic:
    """One endpoint over all clients, in a window."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.pod = ""
        self.zone = ""
        self.states: Counter[str] = Counter()
        self.open_streams = 0
        self.open_mean = 0.0  # averaged over the looks of the window
        self.calls = 0
        self.errors = 0
        self.seconds = Histogram()
        self.took_throughout = True  # in the state to be given streams at every look, for every client

    @property
    def state(self) -> str:
        """The state that most clients see; those that differ are told with their number."""
        if len(self.states) == 1:
            return next(iter(self.states))
        return ", ".join(f"{state} ({count})" for state, count in self.states.most_common())


class Histogram:
    """Latencies; buckets as the sidecars have them, one more than bounds."""

    def __init__(self) -> None:
        self.bounds: Sequence[float] = ()
        self.buckets: list[int] = []

    def add(self, after: Json, before: Json | None) -> None:
        counts = _grown_list(after["buckets"], before["buckets"] if before is not None else None)
        self.bounds = self.bounds or after["bounds"]
        if len(counts) != len(self.buckets or counts) or list(after["bounds"]) != list(self.bounds):
            return  # of another version of the sidecar, with other buckets
        self.buckets = [a + b for a, b in zip(self.buckets or [0] * len(counts), counts, strict=True)]

    def quantile(self, share: float) -> float | None:
        """Linear within a bucket, as Prometheus' histogram_quantile; None without observations."""
        rank, low = share * sum(self.buckets), 0.0
        if not rank:
            return None
        for bound, count in zip(self.bounds, self.buckets, strict=False):
            if rank <= count:
                return low + (bound - low) * rank / count
            rank -= count
            low = bound
        return low


class ServiceTraffic(NamedTuple):
    """One Service over all clients, in a window of `seconds`."""

    service: str
    seconds: float
    clients: int
    queued: int
    calls: int
    errors: int  # as the applications saw them
    latency: Histogram
    endpoints: list[EndpointTraffic]
    verdict: Verdict


def services(looks: Sequence[Look]) -> list[ServiceTraffic]:
    """Between the first and the last look (two at least, in order of time), by name."""
    first, last = looks[0], looks[-1]
    found: dict[str, list[str]] = {}
    for client, status in last.clients.items():
        for service in status["services"]:
            found.setdefault(service["service"], []).append(client)
    seconds = max(last.at - first.at, 1e-9)
    return [_service(name, clients, looks, seconds) for name, clients in sorted(found.items())]


def _service(name: str, clients: Sequence[str], looks: Sequence[Look], seconds: float) -> ServiceTraffic:
    endpoints: dict[str, EndpointTraffic] = {}
    latency = Histogram()
    calls = errors_seen = queued = 0
    for client in clients:
        views = [_of(look, client, name) for look in looks]
        before, after = views[0], views[-1]
        assert after is not None
        queued += after["queued_streams"]
        calls += _grown(after["streams_total"], before["streams_total"] if before else None)
        errors_seen += _grown(_not_ok(after), _not_ok(before) if before else None)
        latency.add(after["latency"], before["latency"] if before else None)
        _add_endpoints(endpoints, views)
    listed = sorted(endpoints.values(), key=lambda one: (one.pod, one.address))
    judged = [one for one in listed if one.took_throughout]
    verdict = judge([one.calls for one in judged], [one.open_mean for one in judged])
    return ServiceTraffic(name, seconds, len(clients), queued, calls, errors_seen, latency, listed, verdict)


def _add_endpoints(endpoints: dict[str, EndpointTraffic], views: Sequence[Json | None]) -> None:
    """One client's endpoints. An address may stand twice, while its last streams of before end: both count."""
    before, after = views[0], views[-1]
    was = _by_address(before["endpoints"]) if before else {}
    now = _by_address(after["endpoints"]) if after else {}
    seen = [_by_address(view["endpoints"]) for view in views if view is not None]
    for address, ones in now.items():
        total = endpoints.setdefault(address, EndpointTraffic(address))
        # The one that is given streams stands first; what is retired comes after it.
        current, former = ones[0], was.get(address, [None])[0]
        total.pod, total.zone = current["pod"] or total.pod, current["zone"] or total.zone
        total.states[current["state"]] += 1
        total.open_streams += sum(one["open_streams"] for one in ones)
        total.open_mean += sum(one["open_streams"] for view in seen for one in view.get(address, ())) / len(
            seen
        )
        total.calls += _grown(current["streams_total"], former["streams_total"] if former else None)
        total.errors += _grown(errors(current), errors(former) if former else None)
        total.seconds.add(current["latency"], former["latency"] if former else None)
        total.took_throughout &= all(address in view and view[address][0]["state"] in TAKES for view in seen)


def _by_address(endpoints: Iterable[Json]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for one in endpoints:
        found.setdefault(one["address"], []).append(one)
    return found


def _of(look: Look, client: str, name: str) -> Json | None:
    for service in (look.clients.get(client) or {"services": ()})["services"]:
        if service["service"] == name:
            return dict(service)
    return None


def _not_ok(service: Json) -> int:
    return int(sum(count for code, count in service["grpc_status"].items() if int(code) > 0))


def _grown(after: int, before: int | None) -> int:
    return after - before if before is not None and after >= before else after


def _grown_list(after: Sequence[int], before: Sequence[int] | None) -> list[int]:
    if before is None or len(before) != len(after) or any(a < b for a, b in zip(after, before, strict=True)):
        return list(after)
    return [a - b for a, b in zip(after, before, strict=True)]
