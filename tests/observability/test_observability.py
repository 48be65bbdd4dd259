"""manifests/observability against what is really exposed, with Prometheus' own tools, and a real Prometheus."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from admin_browser import Loop
from admin_fakes import FakeView, call, change, service
from freeports import free_port
from prometheus_client.parser import text_string_to_metric_families

from contract import names
from injector.admission.containers import ADMIN_PORT_NAME
from injector.metrics import Metrics
from sidecar.admin.metrics import MetricsWriter
from sidecar.admin.process import read_process_usage
from sidecar.admin.server import AdminServer

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "manifests" / "observability"
RULES = yaml.safe_load((FOLDER / "rules.yaml").read_text())
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())
MONITORS = list(yaml.safe_load_all((FOLDER / "podmonitors.yaml").read_text()))
SCRAPE = yaml.safe_load((FOLDER / "scrape-config.yaml").read_text())

promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)"
)


def expressions() -> dict[str, str]:
    """Every PromQL in rules and dashboard, by where it stands."""
    rules = [rule for group in RULES["spec"]["groups"] for rule in group["rules"]]
    found = {rule.get("alert") or rule["record"]: rule["expr"] for rule in rules}
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            found[f"{panel['title']} {target['refId']}"] = plain(target["expr"])
    return found


def plain(expression: str) -> str:
    """As Grafana sends it with all variables at All."""
    return re.sub(r"\$(namespace|grpc_target)", ".*", expression.replace("$__rate_interval", "1m"))


def busy_view() -> FakeView:
    """An engine in which everything has happened."""
    view = FakeView()
    view.services.append(service("greeter", 3))
    for index in range(3):
        call(view.services[0], index, times=40)
    call(view.services[0], 0, code=14, times=2)
    last = view.services[0]["endpoints"][2]
    change(last, open_streams=3, failures_total=1, refused_total=1, connect_failures_total=1)
    view.held["connections"] = {
        "open": 3,
        "total": 9,
        "kinds": {"grpc": {"open": 2, "total": 5}, "passthrough": {"open": 1, "total": 4}},
        "passthrough_reasons": {"tls": 3, "http1": 1},
        "passthrough": [],
    }
    view.held["engine"]["protocol_errors"] = {"FLOW_CONTROL_ERROR": 2}
    view.held["engine"]["internal_errors"] = {"receive": 1}
    return view


def exposed() -> set[str]:
    """The names of all series that sidecar and injector have."""
    sidecar = MetricsWriter().render(busy_view().held, read_process_usage(), openmetrics=False)[1]
    metrics = Metrics()
    metrics.answered("injected", 0.001)
    injector = metrics.render("")[1]
    families = text_string_to_metric_families(sidecar.decode() + injector.decode())
    return {sample.name for family in families for sample in family.samples}


def test_every_metric_that_is_asked_for_exists():
    known = exposed()
    recorded = {
        rule["record"] for group in RULES["spec"]["groups"] for rule in group["rules"] if "record" in rule
    }
    for where, expression in expressions().items():
        asked = set(re.findall(r"\b(?:evenstream|process)[a-z0-9_:]*", re.sub(r'"[^"]*"', '""', expression)))
        assert asked, where
        assert asked <= known | recorded, f"{where}: {asked - known - recorded}"


def test_every_label_that_is_asked_for_exists():
    """namespace, pod and job come from whoever scrapes."""
    sidecar = MetricsWriter().render(busy_view().held, None, openmetrics=False)[1].decode()
    injector = Metrics().render("")[1].decode()
    known = {"namespace", "pod", "job", "le", *re.findall(r'[{,]([a-z_]+)="', sidecar + injector)}
    for where, expression in expressions().items():
        asked = re.findall(r"([a-z_]+)=~?\"", expression)
        for group in re.findall(r"by \(([^)]*)\)", expression):
            asked += [label.strip() for label in group.split(",")]
        assert set(asked) <= known, where


def test_the_documentation_has_every_metric_and_no_other():
    """docs/reference/metrics.md, by family; what an engine adds by itself is the engine's of that page."""
    text = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    told = set(re.findall(r"^\| `(evenstream_(?!engine_)[a-z0-9_]+)` \| [a-z]+ \|", text, re.MULTILINE))
    sidecar = MetricsWriter().render(busy_view().held, None, openmetrics=False)[1]
    families = re.findall(r"# TYPE (\S+)", (sidecar + Metrics().render("")[1]).decode())
    known = {name for name in families if not name.startswith(("process_", "evenstream_engine_"))}
    assert told == known


