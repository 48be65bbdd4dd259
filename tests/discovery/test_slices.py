"""Merging slices: by examples from the specification, and by properties against an oracle of its own."""

from __future__ import annotations

import copy
import itertools
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from objects import endpoint, endpoint_slice, service
from slice_oracle import may_be_given_streams

from sidecar.balance.endpoints import Endpoint
from sidecar.discovery.slices import MalformedError, endpoints_of, parse_service, parse_slice


def merged(slices: list[dict[str, Any]], owner: dict[str, Any] | None = None, port: int = 50051) -> list[str]:
    found = endpoints_of(parse_service(owner or service()), [parse_slice(s) for s in slices], port)
    return [e.address for e in found]


@pytest.mark.parametrize(
    ("conditions", "used"),
    [
        ({}, True),
        ({"ready": None}, True),
        ({"ready": True}, True),
        ({"ready": False}, False),
        ({"ready": False, "serving": True}, False),
        ({"ready": True, "serving": False}, True),
        ({"ready": False, "serving": True, "terminating": True}, False),
        ({"ready": True, "serving": True, "terminating": True}, True),
    ],
)
def test_readiness_beside_a_ready_endpoint(conditions: dict[str, bool], used: bool) -> None:
    found = merged([endpoint_slice("a", [endpoint("10.0.0.1", **conditions), endpoint("10.0.0.2")])])
    assert found == (["10.0.0.1:50051"] if used else []) + ["10.0.0.2:50051"]


@pytest.mark.parametrize(
    ("conditions", "used"),
    [
        ({"ready": False}, False),
        ({"ready": False, "serving": True}, False),
        ({"ready": False, "terminating": True}, False),
        ({"ready": False, "serving": None, "terminating": True}, False),
        ({"ready": False, "serving": False, "terminating": True}, False),
        ({"ready": False, "serving": True, "terminating": True}, True),
        ({"ready": False, "serving": True, "terminating": None}, False),
    ],
)
def test_what_is_used_where_nothing_is_ready(conditions: dict[str, bool], used: bool) -> None:
    found = merged([endpoint_slice("a", [endpoint("10.0.0.1", **conditions)])])
    assert found == (["10.0.0.1:50051"] if used else [])


def test_an_address_in_two_slices_counts_once_and_ready_wins() -> None:
    leaving = endpoint_slice("a", [endpoint("10.0.0.1", ready=False, serving=True, terminating=True)])
    arriving = endpoint_slice("b", [endpoint("10.0.0.1"), endpoint("10.0.0.2")])
    assert merged([leaving, arriving]) == merged([arriving, leaving]) == ["10.0.0.1:50051", "10.0.0.2:50051"]


def terminating(address: str) -> dict[str, Any]:
    return endpoint(address, ready=False, serving=True, terminating=True)


def test_a_rollout_from_its_first_pod_to_its_last() -> None:
    """Old pods leave in turn; the last to serve is used until a new one is ready, and not a moment longer."""
    old, new = "10.0.0.1", "10.0.0.2"
    waiting = endpoint(new, ready=False, serving=False, terminating=False)
    gone = endpoint(old, ready=False, serving=False, terminating=True)
    steps = [
        ([endpoint(old, ready=True)], [old]),
        ([endpoint(old, ready=True), waiting], [old]),
        ([terminating(old), waiting], [old]),  # nothing is ready: what still serves is used
        ([terminating(old), endpoint(new, ready=True)], [new]),
        ([gone, endpoint(new, ready=True)], [new]),
        ([gone, waiting], []),  # neither serves: empty, and so told
        ([], []),
    ]
    for members, expected in steps:
        assert merged([endpoint_slice("a", members)]) == [f"{host}:50051" for host in expected]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_one_ready_endpoint_anywhere_keeps_all_terminating_ones_out(order: tuple[int, ...]) -> None:
    slices = [
        endpoint_slice("a", [terminating("10.0.0.1"), terminating("10.0.0.2")]),
        endpoint_slice("b", []),
        endpoint_slice("c", [terminating("10.0.0.3"), endpoint("10.0.0.4")]),
    ]
    assert merged([slices[i] for i in order]) == ["10.0.0.4:50051"]
    del slices[2]["endpoints"][1]
    assert merged([slices[i] for i in order]) == [f"10.0.0.{n}:50051" for n in (1, 2, 3)]


def test_an_address_that_moves_is_never_missing_and_never_twice() -> None:
    """The controller writes the new slice first, then the old one without it; either may be seen first."""
    member, stays = endpoint("10.0.0.1"), endpoint("10.0.0.2")
    before = [endpoint_slice("a", [member, stays]), endpoint_slice("b", [])]
    during = [endpoint_slice("a", [member, stays]), endpoint_slice("b", [member])]
    after = [endpoint_slice("a", [stays]), endpoint_slice("b", [member])]
    for slices in (before, during, after):
        assert merged(slices) == ["10.0.0.1:50051", "10.0.0.2:50051"]


