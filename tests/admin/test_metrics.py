"""What /metrics says, read back with Prometheus' own parsers."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import time

import pytest
from admin_fakes import FakeView, Peer, call, change, endpoint, service
from prometheus_client import openmetrics, parser
from prometheus_client.openmetrics import parser as openmetrics_parser

from sidecar.admin.metrics import MAX_ENDPOINT_ROWS, MAX_LABEL_VALUES, MAX_SERVICE_ROWS, MetricsWriter
from sidecar.admin.model import NO_STATUS
from sidecar.admin.process import ProcessUsage, read_process_usage
from sidecar.admin.server import wants_openmetrics

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
# What Prometheus 2.42 and 3.x send.
PROMETHEUS_ACCEPT = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)


def samples(body: bytes, *, openmetrics: bool = False) -> Samples:
    read = (openmetrics_parser if openmetrics else parser).text_string_to_metric_families
    found: Samples = {}
    for family in read(body.decode()):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, f"twice: {key}"
            found[key] = sample.value
    return found


def value(found: Samples, name: str, **labels: str) -> float:
    """The one sample of this name that has these labels."""
    hits = [v for (n, pairs), v in found.items() if n == name and labels.items() <= dict(pairs).items()]
    assert len(hits) == 1, f"{name}{labels}: {hits}"
    return hits[0]


def render(view: FakeView, writer: MetricsWriter | None = None, *, openmetrics: bool = False) -> bytes:
    return (writer or MetricsWriter()).render(view.held, None, openmetrics=openmetrics)[1]


def busy(view: FakeView) -> None:
    view.services.append(service(endpoints=3))
    call(view.services[0], 0, times=40)
    call(view.services[0], 0, code=14, seconds=0.5, times=2)
    call(view.services[0], 1, code=99, seconds=1000.0)
    call(view.services[0], 2, code=NO_STATUS, seconds=0.001)
    change(view.services[0]["endpoints"][1], open_streams=7, connections=2, refused_total=3, failures_total=4)
    change(view.services[0]["endpoints"][2], state="backoff", connect_failures_total=5)
    view.services[0]["queued_streams"] = 6
    view.held["connections"] = {
        "open": 3,
        "total": 9,
        "kinds": {"grpc": {"open": 2, "total": 5}, "passthrough": {"open": 1, "total": 4}},
        "passthrough_reasons": {"tls": 3, "http1": 1},
        "passthrough": [],
    }
    view.held["engine"]["protocol_errors"] = {"FLOW_CONTROL_ERROR": 2}
    view.held["engine"]["internal_errors"] = {"receive": 3}
    view.held["engine"]["counters"] = {"loop_turns": 11, "Odd name_total": 12}
    view.held["engine"]["gauges"] = {"loop_busy_ratio": 0.25}


@pytest.mark.parametrize("openmetrics", [False, True])
def test_every_figure_comes_back_from_the_parser(view: FakeView, openmetrics: bool) -> None:
    busy(view)
    found = samples(render(view, openmetrics=openmetrics), openmetrics=openmetrics)
    first = {"grpc_target": "greeter.default:50051", "endpoint_address": "10.244.0.1:50051"}
    second = first | {"endpoint_address": "10.244.0.2:50051"}
    third = first | {"endpoint_address": "10.244.0.3:50051"}
    assert value(found, "evenstream_endpoint_streams_total", **first) == 42
    assert value(found, "evenstream_endpoint_streams_finished_total", **first, grpc_status="OK") == 40
    assert value(found, "evenstream_endpoint_streams_finished_total", **first, grpc_status="UNAVAILABLE") == 2
    assert value(found, "evenstream_endpoint_streams_finished_total", **second, grpc_status="UNKNOWN") == 1
    assert value(found, "evenstream_endpoint_streams_finished_total", **third, grpc_status="none") == 1
    assert value(found, "evenstream_endpoint_stream_duration_seconds_count", **first) == 42
    assert value(found, "evenstream_endpoint_stream_duration_seconds_sum", **first) == pytest.approx(1.1)
    assert value(found, "evenstream_endpoint_open_streams", **second) == 7
    assert value(found, "evenstream_endpoint_connections", **second) == 2
    assert value(found, "evenstream_endpoint_refused_streams_total", **second) == 3
    assert value(found, "evenstream_endpoint_failures_total", **second) == 4
    assert value(found, "evenstream_endpoint_connect_failures_total", **third) == 5
    assert value(found, "evenstream_endpoint_info", **third, endpoint_zone="zone-c") == 1
    assert value(found, "evenstream_endpoints", state="ready") == 2
    assert value(found, "evenstream_endpoints", state="backoff") == 1
    assert value(found, "evenstream_endpoints", state="ejected") == 0
    assert value(found, "evenstream_queued_streams") == 6
    assert value(found, "evenstream_streams_total") == 44
    assert value(found, "evenstream_streams_finished_total", grpc_status="OK") == 40
    assert value(found, "evenstream_service_exists") == 1
    assert value(found, "evenstream_snapshot_age_seconds") == 12.5
    assert value(found, "evenstream_discovery_age_seconds") == 3.5
    assert value(found, "evenstream_discovery_rung", rung="live") == 1
    assert value(found, "evenstream_discovery_rung", rung="disk") == 0
    assert value(found, "evenstream_stream_duration_seconds_bucket", le="0.002") == 1
    assert value(found, "evenstream_stream_duration_seconds_bucket", le="0.005") == 41
    assert value(found, "evenstream_stream_duration_seconds_bucket", le="0.5") == 43
    assert value(found, "evenstream_stream_duration_seconds_bucket", le="100.0") == 43
    assert value(found, "evenstream_stream_duration_seconds_bucket", le="+Inf") == 44
    assert value(found, "evenstream_stream_duration_seconds_count") == 44
    assert value(found, "evenstream_downstream_open_connections", kind="grpc") == 2
    assert value(found, "evenstream_downstream_connections_total", kind="passthrough") == 4
    assert value(found, "evenstream_passthrough_connections_total", reason="tls") == 3
    assert value(found, "evenstream_protocol_errors_total", code="FLOW_CONTROL_ERROR") == 2
    assert value(found, "evenstream_internal_errors_total", during="receive") == 3
    assert value(found, "evenstream_header_memo_lookups_total", memo="block", result="hit") == 900
    assert value(found, "evenstream_header_memo_entries", memo="block") == 3
    assert value(found, "evenstream_held_bytes") == 4096
    assert value(found, "evenstream_engine_loop_turns_total") == 11
    assert value(found, "evenstream_engine_odd_name_total") == 12
    assert value(found, "evenstream_engine_loop_busy_ratio") == 0.25
    assert value(found, "evenstream_build_info", version="0.1.0", build="compiled", python="3.11.7") == 1
    assert value(found, "evenstream_uptime_seconds") == 93.5
    assert [value(found, "evenstream_state", state=s) for s in ("starting", "ready", "draining")] == [0, 1, 0]
    assert value(found, "evenstream_source_info", kind="kubernetes", state="watching") == 1
    assert value(found, "evenstream_source_age_seconds") == 1.25
    assert value(found, "evenstream_source_events_total", event="lists") == 2


def test_names_follow_the_rules(view: FakeView) -> None:
    busy(view)
    taken_by_a_pod_monitor = {"endpoint", "pod", "namespace", "service", "container", "job", "instance"}
    for family in parser.text_string_to_metric_families(render(view).decode()):
        assert re.fullmatch(r"evenstream_[a-z0-9_]+", family.name)
        assert family.documentation.endswith(".")
        assert family.type in ("counter", "gauge", "histogram", "summary")
        for sample in family.samples:
            assert not taken_by_a_pod_monitor & set(sample.labels)
            if family.type == "counter":
                assert sample.name.endswith("_total")


@pytest.mark.parametrize("openmetrics", [False, True])
def test_labels_come_back_whatever_they_are(view: FakeView, openmetrics: bool) -> None:
    view.services.append(service(endpoints=1))
    odd = 'a\\b"c"\nd\\n{}=,é 漢'
    view.services[0]["endpoints"][0]["pod"] = odd
    view.services[0]["service"] = odd
    found = samples(render(view, openmetrics=openmetrics), openmetrics=openmetrics)
    assert value(found, "evenstream_endpoint_streams_total", endpoint_pod=odd, grpc_target=odd) == 0


def test_numbers_that_are_not_finite(view: FakeView) -> None:
    view.held["engine"]["gauges"] = {"a": math.inf, "b": -math.inf, "c": math.nan}
    body = render(view)
    assert b"evenstream_engine_a +Inf\n" in body
    assert b"evenstream_engine_b -Inf\n" in body
    assert b"evenstream_engine_c NaN\n" in body
    assert math.isnan(value(samples(body), "evenstream_engine_c"))


def test_a_counter_and_a_gauge_of_one_name_do_not_clash(view: FakeView) -> None:
    view.held["engine"]["counters"] = {"loops": 1}
    view.held["engine"]["gauges"] = {"loops": 2}
    found = samples(render(view, openmetrics=True), openmetrics=True)
    assert value(found, "evenstream_engine_loops_total") == 1


def test_an_empty_status_is_metrics_too(view: FakeView) -> None:
    view.held["source"] = {}
    view.services.append(service(endpoints=0))
    view.services[0]["snapshot_age_seconds"] = None
    found = samples(render(view, openmetrics=True), openmetrics=True)
    assert not any(name.startswith("evenstream_snapshot_age") for name, _ in found)
    assert value(found, "evenstream_stream_duration_seconds_count") == 0


def test_endpoints_beyond_the_bound_are_summed(view: FakeView) -> None:
    view.services += [service("a", MAX_ENDPOINT_ROWS - 10), service("b", 30)]
    for index in range(30):
        call(view.services[1], index, times=2)
    found = samples(render(view))
    rows = [dict(pairs) for name, pairs in found if name == "evenstream_endpoint_streams_total"]
    assert len(rows) == MAX_ENDPOINT_ROWS + 1
    other = {"endpoint_address": "other", "grpc_target": "other"}
    assert value(found, "evenstream_endpoint_streams_total", **other) == 2 * 20
    assert value(found, "evenstream_endpoint_connections", **other) == 20
    assert value(found, "evenstream_endpoint_streams_finished_total", **other, grpc_status="OK") == 40
    assert sum(v for (n, _), v in found.items() if n == "evenstream_endpoint_streams_total") == 60
    assert value(found, "evenstream_endpoints", grpc_target="b.default:50051", state="ready") == 30


def test_an_address_that_left_and_came_back_is_one_series(view: FakeView) -> None:
    view.services.append(service(endpoints=2))
    view.services[0]["endpoints"].append(endpoint(0, "draining"))
    for index, times in ((0, 3), (1, 1), (2, 5)):
        call(view.services[0], index, times=times)
    found = samples(render(view, openmetrics=True), openmetrics=True)
    first = endpoint(0)
    labels = {"endpoint_address": first["address"], "endpoint_pod": first["pod"]}
    assert value(found, "evenstream_endpoint_streams_total", **labels) == 8
    assert value(found, "evenstream_endpoint_connections", **labels) == 2
    assert value(found, "evenstream_endpoint_stream_duration_seconds_count", **labels) == 8
    assert value(found, "evenstream_endpoint_info", **labels, endpoint_zone=first["zone"]) == 1
    assert value(found, "evenstream_endpoints", state="draining") == 1


def test_services_beyond_the_bound_are_summed(view: FakeView) -> None:
    view.services += [service(f"s{i}", 2) for i in range(MAX_SERVICE_ROWS + 3)]
    for each in view.services:
        call(each, 1, times=5)
    found = samples(render(view))
    assert value(found, "evenstream_streams_total", grpc_target="other") == 15
    assert value(found, "evenstream_endpoints", grpc_target="other", state="ready") == 6
    assert value(found, "evenstream_stream_duration_seconds_count", grpc_target="other") == 15
    assert value(found, "evenstream_endpoint_streams_total", endpoint_address="other") == 15
    assert sum(v for (n, _), v in found.items() if n == "evenstream_streams_total") == 5 * len(view.services)


def test_totals_of_the_rest_never_fall(view: FakeView) -> None:
    """Prometheus would take a fall for a restart, and count all calls again."""
    writer = MetricsWriter()
    view.services.append(service("a", MAX_ENDPOINT_ROWS + 5))
    seen = []
    for step in range(6):
        if step < 5:
            call(view.services[0], MAX_ENDPOINT_ROWS + 4 - step, times=10)
        found = samples(render(view, writer))
        seen.append(value(found, "evenstream_endpoint_streams_total", endpoint_address="other"))
        view.services[0]["endpoints"].pop()
        view.services[0]["endpoints"].append(endpoint(5000 + step))
    assert seen == sorted(seen)
    assert seen[0] == 10


def test_open_ended_labels_are_bounded(view: FakeView) -> None:
    view.held["connections"]["passthrough_reasons"] = {f"r{i:03}": 1 for i in range(200)}
    view.held["source"] = {"counters": {f"c{i:03}": 1 for i in range(200)}}
    view.held["engine"]["counters"] = {f"c{i:03}": 1 for i in range(200)}
    found = samples(render(view))
    assert len(found) < 4 * MAX_LABEL_VALUES
    assert value(found, "evenstream_passthrough_connections_total", reason="other") == 200 - MAX_LABEL_VALUES


def test_buckets_that_do_not_go_with_the_bounds_are_an_error(view: FakeView) -> None:
    view.services.append(service())
    view.services[0]["latency"]["buckets"].pop()
    with pytest.raises(ValueError, match="16 buckets for 16 bounds"):
        render(view)


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        (PROMETHEUS_ACCEPT, True),
        ("application/openmetrics-text", True),
        ("Application/OpenMetrics-Text; Version=1.0.0; escaping=allow-utf-8", True),
        ("text/plain;q=0.5, application/openmetrics-text;q=0.4", False),
        ("application/openmetrics-text; version=2.0.0", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=zzz", False),
        *((accept, False) for accept in ("", "*/*", "text/html", "text/plain;version=0.0.4", ";;,;=,q=1")),
    ],
)
def test_openmetrics_for_those_who_ask(accept: str, wanted: bool) -> None:
    assert wants_openmetrics(accept) is wanted


def test_the_port_serves_both_formats(peer: Peer, view: FakeView) -> None:
    busy(view)
    status, fields, body = peer.gets("/metrics", f"Accept: {PROMETHEUS_ACCEPT}")
    assert (status, fields["content-type"]) == (
        200,
        "application/openmetrics-text; version=1.0.0; charset=utf-8",
    )
    assert body.endswith(b"\n# EOF\n")
    assert value(samples(body, openmetrics=True), "process_resident_memory_bytes") > 1_000_000
    status, fields, body = peer.gets("/metrics", "Accept: */*")
    assert (status, fields["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert value(samples(body), "process_open_fds") >= 3
    assert openmetrics.exposition.CONTENT_TYPE_LATEST.startswith("application/openmetrics-text")


def test_process_figures_are_this_process() -> None:
    before = time.process_time()
    usage = read_process_usage()
    assert usage is not None
    assert 0 <= usage.cpu_seconds - before < 5 or usage.cpu_seconds >= before - 0.05
    assert 5_000_000 < usage.resident_bytes < usage.virtual_bytes
    assert time.time() - 86_400 < usage.start_time <= time.time() + 1


def test_without_proc_there_are_no_process_figures(view: FakeView, tmp_path: object) -> None:
    assert read_process_usage(tmp_path) is None  # type: ignore[arg-type]
    assert b"process_" not in render(view)


def test_process_figures_have_their_standard_names(view: FakeView) -> None:
    usage = ProcessUsage(1.5, 2, 3, 4, 5.0)
    found = samples(MetricsWriter().render(view.held, usage, openmetrics=False)[1])
    assert value(found, "process_cpu_seconds_total") == 1.5
    assert value(found, "process_start_time_seconds") == 5


def test_a_thousand_endpoints_do_not_stop_the_loop_for_long(view: FakeView) -> None:
    """A few ms (docs/adr/0002); the bound leaves room for a busy machine, not for another algorithm."""
    view.services.append(service(endpoints=1000))
    for index in range(1000):
        call(view.services[0], index, times=index)
    writer = MetricsWriter()
    best = min(_seconds(lambda: writer.render(view.held, None, openmetrics=False)) for _ in range(15))
    assert best < 0.05


def _seconds(work: object) -> float:
    """Of this thread's CPU: how busy the machine is does not count."""
    start = time.thread_time()
    work()  # type: ignore[operator]
    return time.thread_time() - start


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_promtool_finds_nothing_to_complain_of(view: FakeView) -> None:
    busy(view)
    usage = read_process_usage()
    body = MetricsWriter().render(view.held, usage, openmetrics=False)[1]
    checked = subprocess.run(["promtool", "check", "metrics"], input=body, capture_output=True, timeout=60)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


def test_every_metric_is_told_once(view: FakeView) -> None:
    busy(view)
    heads = re.findall(rb"# TYPE (\S+)", render(view))
    assert len(heads) == len(set(heads))