def test_every_alert_says_what_and_what_to_do():
    for group in RULES["spec"]["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                assert rule["labels"]["severity"] in ("info", "warning", "critical"), rule["alert"]
                assert rule["annotations"].keys() == {"summary", "description"}, rule["alert"]


def test_pods_are_found_by_the_port_that_injection_gives():
    sidecars, injectors = MONITORS
    (endpoint,) = sidecars["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == ADMIN_PORT_NAME
    keep = SCRAPE["scrape_configs"][0]["relabel_configs"][0]
    assert (keep["action"], keep["regex"]) == ("keep", ADMIN_PORT_NAME)
    assert str(names.ADMIN_PORT) in (FOLDER / "scrape-config.yaml").read_text()
    (deployment,) = (
        one
        for one in yaml.safe_load_all((ROOT / "manifests" / "base" / "injector.yaml").read_text())
        if one["kind"] == "Deployment"
    )
    template = deployment["spec"]["template"]
    ports = [port["name"] for port in template["spec"]["containers"][0]["ports"]]
    (endpoint,) = injectors["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in ports
    assert injectors["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()


def test_the_dashboard_is_what_its_program_writes():
    printed = subprocess.run(
        [sys.executable, ROOT / "hack" / "dashboard.py", "--print"],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert printed.stdout == (FOLDER / "dashboard.json").read_text(), "run hack/dashboard.py"


def test_no_two_panels_lie_on_each_other():
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl, which has kustomize in it")
def test_the_component_goes_into_an_overlay(tmp_path: Path):
    shutil.copytree(ROOT / "manifests", tmp_path / "manifests")
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    wanted = {"resources": ["../manifests"], "components": ["../manifests/observability"]}
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(wanted))
    done = subprocess.run(["kubectl", "kustomize", overlay], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    made = {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(done.stdout)}
    assert {("PodMonitor", "evenstream-sidecar"), ("PrometheusRule", "evenstream")} <= made.keys()
    dashboard = made["ConfigMap", "evenstream-dashboard"]
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(dashboard["data"]["evenstream.json"]) == DASHBOARD
    alone = subprocess.run(
        ["kubectl", "kustomize", ROOT / "manifests"], capture_output=True, text=True, timeout=60
    )
    assert "monitoring.coreos.com" not in alone.stdout, "not part of a plain install"


def _run_promtool(*arguments: str, cwd: Path) -> None:
    done = subprocess.run(["promtool", *arguments], cwd=cwd, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr


@promtool
def test_promtool_accepts_the_rules_and_the_alerts_fire_when_they_should(tmp_path: Path):
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(RULES["spec"]))
    shutil.copy(Path(__file__).with_name("rules_test.yaml"), tmp_path)
    _run_promtool("check", "rules", "--lint=all", "rules.yaml", cwd=tmp_path)
    _run_promtool("test", "rules", "rules_test.yaml", cwd=tmp_path)


@promtool
def test_promtool_accepts_the_scrape_config(tmp_path: Path):
    """Debian's build knows no Kubernetes, so that what finds the pods stands aside; all else is checked."""
    for job in SCRAPE["scrape_configs"]:
        assert [each["role"] for each in job["kubernetes_sd_configs"]] == ["pod"]
    jobs = [
        {key: value for key, value in job.items() if key != "kubernetes_sd_configs"}
        for job in SCRAPE["scrape_configs"]
    ]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump({"scrape_configs": jobs}))
    _run_promtool("check", "config", "prometheus.yml", cwd=tmp_path)


@promtool
def test_promtool_accepts_the_injectors_metrics():
    metrics = Metrics()
    metrics.answered("injected", 0.001)
    content_type, body = metrics.render("")
    assert content_type.startswith("text/plain")
    done = subprocess.run(["promtool", "check", "metrics"], input=body, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


# A real Prometheus that scrapes a sidecar's admin port and an injector's metrics.


class Calling(FakeView):
    """Makes calls each time it is scraped: endpoint 0 twice as many as each other."""

    def status(self, now: float) -> Any:
        for index, times in enumerate((20, 10, 10)):
            call(self.services[0], index, times=times, seconds=0.004)
        call(self.services[0], 1, code=14)
        for index in range(3):
            change(
                self.services[0]["endpoints"][index],
                open_streams=4,
                failures_total=self.asked,
                refused_total=self.asked,
                connect_failures_total=self.asked,
            )
        self.held["connections"]["passthrough_reasons"]["tls"] = self.asked
        self.held["engine"]["protocol_errors"]["FLOW_CONTROL_ERROR"] = self.asked
        self.held["engine"]["memos"]["block"]["hits"] += 10
        return super().status(now)


class Prometheus:
    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, expression: str) -> list[Any]:
        """Raises AssertionError with what Prometheus says."""
        address = f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        try:
            with urllib.request.urlopen(address, timeout=30) as answer:
                told = json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from None
        assert told["status"] == "success", told
        found: list[Any] = told["data"]["result"]
        return found

    def wait_for(self, expression: str, seconds: float = 60.0) -> list[Any]:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if found := self.query(expression):
                return found
            time.sleep(0.2)
        raise AssertionError(f"not within {seconds} s: {expression}")


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed (Debian: prometheus)")
    folder = tmp_path_factory.mktemp("prometheus")
    with ExitStack() as stack:
        view = Calling()
        view.services.append(service("greeter", 3))
        view.held["connections"]["kinds"] = {"grpc": {"open": 2, "total": 5}}
        loop = Loop(AdminServer(view, on_drain=None), lambda: None)
        stack.callback(loop.stop)
        injector = _serve_injector(stack)
        port = free_port()
        targets = {
            "evenstream-system/evenstream-sidecar": loop.url,
            "evenstream-system/evenstream-injector": injector,
        }
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [
                {
                    "job_name": job,
                    "static_configs": [
                        {
                            "targets": [url.removeprefix("http://")],
                            "labels": {"namespace": "shop", "pod": "web-1"},
                        }
                    ],
                }
                for job, url in targets.items()
            ],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        (folder / "rules.yaml").write_text(yaml.safe_dump(RULES["spec"]))
        log = (folder / "log").open("wb")
        stack.callback(log.close)
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
        stack.callback(process.wait, 30)
        stack.callback(process.terminate)
        found = Prometheus(f"http://127.0.0.1:{port}")
        _until_ready(found, process, folder / "log")
        yield found


def _serve_injector(stack: ExitStack) -> str:
    metrics = Metrics()
    metrics._certificate.set(time.time() + 80 * 86_400)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            metrics.answered("injected", 0.002)
            content_type, body = metrics.render(self.headers.get("Accept", ""))
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    stack.callback(server.server_close)
    stack.callback(server.shutdown)
    return f"http://127.0.0.1:{server.server_address[1]}"


def _until_ready(found: Prometheus, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 60
    while True:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{found.url}/-/ready", timeout=5):
                return
        except OSError:
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.1)


def test_every_panel_of_the_dashboard_shows_something(prometheus: Prometheus):
    """Each of its queries, as Grafana sends it, has an answer once there is traffic."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            found = prometheus.wait_for(plain(target["expr"]))
            values = [float(sample["value"][1]) for sample in found]
            assert any(value == value for value in values), f"{panel['title']}: {found}"


def test_every_label_of_a_legend_is_in_the_answer(prometheus: Prometheus):
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            found = prometheus.wait_for(plain(target["expr"]))
            for label in re.findall(r"{{(\w+)}}", target.get("legendFormat", "")):
                assert label in found[0]["metric"], f"{panel['title']}: {label}"


def test_the_figures_are_right(prometheus: Prometheus):
    """Endpoint 0 is given 20 calls of 41 each time: max/mean is 20 / (41 / 3)."""
    (sample,) = prometheus.wait_for("evenstream:streams_max_over_mean:rate5m")
    assert sample["metric"]["grpc_target"] == "greeter.default:50051"
    assert float(sample["value"][1]) == pytest.approx(60 / 41, rel=0.05)
    (sample,) = prometheus.wait_for(expressions()["Certificate's days left A"])
    assert float(sample["value"][1]) == pytest.approx(80, abs=0.1)
