"""`python -m injector serve` as a process: a real TLS socket, a Kubernetes API with behaviour behind it."""

import datetime
import json
import os
import random
import socket
import ssl
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonpatch
import pytest
from fake_cluster import FakeCluster
from prometheus_client.parser import text_string_to_metric_families
from serving import NAME, Injector, connect, patch_of, post, review

from injector import certs

POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"generateName": "client-6b7f9c-", "annotations": {"evenstream.dev/inject": "enabled"}},
    "spec": {"initContainers": [{"name": "first"}], "containers": [{"name": "client", "image": "client:1"}]},
}
FUZZED = 10_000
# At rest the injector has some 75 MiB, and its manifest allows 256 MiB.
MAX_RESIDENT_KIB = 160 * 1024


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Injector, FakeCluster]]:
    with FakeCluster() as cluster:
        cluster.write_kubeconfig(tmp_path_factory.mktemp("serve") / "kubeconfig")
        with Injector(cluster.kubeconfig) as injector:
            injector.wait_for("ready: listening")
            yield injector, cluster


def _ask(served: tuple[Injector, FakeCluster], body: Any) -> dict[str, Any]:
    injector, cluster = served
    status, answer = post(injector.port, cluster.ca_bundle, json.dumps(body).encode())
    assert status == 200, answer
    decoded = json.loads(answer)
    assert decoded["kind"] == "AdmissionReview"
    assert decoded["apiVersion"] == "admission.k8s.io/v1"
    response = decoded["response"]
    assert response["uid"] == body["request"]["uid"]
    assert response["allowed"] is True
    return response


def test_it_listens_on_all_addresses_unless_told_otherwise(tmp_path: Path):
    with FakeCluster() as cluster:
        cluster.write_kubeconfig(tmp_path / "kubeconfig")
        with Injector(cluster.kubeconfig, address="") as injector:
            injector.wait_for("ready: listening")
            status, _ = post(injector.port, cluster.ca_bundle, json.dumps(review(POD)).encode())
            assert status == 200
            assert injector.stop() == 0


def test_a_pod_that_asks_is_patched_and_the_log_has_the_requests_namespace(served):
    response = _ask(served, review(POD))
    patch = patch_of(response)
    assert all(operation["op"] == "add" for operation in patch)
    after = jsonpatch.apply_patch(POD, patch)
    assert [one["name"] for one in after["spec"]["initContainers"]] == [
        "evenstream",
        "evenstream-init",
        "first",
    ]
    assert "warnings" not in response
    served[0].wait_for(r"pod shop/client-6b7f9c-\*: injected, capture iptables")


def test_a_pod_that_has_the_sidecar_gets_an_empty_answer(served):
    after = jsonpatch.apply_patch(POD, patch_of(_ask(served, review(POD))))
    response = _ask(served, review(after))
    assert patch_of(response) == []
    assert "warnings" not in response


def test_a_malformed_annotation_admits_the_pod_with_a_warning(served):
    pod = {**POD, "metadata": {"name": "p", "annotations": {"evenstream.dev/inject": "yes"}}}
    response = _ask(served, review(pod))
    assert patch_of(response) == []
    (warning,) = response["warnings"]
    assert "evenstream.dev/inject" in warning
    assert "'yes'" in warning
    assert "allowed: enabled, disabled" in warning


def test_capture_iptables_is_refused_where_the_namespace_would_refuse_the_pod(served):
    """The webhook configuration sends the pods of namespaces with Pod Security to a path of their own."""
    injector, cluster = served
    for capture, refused in (("iptables", True), ("none", False)):
        pod = json.loads(json.dumps(POD))
        pod["metadata"]["annotations"]["evenstream.dev/capture"] = capture
        body = json.dumps(review(pod)).encode()
        status, answer = post(injector.port, cluster.ca_bundle, body, "/mutate/restricted?timeout=5s")
        assert status == 200
        response = json.loads(answer)["response"]
        assert response["allowed"] is True
        assert bool(patch_of(response)) is not refused
        assert ("allowed: hosts, none" in str(response.get("warnings"))) is refused


def test_a_pod_over_a_mebibyte_is_patched_too(served):
    pod = {**POD, "spec": {**POD["spec"], "note": "x" * (3 * 1024 * 1024)}}
    assert patch_of(_ask(served, review(pod)))