def test_pod_and_zone_are_carried() -> None:
    info = parse_slice(endpoint_slice("a", [endpoint("10.0.0.1", pod="greeter-7", zone="eu-1")]))
    assert endpoints_of(parse_service(service()), [info], 50051) == (
        Endpoint("10.0.0.1", 50051, "greeter-7", "eu-1"),
    )


def test_ports_are_matched_by_name_and_may_differ_between_slices() -> None:
    owner = service(ports=[{"name": "grpc", "port": 80}, {"name": "web", "port": 81}])
    first = endpoint_slice("a", [endpoint("10.0.0.1")], ports=[{"name": "grpc", "port": 1000}])
    second = endpoint_slice(
        "b", [endpoint("10.0.0.2")], ports=[{"name": "grpc", "port": 2000}, {"name": "web", "port": 3000}]
    )
    assert merged([first, second], owner, 80) == ["10.0.0.1:1000", "10.0.0.2:2000"]
    assert merged([first, second], owner, 81) == ["10.0.0.2:3000"]
    assert merged([first, second], owner, 82) == []


def test_nil_and_empty_port_names_are_the_same() -> None:
    owner = service(ports=[{"port": 80}])
    for port in ({"port": 1000}, {"name": None, "port": 1000}, {"name": "", "port": 1000}):
        assert merged([endpoint_slice("a", [endpoint("10.0.0.1")], ports=[port])], owner, 80) == [
            "10.0.0.1:1000"
        ]


def test_ports_null_udp_or_without_number_match_nothing() -> None:
    for ports in ([{"name": "grpc", "port": None}], [{"name": "grpc", "port": 1, "protocol": "UDP"}], []):
        assert merged([endpoint_slice("a", [endpoint("10.0.0.1")], ports=ports)]) == []
    no_ports = endpoint_slice("a", [endpoint("10.0.0.1")]) | {"ports": None}
    assert merged([no_ports]) == []


