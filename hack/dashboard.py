#!/usr/bin/env python3
"""Writes manifests/observability/dashboard.json. Run it after a change: .venv/bin/python hack/dashboard.py

Built with Grafana's own types, so that what comes out is a dashboard that Grafana knows.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
    VariableSort,
)

OUT = Path(__file__).resolve().parents[1] / "manifests" / "observability" / "dashboard.json"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
# What the variables choose; each query has one of these.
SERVICE = 'namespace=~"$namespace", grpc_target=~"$grpc_target"'
POD = 'namespace=~"$namespace"'
WINDOW = "[$__rate_interval]"
THIRD, HALF, FULL = 8, 12, 24  # of a row's 24 columns
TALL, LOW = 8, 4

Queries = Sequence[tuple[str, str]]  # (PromQL, legend)


def query(expression: str, legend: str, name: str = "A") -> prometheus.Dataquery:
    return prometheus.Dataquery().ref_id(name).expr(expression).legend_format(legend).datasource(SOURCE)


def graph(title: str, text: str, unit: str, queries: Queries, span: int = THIRD) -> timeseries.Panel:
    legend = (
        common.VizLegendOptions()
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
        .show_legend(True)
    )
    tooltip = common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING)
    panel = (
        timeseries.Panel()
        .title(title)
        .description(text)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .span(span)
        .height(TALL)
        .fill_opacity(8)
        .legend(legend)
        .tooltip(tooltip)
    )
    for name, (expression, named) in zip("ABC", queries, strict=False):
        panel.with_target(query(expression, named, name))
    return panel


def number(
    title: str, text: str, unit: str, expression: str, steps: Sequence[tuple[float | None, str]]
) -> stat.Panel:
    thresholds = dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE)
    thresholds.steps([Threshold(value=value, color=color) for value, color in steps])
    return (
        stat.Panel()
        .title(title)
        .description(text)
        .datasource(SOURCE)
        .unit(unit)
        .span(4)
        .height(LOW)
        .thresholds(thresholds)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(query(expression, ""))
    )


def streams(by: str) -> str:
    return f"sum by ({by}) (rate(evenstream_endpoint_streams_total{{{SERVICE}}}{WINDOW}))"


def overview() -> list[stat.Panel]:
    quiet = [(None, "blue")]
    per_endpoint = streams("grpc_target, endpoint_address")
    finished = f"evenstream_streams_finished_total{{{SERVICE}}}"
    ready = f'evenstream_endpoints{{{SERVICE}, state=~"ready|idle|connecting"}}'
    return [
        number(
            "Worst max/mean",
            "Of all Services: how many times the mean its fullest endpoint is given. 1 is even.",
            "none",
            f"max(max by (grpc_target) ({per_endpoint}) / (avg by (grpc_target) ({per_endpoint}) > 0))",
            [(None, "green"), (1.25, "yellow"), (1.5, "red")],
        ),
        number(
            "Calls",
            "Streams that applications opened.",
            "reqps",
            f"sum(rate(evenstream_streams_total{{{SERVICE}}}{WINDOW}))",
            quiet,
        ),
        number(
            "Not OK",
            "Share of calls that ended with another status than OK.",
            "percentunit",
            f'1 - sum(rate(evenstream_streams_finished_total{{{SERVICE}, grpc_status="OK"}}{WINDOW}))'
            f" / sum(rate({finished}{WINDOW}))",
            [(None, "green"), (0.01, "yellow"), (0.05, "red")],
        ),
        number(
            "Waiting",
            "Streams that wait for an endpoint.",
            "none",
            f"sum(evenstream_queued_streams{{{SERVICE}}})",
            [(None, "green"), (1, "red")],
        ),
        number(
            "Endpoints in use",
            "Over all Services; each counted once.",
            "none",
            f"sum(max by (grpc_target) (sum by (pod, grpc_target) ({ready})))",
            quiet,
        ),
        number(
            "Sidecars",
            "Pods with the sidecar that are scraped.",
            "none",
            f"count(evenstream_build_info{{{POD}}})",
            quiet,
        ),
    ]


def evenness() -> list[timeseries.Panel]:
    per_endpoint = streams("grpc_target, endpoint_address")
    return [
        graph(
            "Calls by endpoint",
            "All client pods together. Lines that lie on each other are even.",
            "reqps",
            [
                (
                    streams("grpc_target, endpoint_pod, endpoint_address"),
                    "{{endpoint_pod}} {{endpoint_address}}",
                )
            ],
            HALF,
        ),
        graph(
            "Open streams by endpoint",
            "What the balancer compares: a slow endpoint is given fewer calls, and has as many open.",
            "none",
            [
                (
                    "sum by (grpc_target, endpoint_pod, endpoint_address)"
                    f" (evenstream_endpoint_open_streams{{{SERVICE}}})",
                    "{{endpoint_pod}} {{endpoint_address}}",
                )
            ],
            HALF,
        ),
        graph(
            "max/mean by Service",
            "1 is even; the number of endpoints is all to one.",
            "none",
            [
                (
                    f"max by (grpc_target) ({per_endpoint}) / (avg by (grpc_target) ({per_endpoint}) > 0)",
                    "{{grpc_target}}",
                )
            ],
        ),
        graph(
            "Failures by endpoint",
            "Streams that ended by the transport, were refused, or could not be connected.",
            "reqps",
            [
                (
                    f"sum by (endpoint_address) (rate(evenstream_endpoint_{name}_total{{{SERVICE}}}{WINDOW})) > 0",
                    f"{{{{endpoint_address}}}} {legend}",
                )
                for name, legend in (
                    ("failures", "lost"),
                    ("refused_streams", "refused"),
                    ("connect_failures", "not connected"),
                )
            ],
        ),
        graph(
            "Endpoints by state",
            "As the client pods see them, on average.",
            "none",
            [
                (
                    f"sum by (state) (avg by (grpc_target, state) (evenstream_endpoints{{{SERVICE}}}))",
                    "{{state}}",
                )
            ],
        ),
    ]


def services() -> list[timeseries.Panel]:
    buckets = (
        f"sum by (le, grpc_target) (rate(evenstream_stream_duration_seconds_bucket{{{SERVICE}}}{WINDOW}))"
    )
    return [
        graph(
            "Calls by status",
            "As the applications saw them.",
            "reqps",
            [
                (
                    "sum by (grpc_target, grpc_status)"
                    f" (rate(evenstream_streams_finished_total{{{SERVICE}}}{WINDOW}))",
                    "{{grpc_target}} {{grpc_status}}",
                )
            ],
        ),
        graph(
            "Duration",
            "From a stream's first HEADERS to its end.",
            "s",
            [
                (f"histogram_quantile({share}, {buckets})", f"{{{{grpc_target}}}} p{name}")
                for share, name in ((0.5, "50"), (0.99, "99"))
            ],
        ),
        graph(
            "Age of endpoints",
            "Since it was last known that the endpoints are as they are; the oldest of all client pods.",
            "s",
            [(f"max by (grpc_target) (evenstream_discovery_age_seconds{{{SERVICE}}})", "{{grpc_target}}")],
        ),
    ]


def sidecars() -> list[timeseries.Panel]:
    looked_up = f"sum by (memo, result) (rate(evenstream_header_memo_lookups_total{{{POD}}}{WINDOW}))"
    return [
        graph(
            "CPU",
            "Cores, of each pod's sidecar: the most used ten.",
            "none",
            [
                (
                    f'topk(10, rate(process_cpu_seconds_total{{{POD}, job=~".*evenstream-sidecar"}}{WINDOW}))',
                    "{{pod}}",
                )
            ],
        ),
        graph(
            "Memory",
            "Resident, of each pod's sidecar: the largest ten.",
            "bytes",
            [(f'topk(10, process_resident_memory_bytes{{{POD}, job=~".*evenstream-sidecar"}})', "{{pod}}")],
        ),
        graph(
            "Bytes held",
            "Taken from one side and not yet written to the other: the most of ten.",
            "bytes",
            [(f"topk(10, evenstream_held_bytes{{{POD}}})", "{{pod}}")],
        ),
        graph(
            "Connections of applications",
            "By what they carry.",
            "none",
            [(f"sum by (kind) (evenstream_downstream_open_connections{{{POD}}})", "{{kind}}")],
        ),
        graph(
            "Passed through, by reason",
            "Connections that are not spread. TLS: the application encrypts.",
            "cps",
            [
                (
                    f"sum by (reason) (rate(evenstream_passthrough_connections_total{{{POD}}}{WINDOW}))",
                    "{{reason}}",
                )
            ],
        ),
        graph(
            "Headers looked up",
            "Header blocks and fields already understood (hit) or not (miss).",
            "reqps",
            [(looked_up, "{{memo}} {{result}}")],
        ),
        graph(
            "Versions",
            "Sidecars by version.",
            "none",
            [(f"count by (version, build) (evenstream_build_info{{{POD}}})", "{{version}} {{build}}")],
            HALF,
        ),
        graph(
            "Protocol errors",
            "Peers that break HTTP/2, by error code.",
            "reqps",
            [(f"sum by (code) (rate(evenstream_protocol_errors_total{{{POD}}}{WINDOW}))", "{{code}}")],
            HALF,
        ),
    ]


def injector() -> list[timeseries.Panel]:
    durations = f"sum by (le) (rate(evenstream_injector_admission_duration_seconds_bucket{WINDOW}))"
    return [
        graph(
            "Admissions by outcome",
            "refused: the pod asked and cannot have the sidecar. failed: a fault of the injector's.",
            "reqps",
            [
                (
                    f"sum by (outcome) (rate(evenstream_injector_admissions_total{WINDOW}))",
                    "{{outcome}}",
                )
            ],
        ),
        graph(
            "Admission duration",
            "The API server gives up after 5 s.",
            "s",
            [(f"histogram_quantile(0.99, {durations})", "p99")],
        ),
        graph(
            "Certificate's days left",
            "Renewed with 30 days left.",
            "d",
            [
                (
                    "(min(evenstream_injector_certificate_expiry_timestamp_seconds) - time()) / 86400",
                    "serving certificate",
                )
            ],
        ),
    ]


def build() -> dashboard.Dashboard:
    made = (
        dashboard.Dashboard("Evenstream")
        .uid("evenstream")
        .description("Are the gRPC streams spread evenly, and how are the Services behind them?")
        .tags(["grpc", "kubernetes"])
        .refresh("30s")
        .time("now-1h", "now")
        .timezone("browser")
        .readonly()
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(
            choice("namespace", "Client namespace", "label_values(evenstream_build_info, namespace)")
        )
        .with_variable(
            choice("grpc_target", "Service", "label_values(evenstream_streams_total, grpc_target)")
        )
    )
    for panel in overview():
        made.with_panel(panel)
    for title, panels in (
        ("Evenness", evenness()),
        ("Services", services()),
        ("Sidecars", sidecars()),
        ("Injector", injector()),
    ):
        made.with_row(dashboard.Row(title))
        for panel in panels:
            made.with_panel(panel)
    return made


def choice(name: str, label: str, values: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(values)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )


def text() -> str:
    return JSONEncoder(sort_keys=True, indent=1).encode(build().build()) + "\n"


if __name__ == "__main__":
    if "--print" in sys.argv:
        sys.stdout.write(text())
    else:
        OUT.write_text(text())