def test_a_body_over_the_limit_is_refused(served):
    injector, cluster = served
    connection = connect(injector.port, cluster.ca_bundle)
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/mutate", b'"' + b"x" * (11 * 1024 * 1024) + b'"', headers)
    assert connection.getresponse().status == 413
    connection.close()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not an AdmissionReview"),
        (b'{"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1beta1"}', "admission.k8s.io/v1"),
        (b'{"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1"}', "request.uid is missing"),
        (json.dumps({**review(POD), "request": {"uid": "1"}}).encode(), "request.object is missing"),
    ],
)
def test_what_is_no_review_is_refused_with_a_reason(served, body: bytes, says: str):
    injector, cluster = served
    status, answer = post(injector.port, cluster.ca_bundle, body)
    assert status == 400
    assert says in json.loads(answer)["error"]


def test_another_resource_is_admitted_unchanged(served):
    body = review(POD)
    body["request"]["resource"] = {"group": "apps", "version": "v1", "resource": "deployments"}
    response = _ask(served, body)
    assert patch_of(response) == []


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"Content-Type": "text/plain"}, b"{}", 415),
        ({}, b"{}", 415),
        ({"Content-Type": "application/json", "Transfer-Encoding": "chunked"}, iter([b"{}"]), 411),
        ({"Content-Type": "application/json", "Content-Length": str(11 * 1024 * 1024)}, b"", 413),
    ],
)
def test_only_the_api_servers_shape_of_call_is_taken(served, headers, body, status: int):
    injector, cluster = served
    connection = connect(injector.port, cluster.ca_bundle)
    connection.request("POST", "/mutate", body, headers, encode_chunked="Transfer-Encoding" in headers)
    response = connection.getresponse()
    assert response.status == status
    assert "allowed: " in json.loads(response.read())["error"]
    connection.close()


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/mutate"), ("PUT", "/mutate"), ("POST", "/"), ("POST", "/mutate/x")]
)
def test_nothing_else_is_served(served, method: str, path: str):
    injector, cluster = served
    connection = connect(injector.port, cluster.ca_bundle)
    connection.request(method, path, b"{}", {"Content-Type": "application/json"})
    assert connection.getresponse().status in (404, 405)
    connection.close()


