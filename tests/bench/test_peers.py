"""The configurations that peers are started with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from bench import peers

BACKENDS = [(f"127.1.0.{i}", 4000) for i in range(1, 251)]


def test_envoy_gets_every_backend_and_the_port() -> None:
    config = yaml.safe_load(peers.render_envoy(7000, BACKENDS))["static_resources"]
    assert config["listeners"][0]["address"]["socket_address"] == {"address": "127.0.0.1", "port_value": 7000}
    endpoints = config["clusters"][0]["load_assignment"]["endpoints"][0]["lb_endpoints"]
    addresses = [item["endpoint"]["address"]["socket_address"] for item in endpoints]
    assert [(a["address"], a["port_value"]) for a in addresses] == BACKENDS


@pytest.mark.parametrize(("mode", "suffix"), [("tcp", ""), ("h2", " proto h2")])
def test_haproxy_speaks_its_protocol_on_both_sides(mode: str, suffix: str) -> None:
    config = peers.render_haproxy(mode, 7000, BACKENDS[:2])
    assert f"\n    bind 127.0.0.1:7000{suffix}\n" in config
    assert f"    server s0 127.1.0.1:4000{suffix}\n    server s1 127.1.0.2:4000{suffix}" in config


def test_ours_reads_what_kubectl_prints_in_slices_of_a_hundred() -> None:
    items = json.loads(peers.render_slices(BACKENDS))["items"]
    assert [item["kind"] for item in items] == ["Service", *["EndpointSlice"] * 3]
    assert [len(item["endpoints"]) for item in items[1:]] == [100, 100, 50]
    assert len({item["metadata"]["name"] for item in items[1:]}) == 3
    hosts = [endpoint["addresses"][0] for item in items[1:] for endpoint in item["endpoints"]]
    assert hosts == [host for host, _ in BACKENDS]


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "endpoints.json"
    peers.write_atomically(path, "one")
    reader = path.open()
    peers.write_atomically(path, "two")
    assert reader.read() == "one"
    assert path.read_text() == "two"
    assert list(tmp_path.iterdir()) == [path]