def test_a_udp_port_of_the_same_number_is_not_the_tcp_one() -> None:
    owner = service(
        ports=[
            {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
        ]
    )
    ports = [{"name": "dns", "port": 5353, "protocol": "UDP"}, {"name": "dns-tcp", "port": 5300}]
    assert merged([endpoint_slice("a", [endpoint("10.0.0.1")], ports=ports)], owner, 53) == ["10.0.0.1:5300"]


def test_the_family_of_the_cluster_ip_is_preferred() -> None:
    four = endpoint_slice("a", [endpoint("10.0.0.1")])
    six = endpoint_slice("b", [endpoint("fd00::1")], family="IPv6")
    name = endpoint_slice("c", [endpoint("example.test")], family="FQDN")
    assert merged([four, six, name]) == ["10.0.0.1:50051"]
    assert merged([four, six, name], service(ip="fd00::100")) == ["[fd00::1]:50051"]
    assert merged([six, name]) == ["[fd00::1]:50051"]
    # A slice of the right family that is empty: nothing is ready there, and the other family is not asked.
    assert merged([endpoint_slice("a", []), six]) == []
    headless = service(ip="None")
    headless["spec"]["ipFamilies"] = ["IPv6", "IPv4"]
    assert merged([four, six], headless) == ["[fd00::1]:50051"]


def test_two_spellings_of_one_address_are_one_endpoint() -> None:
    slices = [endpoint_slice("a", [endpoint("fd00:0:0::1"), endpoint("FD00::1")], family="IPv6")]
    assert merged(slices) == ["[fd00::1]:50051"]


@pytest.mark.parametrize(
    "bad",
    [
        None,
        7,
        {},
        {"addresses": []},
        {"addresses": None},
        {"addresses": "10.0.0.1"},
        {"addresses": [None]},
        {"addresses": ["10.0.0.300"]},
        {"addresses": ["fd00::1"]},
        {"addresses": ["10.0.0.1\0"]},
        {"addresses": ["\udcff"]},
        {"addresses": ["10.0.0.1"], "conditions": "ready"},
        {"addresses": ["10.0.0.1"], "conditions": {"ready": "true"}},
        {"addresses": ["10.0.0.1"], "targetRef": {"name": 5}},
    ],
)
def test_one_malformed_endpoint_is_left_out_and_told(bad: object) -> None:
    info = parse_slice(endpoint_slice("a", [bad, endpoint("10.0.0.2")]))  # type: ignore[list-item]
    assert [e.host for e in info.endpoints] == ["10.0.0.2"]
    (fault,) = info.faults
    assert fault.startswith("EndpointSlice default/a: endpoints[0]")
    assert "must be" in fault


@pytest.mark.parametrize(
    "bad", [None, 7, {"port": 0}, {"port": 65536}, {"port": "80"}, {"port": True}, {"port": 80.0}]
)
def test_one_malformed_port_is_left_out_and_told(bad: object) -> None:
    good = {"name": "grpc", "port": 50051}
    info = parse_slice(endpoint_slice("a", [], ports=[bad, good]))  # type: ignore[list-item]
    owner = parse_service(service(ports=[bad, good]))  # type: ignore[list-item]
    assert info.ports == (("grpc", 50051),)
    assert [p.port for p in owner.ports] == [50051]
    assert len(info.faults) == len(owner.faults) == 1


@pytest.mark.parametrize(
    "bad",
    [
        None,
        [],
        {},
        {"metadata": {}},
        {"metadata": {"name": 1}},
        {"metadata": {"name": "a"}, "addressType": "X"},
    ],
)
def test_a_wholly_wrong_object_is_a_typed_error_that_names_it(bad: object) -> None:
    with pytest.raises(MalformedError, match="EndpointSlice"):
        parse_slice(bad)
    with pytest.raises(MalformedError, match="Service"):
        parse_service(bad)


@pytest.mark.parametrize("ip", ["10.0.0", "ten", 5])
def test_a_service_with_a_nonsense_cluster_ip_is_an_error(ip: str) -> None:
    with pytest.raises(MalformedError, match=r"Service default/greeter: spec\.clusterIP"):
        parse_service(service(ip=ip))


def test_which_ports_are_declared_grpc() -> None:
    ports = [
        {"name": "grpc", "port": 1},
        {"name": "grpc-web", "port": 2},
        {"name": "grpcx", "port": 3},
        {"name": "a", "port": 4, "appProtocol": "kubernetes.io/h2c"},
        {"name": "b", "port": 5, "appProtocol": "grpc"},
        {"name": "c", "port": 6, "appProtocol": "http"},
    ]
    declared = [p.port for p in parse_service(service(ports=ports)).ports if p.declared_grpc]
    assert declared == [1, 2, 4, 5]


# --- properties, against slice_oracle.py, which is written from the specification and not from the code ---

NILABLE = st.sampled_from([True, False, None])
ENDPOINTS = st.builds(
    lambda n, ready, serving, terminating: endpoint(
        f"10.0.0.{n}", ready=ready, serving=serving, terminating=terminating
    ),
    st.integers(1, 6),
    NILABLE,
    NILABLE,
    NILABLE,
)
PORTS = st.lists(
    st.builds(
        lambda name, number, protocol: {"name": name, "port": number, "protocol": protocol},
        st.sampled_from(["grpc", "web", "", None]),
        st.sampled_from([1000, 2000, None]),
        st.sampled_from(["TCP", "UDP", None]),
    ),
    max_size=3,
)
SLICES = st.lists(
    st.builds(
        lambda endpoints, ports: endpoint_slice("x", endpoints, ports=ports),
        st.lists(ENDPOINTS, max_size=5),
        PORTS,
    ),
    max_size=4,
).map(lambda many: [s | {"metadata": s["metadata"] | {"name": f"s{i}"}} for i, s in enumerate(many)])


@given(SLICES, st.sampled_from(["grpc", "web", ""]))
@settings(max_examples=300, deadline=None)
def test_the_endpoint_set_is_the_oracles(slices: list[dict[str, Any]], name: str) -> None:
    owner = parse_service(service(ports=[{"name": name, "port": 80}]))
    found = endpoints_of(owner, [parse_slice(s) for s in slices], 80)
    assert {(e.host, e.port) for e in found} == may_be_given_streams(slices, name)
    assert len(found) == len({(e.host, e.port) for e in found})


@given(SLICES, st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_the_order_things_come_in_does_not_matter(slices: list[dict[str, Any]], rng: random.Random) -> None:
    owner = parse_service(service())
    shuffled = copy.deepcopy(slices)
    rng.shuffle(shuffled)
    first = endpoints_of(owner, [parse_slice(s) for s in slices], 50051)
    assert first == endpoints_of(owner, [parse_slice(s) for s in shuffled], 50051)


KEYS = ["metadata", "name", "namespace", "labels", "spec", "ports", "port", "endpoints", "addresses"]
KEYS += ["conditions", "ready", "addressType", "clusterIP", "clusterIPs", "ipFamilies", "targetRef"]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 70000)
    | st.sampled_from(["", "IPv4", "10.0.0.1", "None", "TCP", "\0"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner,
            max_size=6,
        )
    ),
    max_leaves=25,
)


@given(JSON)
@settings(max_examples=500, deadline=None)
def test_any_json_is_an_object_or_a_typed_error(value: object) -> None:
    for parse in (parse_service, parse_slice):
        try:
            parse(value)
        except MalformedError as error:
            assert "\n" not in str(error)  # noqa: PT017 - either outcome is right


@given(JSON, st.sampled_from(["endpoints", "ports", "addressType"]))
@settings(max_examples=300, deadline=None)
def test_any_json_in_a_slices_fields_is_handled(value: object, field: str) -> None:
    bad = endpoint_slice("a", [endpoint("10.0.0.1")]) | {field: value}
    try:
        info = parse_slice(bad)
    except MalformedError:
        return
    endpoints_of(parse_service(service()), [info], 50051)


@given(JSON, st.sampled_from(["ipFamilies", "ports", "clusterIP", "clusterIPs"]))
@settings(max_examples=300, deadline=None)
def test_any_json_in_a_services_fields_is_handled(value: object, field: str) -> None:
    bad = service(ip="None")
    bad["spec"][field] = value
    try:
        parse_service(bad)
    except MalformedError:
        return
