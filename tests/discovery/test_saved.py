"""What is kept for the next process: there and back, bounded, and never trusted."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.balance.endpoints import Endpoint, ServicePort
from sidecar.discovery import saved
from sidecar.discovery.saved import Saved, SavedAddress, StateFile, decode, encode
from sidecar.discovery.slices import MalformedError

GREETER = ServicePort("default", "greeter", 50051)
ENDPOINTS = (Endpoint("10.0.0.1", 50051, "greeter-1", "eu-1"), Endpoint("fd00::1", 50051))

NAMES = st.text("abcxyz-09", min_size=1, max_size=20)
PORTS = st.integers(1, 65535)
IPS = st.ip_addresses().map(str)
KEYS = st.builds(ServicePort, NAMES, NAMES, PORTS)
ALL_KEPT = st.tuples(
    st.dictionaries(
        KEYS,
        st.tuples(
            st.lists(st.builds(Endpoint, IPS, PORTS, NAMES, NAMES), max_size=4).map(tuple), st.floats(0, 2e9)
        ),
        max_size=4,
    ),
    st.dictionaries(st.tuples(IPS, PORTS), st.builds(SavedAddress, KEYS, st.booleans()), max_size=4),
)


def example() -> Saved:
    kept = Saved()
    kept.put(GREETER, ENDPOINTS, 1.7e9)
    kept.put_address("10.96.0.10", 50051, SavedAddress(GREETER, True))
    return kept


def same(a: Saved, b: Saved) -> bool:
    return a.ports == b.ports and a.addresses == b.addresses


@given(ALL_KEPT)
@settings(deadline=None)
def test_what_is_written_is_read(parts: tuple[dict[Any, Any], dict[Any, Any]]) -> None:
    kept = Saved()
    for service, (endpoints, at) in parts[0].items():
        kept.put(service, endpoints, at)
    for (host, port), address in parts[1].items():
        kept.put_address(_canonical(host), port, address)
    for service, one in list(kept.ports.items()):
        endpoints = tuple(e._replace(host=_canonical(e.host)) for e in one.endpoints)
        kept.put(service, endpoints, one.at)
    assert same(decode(encode(kept)), kept)


def _canonical(host: str) -> str:
    from sidecar.discovery.slices import canonical_ip

    return canonical_ip(host)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 70000) | st.floats() | st.sampled_from(["", "10.0.0.1"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["service", "at", "endpoints", "address", "grpc"]), inner)
    ),
    max_leaves=15,
)


@given(st.fixed_dictionaries({"format": st.just(1), "ports": JSON, "addresses": JSON}))
@settings(max_examples=500, deadline=None)
def test_any_json_is_taken_or_refused_in_one_line(value: object) -> None:
    try:
        decode(json.dumps(value).encode())
    except MalformedError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either outcome is right


@given(st.binary(max_size=200), st.data())
@settings(max_examples=300, deadline=None)
def test_a_file_with_bytes_changed_never_gives_what_is_not_an_address(
    junk: bytes, data: st.DataObject
) -> None:
    good = encode(example())
    at = data.draw(st.integers(0, len(good)))
    try:
        found = decode(good[:at] + junk + good[at + len(junk) :])
    except MalformedError:
        return
    for one in found.ports.values():
        assert all(_canonical(e.host) == e.host and 1 <= e.port <= 65535 for e in one.endpoints)


@pytest.mark.parametrize(
    ("where", "bad"),
    [
        (("ports", 0, "endpoints", 0, 0), "10.0.0.300"),
        (("ports", 0, "endpoints", 0, 0), "FD00::1"),
        (("ports", 0, "endpoints", 0, 1), 0),
        (("ports", 0, "endpoints", 0, 1), True),
        (("ports", 0, "endpoints", 0, 2), None),
        (("ports", 0, "endpoints", 0, 3), "z" * 300),
        (("ports", 0, "service", 2), 70000),
        (("ports", 0, "at"), "now"),
        (("ports", 0, "at"), float("nan")),
        (("ports",), {}),
        (("addresses", 0, "address", 0), "greeter"),
        (("addresses", 0, "grpc"), 1),
        (("addresses",), [[]] * 3000),
        (("format",), 2),
    ],
)
def test_one_wrong_value_makes_all_of_it_void(where: tuple[Any, ...], bad: object) -> None:
    top = json.loads(encode(example()))
    inner = top
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = bad
    with pytest.raises(MalformedError):
        decode(json.dumps(top).encode())


def test_it_is_bounded() -> None:
    kept = Saved()
    for number in range(saved.MAX_PORTS + 10):
        kept.put(ServicePort("default", f"s{number}", 1), ENDPOINTS, 1.0)
    for number in range(saved.MAX_ADDRESSES + 10):
        kept.put_address("10.0.0.1", number + 1, SavedAddress(GREETER, False))
    assert len(kept.ports) == saved.MAX_PORTS
    assert ServicePort("default", "s9", 1) not in kept.ports
    assert len(kept.addresses) == saved.MAX_ADDRESSES
    assert same(decode(encode(kept)), kept)


def test_more_than_would_be_read_is_not_written(tmp_path: Path) -> None:
    file = StateFile(str(tmp_path))
    file.store(example())
    kept = Saved()
    kept.put(GREETER, ENDPOINTS * 70_000, 1.0)
    with pytest.raises(MalformedError, match="at most"):
        file.store(kept)
    found = file.load()
    assert found is not None
    assert same(found, example())


def test_ten_thousand_endpoints_fit(tmp_path: Path) -> None:
    kept = Saved()
    pods = [
        Endpoint(f"10.{n >> 8}.{n & 255}.1", 50051, f"greeter-7d4b9c6f5-{n:05}", "eu-central-1a")
        for n in range(10_000)
    ]
    kept.put(GREETER, tuple(pods), 1.0)
    file = StateFile(str(tmp_path))
    file.store(kept)
    found = file.load()
    assert found is not None
    assert same(found, kept)


@pytest.mark.parametrize("kind", ["fifo", "directory", "symlink", "too large"])
def test_what_is_no_file_of_ours_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    file = StateFile(str(tmp_path))
    path = Path(file.path)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "symlink":
        (tmp_path / "else").write_bytes(encode(example()))
        path.symlink_to(tmp_path / "else")
    else:
        path.write_bytes(b" " * (saved.MAX_FILE_BYTES + 1))
    with pytest.raises((OSError, MalformedError)):
        file.load()


def test_no_file_is_no_fault(tmp_path: Path) -> None:
    assert StateFile(str(tmp_path)).load() is None
    assert StateFile(str(tmp_path / "missing")).load() is None


def test_a_write_that_is_cut_short_leaves_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = StateFile(str(tmp_path))
    file.store(example())

    def cut(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", cut)
    with pytest.raises(OSError, match="No space"):
        file.store(Saved())
    found = file.load()
    assert found is not None
    assert same(found, example())