def _resident_kib(injector: Injector) -> int:
    """The most that it ever had."""
    status = Path(f"/proc/{injector.process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1])


@pytest.mark.parametrize(
    "dense",
    [
        {"env": [{"name": "a"}] * 700_000},
        {"x": [{}] * 3_000_000},
        {"x": [[[]]] * 1_700_000},
        {"x": [0] * 4_000_000},
    ],
    ids=["env", "objects", "lists", "numbers"],
)
def test_a_pod_of_millions_of_values_is_admitted_without_being_taken_apart(served, dense: dict[str, Any]):
    """Whoever may create pods must not be able to take the injector's memory, and with it everybody's sidecars."""
    pod = {**POD, "spec": {"containers": [{"name": "client", **dense}]}}
    body = json.dumps(review(pod), separators=(",", ":")).encode()
    assert 8_000_000 < len(body) < 10 * 1024 * 1024
    status, answer = post(served[0].port, served[1].ca_bundle, body)
    response = json.loads(answer)["response"]
    assert (status, response["allowed"], response["uid"]) == (200, True, review(POD)["request"]["uid"])
    assert "allowed: at most 100000 values" in response["warnings"][0]
    assert _resident_kib(served[0]) < MAX_RESIDENT_KIB


def test_values_within_strings_do_not_count(served):
    pod = {**POD, "spec": {**POD["spec"], "note": '[{"a": "b"},' * 100_000}}
    assert patch_of(_ask(served, review(pod)))


def test_reviews_of_any_kind_get_an_answer_or_an_error_and_never_a_crash(served):
    """10,000 reviews with a value of the wrong kind somewhere, some with bytes changed or missing as well."""
    injector, cluster = served
    seed = int(os.environ.get("EVENSTREAM_FUZZ_SEED") or 7)
    chosen = random.Random(seed)
    odd = (
        None,
        0,
        -1,
        1e99,
        "",
        "x",
        "\ud800",
        "\u0000",
        [],
        {},
        [None],
        {"a": None},
        True,
        [{"name": 5}],
        [[[]]],
    )
    connection = connect(injector.port, cluster.ca_bundle)
    seen: Counter[tuple[int, bool]] = Counter()
    for number in range(FUZZED):
        body = json.loads(json.dumps(review(POD)))
        node: Any = body if chosen.random() < 0.1 else body["request"]
        while True:
            key = chosen.choice(sorted(node)) if isinstance(node, dict) else chosen.randrange(len(node))
            if not (isinstance(node[key], (dict, list)) and node[key] and chosen.random() < 0.75):
                break
            node = node[key]
        node[key] = chosen.choice(odd)
        text = bytearray(json.dumps(body).encode())
        changed = chosen.random() < 0.2
        if changed:
            for _ in range(chosen.randrange(1, 4)):
                text[chosen.randrange(len(text))] = chosen.randrange(256)
            del text[chosen.randrange(len(text)) :: chosen.choice((1, 7, len(text)))]
        connection.request("POST", "/mutate", bytes(text), {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = json.loads(response.read())
        about = (seed, number, bytes(text), answer)
        assert response.status in (200, 400), about
        if response.status == 200:
            assert answer["response"]["allowed"] is True, about
        seen[response.status, "patch" in str(answer)] += 1
    connection.close()
    assert injector.process.poll() is None
    assert _resident_kib(injector) < MAX_RESIDENT_KIB
    # Some of each: refused, admitted with the sidecar and without.
    assert all(seen[kind] > FUZZED // 100 for kind in ((400, False), (200, True), (200, False))), seen


def test_health_is_on_the_same_port(served):
    injector, cluster = served
    for path in ("/livez", "/readyz"):
        connection = connect(injector.port, cluster.ca_bundle)
        connection.request("GET", path)
        assert connection.getresponse().status == 200
        connection.close()


def test_tls_below_1_3_is_refused(served):
    injector, cluster = served
    context = ssl.create_default_context(cadata=cluster.ca_bundle.decode())
    context.check_hostname = False
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection(("127.0.0.1", injector.port), timeout=10) as plain,
        pytest.raises(ssl.SSLError),
    ):
        context.wrap_socket(plain)


def test_it_asks_the_api_server_for_no_more_than_its_rights(served):
    allowed = (
        "GET /api/v1/namespaces/evenstream-system/secrets/evenstream-injector-certificates",
        "POST /api/v1/namespaces/evenstream-system/secrets",
        "PUT /api/v1/namespaces/evenstream-system/secrets/evenstream-injector-certificates",
        "PATCH /apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/evenstream-injector",
        # The version and discovery, which every account may use.
        "GET /version",
        "GET /api",
        "GET /api/v1",
        "GET /apis",
    )
    assert set(served[1].calls) <= set(allowed)


def test_it_ends_cleanly_on_sigterm_and_starts_again_with_the_same_certificate(cluster: FakeCluster):
    with Injector(cluster.kubeconfig) as injector:
        injector.wait_for("ready: listening")
        before = cluster.ca_bundle
        assert injector.stop() == 0
    with Injector(cluster.kubeconfig) as injector:
        injector.wait_for("ready: listening")
        assert cluster.ca_bundle == before
        assert post(injector.port, before, json.dumps(review(POD)).encode())[0] == 200
        assert injector.stop() == 0


def test_two_replicas_serve_under_one_ca(cluster: FakeCluster):
    with Injector(cluster.kubeconfig) as one, Injector(cluster.kubeconfig) as two:
        for injector in (one, two):
            injector.wait_for("ready: listening")
        for injector in (one, two):
            assert post(injector.port, cluster.ca_bundle, json.dumps(review(POD)).encode())[0] == 200


def test_an_api_server_that_fails_at_first_is_asked_again(cluster: FakeCluster):
    cluster.webhooks, webhooks = None, cluster.webhooks
    with Injector(cluster.kubeconfig) as injector:
        injector.wait_for("not ready, trying again.*evenstream-injector does not exist")
        cluster.webhooks = webhooks
        injector.wait_for("ready: listening")
        assert cluster.ca_bundle


@pytest.mark.parametrize(
    ("minor", "flags", "is_plain"),
    [
        ("28", (), True),
        ("29+", (), False),
        ("", (), False),
        ("28", ("--sidecar-kind=native",), False),
        ("34", ("--sidecar-kind=plain",), True),
    ],
)
def test_the_servers_version_chooses_the_kind_of_sidecar_unless_a_flag_does(
    cluster: FakeCluster, minor: str, flags: tuple[str, ...], is_plain: bool
):
    cluster.minor = minor
    with Injector(cluster.kubeconfig, 0, *flags) as injector:
        injector.wait_for("ready: listening")
        assert ("GET /version" in cluster.calls) is not bool(flags)
        response = _ask((injector, cluster), review(POD))
        after = jsonpatch.apply_patch(POD, patch_of(response))
        first = [after["spec"][key][0]["name"] for key in ("initContainers", "containers")]
        assert first == (["first", "evenstream"] if is_plain else ["evenstream", "client"])
        if not minor:
            assert any("server version not known, sidecars stay native" in line for line in injector.lines)


def _metrics(served: tuple[Injector, FakeCluster]) -> dict[str, float]:
    """Samples by name and labels, as Prometheus reads them."""
    injector, cluster = served
    connection = connect(injector.port, cluster.ca_bundle)
    try:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        families = list(text_string_to_metric_families(answer.read().decode()))
    finally:
        connection.close()
    samples = [sample for family in families for sample in family.samples]
    return {sample.name + "".join(sample.labels.values()): sample.value for sample in samples}


def test_metrics_count_what_became_of_pods(served):
    before = _metrics(served)
    _ask(served, review(POD))
    _ask(served, review({**POD, "metadata": {"name": "p", "annotations": {"evenstream.dev/inject": "yes"}}}))
    _ask(
        served,
        review({**POD, "metadata": {"name": "p", "annotations": {"evenstream.dev/inject": "disabled"}}}),
    )
    injector, cluster = served
    assert post(injector.port, cluster.ca_bundle, b"{}")[0] == 400
    after = _metrics(served)
    name = "evenstream_injector_admissions_total"
    grown = {key: after[key] - before[key] for key in after if key.startswith(name)}
    assert grown == {
        f"{name}injected": 1,
        f"{name}refused": 1,
        f"{name}unchanged": 1,
        f"{name}bad": 1,
        f"{name}failed": 0,
    }
    count = "evenstream_injector_admission_duration_seconds_count"
    assert after[count] - before[count] == 4


def test_metrics_tell_how_long_the_certificates_live(served):
    told = _metrics(served)
    days = (told["evenstream_injector_certificate_expiry_timestamp_seconds"] - time.time()) / 86_400
    assert 89 < days <= 90
    assert told["evenstream_injector_ca_expiry_timestamp_seconds"] - time.time() > 3000 * 86_400
    assert told["evenstream_injector_refreshes_totalok"] >= 1
    assert told["process_resident_memory_bytes"] > 0


def test_metrics_name_nobody(served):
    """Whoever reaches the port learns counts only."""
    _ask(served, review({**POD, "metadata": {**POD["metadata"], "name": "secret-name"}}))
    injector, cluster = served
    connection = connect(injector.port, cluster.ca_bundle)
    connection.request("GET", "/metrics")
    body = connection.getresponse().read()
    connection.close()
    assert b"secret-name" not in body
    assert b"shop" not in body


def test_with_certificates_from_files_it_asks_for_no_right_at_all(cluster: FakeCluster, tmp_path: Path):
    bundle = certs.issue([NAME], datetime.datetime.now(datetime.UTC))
    for name, content in (("tls.crt", bundle.certificate), ("tls.key", bundle.key)):
        (tmp_path / name).write_bytes(content)
    with Injector(cluster.kubeconfig, 0, f"--certificates={tmp_path}") as injector:
        injector.wait_for("ready: listening")
        status, _ = post(injector.port, bundle.ca_certificates, json.dumps(review(POD)).encode())
        assert status == 200
        assert injector.stop() == 0
    assert {call.partition(" ")[2] for call in cluster.calls} <= {"/version", "/api", "/api/v1", "/apis"}


def test_a_port_in_use_is_one_line_and_exit_code_1(cluster: FakeCluster):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with Injector(cluster.kubeconfig, port) as injector:
            injector.wait_for(f"serve: cannot listen on 127.0.0.1 port {port}: Address already in use")
            assert injector.process.wait(30) == 1
            assert len(injector.lines) == 1
