"""A Status as metrics: names, units, and how many time series there may be.

Names follow Prometheus' rules (base units, _total, one prefix). `grpc_target` and `grpc_status` are gRFC
A66's attributes in Prometheus' spelling. Labels called `endpoint`, `pod`, `namespace` or `service` would be
renamed to exported_* under a PodMonitor, which sets those itself: hence `endpoint_address`, `endpoint_pod`.

The latency histogram is per Service; an endpoint has sum and count. With C client pods and E endpoints there
are C x E pairs, and a histogram for each would be the largest thing in many a Prometheus. /status has the
buckets of every endpoint.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from sidecar.admin.exposition import OPENMETRICS_TYPE, TEXT_TYPE, Exposition, labels
from sidecar.admin.model import (
    ENDPOINT_STATES,
    GRPC_STATUS_NAMES,
    NO_STATUS,
    RUNGS,
    UNKNOWN,
    Endpoint,
    Service,
    Status,
)
from sidecar.admin.overflow import OTHER, Overflow, distinct
from sidecar.admin.process import ProcessUsage

# Endpoints with series of their own, over all Services of this sidecar; the rest are summed. 1,000 endpoints
# are about 10,000 series, as much as one scrape of one pod should bring.
MAX_ENDPOINT_ROWS: Final = 1_000
# Services with series of their own, about 30 each.
MAX_SERVICE_ROWS: Final = 100
# Values of an open-ended label (HTTP/2 has 14 error codes), and extra figures of the engine and the source.
MAX_LABEL_VALUES: Final = 32

_STATUS_LABELS: Final = {NO_STATUS: "none", **dict(enumerate(GRPC_STATUS_NAMES))}
_NOT_IN_NAMES: Final = re.compile(r"[^a-z0-9_]+")

_ENDPOINT_GAUGES: Final[tuple[tuple[str, Callable[[Endpoint], float], str], ...]] = (
    ("evenstream_endpoint_open_streams", lambda e: e["open_streams"], "Streams open to the endpoint now."),
    ("evenstream_endpoint_connections", lambda e: e["connections"], "Connections open to the endpoint now."),
)
_ENDPOINT_COUNTERS: Final[tuple[tuple[str, Callable[[Endpoint], float], str], ...]] = (
    (
        "evenstream_endpoint_streams_total",
        lambda e: e["streams_total"],
        "Streams given to the endpoint, retries included.",
    ),
    (
        "evenstream_endpoint_failures_total",
        lambda e: e["failures_total"],
        "Streams that ended by the transport: reset, or the connection lost.",
    ),
    (
        "evenstream_endpoint_refused_streams_total",
        lambda e: e["refused_total"],
        "Streams the endpoint did not take: REFUSED_STREAM, or beyond its GOAWAY.",
    ),
    (
        "evenstream_endpoint_connect_failures_total",
        lambda e: e["connect_failures_total"],
        "Connections to the endpoint that could not be made.",
    ),
    (
        "evenstream_endpoint_ejections_total",
        lambda e: e["ejections_total"],
        "Times the endpoint was ejected because its calls kept failing.",
    ),
)
# Those of the engine's own totals that are known by name here.
_ENGINE_COUNTERS: Final[Mapping[str, str]] = {
    "retried_streams": "Streams given to another endpoint because the first did not take them.",
    "upstreams_dialled": "Connections to endpoints that were dialled.",
    "upstreams_stalled": "Times that a connection was avoided because its peer acknowledged nothing.",
}


class MetricsWriter:
    """Turns Status into text. Keeps one thing between calls: the totals of what is summed as `other`."""

    def __init__(self) -> None:
        self._overflow = Overflow()

    def render(self, status: Status, usage: ProcessUsage | None, *, openmetrics: bool) -> tuple[str, bytes]:
        """(content type, body). Raises KeyError or ValueError on a malformed Status."""
        out = Exposition(openmetrics=openmetrics)
        _process(out, status, usage)
        _source(out, status["source"])
        _downstream(out, status)
        self._services(out, status["services"])
        self._endpoints(out, status["services"])
        return (OPENMETRICS_TYPE if openmetrics else TEXT_TYPE), out.finish()

    def _services(self, out: Exposition, services: list[Service]) -> None:
        rows = [(labels({"grpc_target": s["service"]}), s) for s in services[:MAX_SERVICE_ROWS]]
        if len(services) > MAX_SERVICE_ROWS:
            rest = self._overflow.services(services[MAX_SERVICE_ROWS:])
            rows.append((labels({"grpc_target": OTHER}), rest))
        out.family(
            "evenstream_queued_streams",
            "gauge",
            "Streams waiting for an endpoint now.",
            [(row, s["queued_streams"]) for row, s in rows],
        )
        out.family(
            "evenstream_service_exists",
            "gauge",
            "1 if the source knows the Service and port, else 0.",
            [(row, int(s["exists"])) for row, s in rows],
        )
        out.family(
            "evenstream_snapshot_age_seconds",
            "gauge",
            "Time since the source last told the endpoints. No change of them, no new snapshot.",
            [(row, age) for row, s in rows if (age := s["snapshot_age_seconds"]) is not None],
        )
        out.family(
            "evenstream_discovery_rung",
            "gauge",
            "1 for where the endpoints in use come from, best first: live, memory, disk, dns, original, none.",
            [(f'{row},rung="{rung}"', int(s["rung"] == rung)) for row, s in rows for rung in RUNGS],
        )
        out.family(
            "evenstream_discovery_age_seconds",
            "gauge",
            "Time since the endpoints in use were last known to be so.",
            [(row, age) for row, s in rows if (age := s["rung_age_seconds"]) is not None],
        )
        out.family(
            "evenstream_endpoints", "gauge", "Endpoints of the Service by state.", _endpoint_states(rows)
        )
        out.family(
            "evenstream_streams_total",
            "counter",
            "Streams the application opened.",
            [(row, s["streams_total"]) for row, s in rows],
        )
        out.family(
            "evenstream_streams_finished_total",
            "counter",
            "Finished streams by grpc-status, as the application saw them.",
            [sample for row, s in rows for sample in _by_status(row, s["grpc_status"])],
        )
        out.histograms(
            "evenstream_stream_duration_seconds",
            "From a stream's first HEADERS to its end.",
            [(row, h["bounds"], h["buckets"], h["sum"]) for row, s in rows for h in (s["latency"],)],
        )

    def _endpoints(self, out: Exposition, services: list[Service]) -> None:
        rows, infos = self._endpoint_rows(services)
        for name, value, text in _ENDPOINT_GAUGES:
            out.family(name, "gauge", text, [(row, value(e)) for row, e in rows])
        for name, value, text in _ENDPOINT_COUNTERS:
            out.family(name, "counter", text, [(row, value(e)) for row, e in rows])
        out.family(
            "evenstream_endpoint_streams_finished_total",
            "counter",
            "Finished streams of the endpoint by grpc-status.",
            [sample for row, e in rows for sample in _by_status(row, e["grpc_status"])],
        )
        out.sums(
            "evenstream_endpoint_stream_duration_seconds",
            "From a stream's first HEADERS to its end, per endpoint.",
            [(row, h["sum"], h["count"]) for row, e in rows for h in (e["latency"],)],
        )
        out.family("evenstream_endpoint_info", "info", "What is known of the endpoint.", infos)

    def _endpoint_rows(
        self, services: list[Service]
    ) -> tuple[list[tuple[str, Endpoint]], list[tuple[str, float]]]:
        """Labels and figures of each endpoint up to the bound, and one `other` for those beyond it."""
        rows: list[tuple[str, Endpoint]] = []
        infos: list[tuple[str, float]] = []
        beyond: list[Endpoint] = []
        room = MAX_ENDPOINT_ROWS
        for index, service in enumerate(services):
            target = labels({"grpc_target": service["service"]})
            own = service["endpoints"][: room if index < MAX_SERVICE_ROWS else 0]
            room -= len(own)
            for e in distinct(own):
                row = f"{target},{labels({'endpoint_address': e['address'], 'endpoint_pod': e['pod']})}"
                rows.append((row, e))
                infos.append((f"{row},{labels({'endpoint_zone': e['zone']})}", 1))
            beyond += service["endpoints"][len(own) :]
        if beyond:
            row = labels({"grpc_target": OTHER, "endpoint_address": OTHER, "endpoint_pod": ""})
            rows.append((row, self._overflow.endpoints(beyond)))
        return rows, infos


def _by_status(row: str, counts: Mapping[int, int]) -> list[tuple[str, float]]:
    named: dict[str, int] = {}
    for code, count in counts.items():
        name = _STATUS_LABELS.get(code, GRPC_STATUS_NAMES[UNKNOWN])
        named[name] = named.get(name, 0) + count
    return [(f'{row},grpc_status="{name}"', count) for name, count in named.items()]


def _endpoint_states(rows: list[tuple[str, Service]]) -> list[tuple[str, float]]:
    samples: list[tuple[str, float]] = []
    for row, service in rows:
        counts = dict.fromkeys(ENDPOINT_STATES, 0)
        for e in service["endpoints"]:
            counts[e["state"]] += 1
        samples += [(f'{row},state="{state}"', count) for state, count in counts.items()]
    return samples


def bounded(counts: Mapping[str, float]) -> dict[str, float]:
    """At most MAX_LABEL_VALUES entries, in order of name so that the same ones stay; the rest as `other`."""
    names = sorted(counts)
    kept = {name: counts[name] for name in names[:MAX_LABEL_VALUES]}
    if len(names) > MAX_LABEL_VALUES:
        kept[OTHER] = kept.get(OTHER, 0) + sum(counts[name] for name in names[MAX_LABEL_VALUES:])
    return kept


def _labelled(label: str, counts: Mapping[str, float]) -> list[tuple[str, float]]:
    return [(labels({label: name}), value) for name, value in bounded(counts).items()]


def _process(out: Exposition, status: Status, usage: ProcessUsage | None) -> None:
    build = status["build"]
    about = labels({"version": build["version"], "build": build["build"], "python": build["python"]})
    out.family("evenstream_build_info", "info", "The build that runs.", [(about, 1)])
    out.family("evenstream_uptime_seconds", "gauge", "Time since the start.", [("", build["uptime_seconds"])])
    out.family(
        "evenstream_state",
        "gauge",
        "1 for the state the sidecar is in.",
        [(f'state="{s}"', int(s == status["state"])) for s in ("starting", "ready", "draining")],
    )
    if usage is None:
        return
    cpu = "Total user and system CPU time spent in seconds."
    out.family("process_cpu_seconds_total", "counter", cpu, [("", usage.cpu_seconds)])
    resident = "Resident memory size in bytes."
    out.family("process_resident_memory_bytes", "gauge", resident, [("", usage.resident_bytes)])
    out.family(
        "process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes.", [("", usage.virtual_bytes)]
    )
    out.family("process_open_fds", "gauge", "Number of open file descriptors.", [("", usage.open_fds)])
    start = "Start time of the process since unix epoch in seconds."
    out.family("process_start_time_seconds", "gauge", start, [("", usage.start_time)])


def _source(out: Exposition, source: Mapping[str, Any]) -> None:
    """Kind, state and age by name; every whole number beside them or under `counters` counts something."""
    about = labels({"kind": str(source.get("kind", "")), "state": str(source.get("state", ""))})
    out.family(
        "evenstream_source_info", "info", "Where endpoints come from, and how that stands.", [(about, 1)]
    )
    age = source.get("age_seconds")
    if isinstance(age, int | float):
        out.family(
            "evenstream_source_age_seconds",
            "gauge",
            "Time since the source was last heard of.",
            [("", age)],
        )
    nested = source.get("counters")
    merged = {**source, **nested} if isinstance(nested, Mapping) else source
    counters = {name: value for name, value in merged.items() if type(value) is int}
    events = _labelled("event", counters)
    out.family("evenstream_source_events_total", "counter", "What happened at the source.", events)


def _downstream(out: Exposition, status: Status) -> None:
    connections, engine = status["connections"], status["engine"]
    kinds = connections["kinds"]
    out.family(
        "evenstream_downstream_open_connections",
        "gauge",
        "Connections of the application open now, by what they carry.",
        _labelled("kind", {kind: count["open"] for kind, count in kinds.items()}),
    )
    out.family(
        "evenstream_downstream_connections_total",
        "counter",
        "Connections of the application, by what they carry.",
        _labelled("kind", {kind: count["total"] for kind, count in kinds.items()}),
    )
    out.family(
        "evenstream_passthrough_connections_total",
        "counter",
        "Connections passed through as they came, by reason.",
        _labelled("reason", connections["passthrough_reasons"]),
    )
    out.family(
        "evenstream_protocol_errors_total",
        "counter",
        "Faults of peers by HTTP/2 error code.",
        _labelled("code", engine["protocol_errors"]),
    )
    out.family(
        "evenstream_internal_errors_total",
        "counter",
        "Bugs of the sidecar that showed as an exception, by what was being done.",
        _labelled("during", engine["internal_errors"]),
    )
    memos = engine["memos"].items()
    out.family(
        "evenstream_header_memo_lookups_total",
        "counter",
        "Header blocks and fields looked up among those already understood.",
        [
            (labels({"memo": name, "result": result}), value)
            for name, memo in memos
            for result, value in (("hit", memo["hits"]), ("miss", memo["misses"]))
        ],
    )
    out.family(
        "evenstream_header_memo_entries",
        "gauge",
        "Header blocks and fields remembered now.",
        [(labels({"memo": name}), memo["entries"]) for name, memo in memos],
    )
    held = "Bytes taken from one side and not yet written to the other."
    out.family("evenstream_held_bytes", "gauge", held, [("", engine["held_bytes"])])
    counters, gauges = _named(engine.get("counters", {})), _named(engine.get("gauges", {}))
    for name, value in counters.items():
        text = _ENGINE_COUNTERS.get(name, "A total of the engine.")
        out.family(f"evenstream_engine_{name}_total", "counter", text, [("", value)])
    for name, value in gauges.items():
        if name not in counters:  # OpenMetrics has one name for both
            out.family(f"evenstream_engine_{name}", "gauge", "A figure of the engine.", [("", value)])


def _named(figures: Mapping[str, float]) -> dict[str, float]:
    """Extra figures under names the grammar allows, without a doubled _total."""
    found: dict[str, float] = {}
    for name, value in bounded(figures).items():
        found[_NOT_IN_NAMES.sub("_", name.lower()).removesuffix("_total")] = value
    return found
