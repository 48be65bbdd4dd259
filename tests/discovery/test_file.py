"""The file source: what it yields as the file changes, and what it does when the file is bad."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest
from objects import endpoint, endpoint_slice, listing, service

from sidecar.balance.endpoints import Endpoint, ServicePort, Snapshot
from sidecar.discovery import file as file_module
from sidecar.discovery.file import POLL_SECONDS, FileSource
from sidecar.discovery.source import Resolution

GREETER = ServicePort("default", "greeter", 50051)


def one(*addresses: str) -> str:
    return listing(service(), endpoint_slice("greeter-a", [endpoint(a, pod="p-" + a) for a in addresses]))


def endpoints(*addresses: str) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(a, 50051, "p-" + a) for a in addresses)


class Driven:
    """A FileSource under a clock of its own: `poll` lets one polling interval pass and takes the events."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.source = FileSource(str(path))
        self.now = 100.0

    def poll(self, times: int = 1) -> list[Snapshot | Resolution]:
        found: list[Snapshot | Resolution] = []
        for _ in range(times):
            self.now = max(self.now + 0.001, self.source.deadline())
            self.source.tick(self.now)
            found += self.source.events()
        return found

    def watch(self, wanted: ServicePort = GREETER) -> list[Snapshot | Resolution]:
        self.source.watch(wanted, self.now)
        return list(self.source.events())

    def resolve(self, host: str, port: int) -> Resolution:
        self.source.resolve(host, port, self.now)
        (answer,) = self.source.events()
        assert isinstance(answer, Resolution)
        return answer


@pytest.fixture
def driven(tmp_path: Path) -> Driven:
    return Driven(tmp_path / "endpoints.json")


def test_a_watched_port_is_answered_at_once_and_at_each_change(driven: Driven) -> None:
    driven.path.write_text(one("10.0.0.1"))
    assert driven.watch() == [Snapshot(GREETER, endpoints("10.0.0.1"), "file", 100.0)]
    assert driven.source.synced()
    assert driven.poll(3) == []
    driven.path.write_text(one("10.0.0.1", "10.0.0.2"))
    (snapshot,) = driven.poll()
    assert snapshot == Snapshot(GREETER, endpoints("10.0.0.1", "10.0.0.2"), "file", driven.now)


def test_a_change_is_seen_within_one_polling_interval(driven: Driven) -> None:
    driven.path.write_text(one("10.0.0.1"))
    driven.watch()
    driven.poll()
    before = driven.now
    assert driven.source.deadline() <= before + POLL_SECONDS


def test_what_changes_nothing_is_not_told_again(driven: Driven) -> None:
    driven.path.write_text(one("10.0.0.1", "10.0.0.2"))
    driven.watch()
    driven.path.write_text(one("10.0.0.2", "10.0.0.1") + "\n")
    assert driven.poll(3) == []
    assert driven.watch() == []


def test_watching_again_after_unwatch_is_answered_again(driven: Driven) -> None:
    driven.path.write_text(one("10.0.0.1"))
    driven.watch()
    driven.source.unwatch(GREETER, driven.now)
    driven.path.write_text(one("10.0.0.2"))
    assert driven.poll(2) == []
    (snapshot,) = driven.watch()
    assert isinstance(snapshot, Snapshot)
    assert snapshot.endpoints == endpoints("10.0.0.2")


def test_a_service_or_port_that_is_not_there_does_not_exist(driven: Driven) -> None:
    driven.path.write_text(one("10.0.0.1"))
    for absent in (ServicePort("default", "nobody", 50051), ServicePort("default", "greeter", 1)):
        (snapshot,) = driven.watch(absent)
        assert snapshot == Snapshot(absent, (), "file", driven.now, exists=False)


def test_a_missing_file_is_waited_for_and_told_once(driven: Driven, caplog: pytest.LogCaptureFixture) -> None:
    assert driven.watch() == []
    assert driven.poll(20) == []
    assert not driven.source.synced()
    assert driven.source.status(driven.now)["state"] == "waiting"
    assert [r.getMessage() for r in caplog.records] == [
        f"{driven.path}: No such file or directory; no endpoints yet"
    ]
    driven.path.write_text(one("10.0.0.1"))
    assert len(driven.poll()) == 1
    assert driven.source.synced()


BAD = {
    "half": lambda: one("10.0.0.9")[:200],
    "empty": lambda: "",
    "not text": lambda: "\udcff",
    "a list": lambda: "[]",
    "another kind": lambda: json.dumps({"kind": "Pod", "items": []}),
    "items no list": lambda: json.dumps({"kind": "List", "items": {}}),
    "item no object": lambda: json.dumps({"kind": "List", "items": [7]}),
    "service without name": lambda: json.dumps({"kind": "List", "items": [{"kind": "Service"}]}),
    "slice of unknown type": lambda: listing(service(), endpoint_slice("a", [], family="IPX")),
    "too deep": lambda: "[" * 100_000,
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_leaves_the_last_good_one_in_force(
    driven: Driven, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    driven.path.write_text(one("10.0.0.1"))
    driven.watch()
    driven.path.write_bytes(BAD[kind]().encode(errors="surrogateescape"))
    assert driven.poll(20) == []
    status = driven.source.status(driven.now)
    assert status["state"] == "stale"
    assert status["counters"] == {"loads": 1, "malformed": 1}
    assert status["last_error"].startswith(f"{driven.path}: ")
    assert len(caplog.records) == 1
    assert "the last good one stays in force" in caplog.text
    assert driven.source.synced()
    assert driven.resolve("10.96.0.10", 50051).service == GREETER
    driven.path.write_text(one("10.0.0.1"))
    assert driven.poll(3) == []
    assert driven.source.status(driven.now)["state"] == "live"
    assert driven.source.status(driven.now)["last_error"] == ""


def test_each_distinct_fault_is_one_line(driven: Driven, caplog: pytest.LogCaptureFixture) -> None:
    driven.watch()
    for text in ("{", "{", "[]", "{", "[]"):
        driven.path.write_text(text)
        driven.poll(2)
    assert len(caplog.records) == 3  # missing, not JSON, no List
    driven.path.unlink()
    driven.poll(2)
    assert len(caplog.records) == 3


def test_a_file_that_vanishes_and_comes_back_the_same_is_live_again(driven: Driven) -> None:
    driven.path.write_text(one("10.0.0.1"))
    driven.watch()
    aside = driven.path.with_suffix(".aside")
    driven.path.rename(aside)
    assert driven.poll(3) == []
    assert driven.source.status(driven.now)["state"] == "stale"
    aside.rename(driven.path)
    assert driven.poll(3) == []
    assert driven.source.status(driven.now)["state"] == "live"


def test_a_malformed_endpoint_does_not_take_the_others_along(
    driven: Driven, caplog: pytest.LogCaptureFixture
) -> None:
    bad = endpoint_slice("greeter-a", [endpoint("10.0.0.1", pod="p-10.0.0.1"), endpoint("nowhere"), {"x": 1}])
    driven.path.write_text(listing(service(), bad))
    (snapshot,) = driven.watch()
    assert isinstance(snapshot, Snapshot)
    assert snapshot.endpoints == endpoints("10.0.0.1")
    driven.poll(5)
    (record,) = caplog.records
    assert "endpoints[1].addresses[0] is 'nowhere'; it must be an IPv4 address" in record.getMessage()
    assert "(and 1 more like it)" in record.getMessage()
    assert driven.source.status(driven.now)["counters"]["malformed"] == 2


def test_a_file_replaced_by_rename_is_seen(driven: Driven) -> None:
    driven.path.write_text(one("10.0.0.1"))
    driven.watch()
    new = driven.path.with_suffix(".new")
    new.write_text(one("10.0.0.2"))
    os.utime(new, ns=(driven.path.stat().st_atime_ns, driven.path.stat().st_mtime_ns))
    new.replace(driven.path)
    (snapshot,) = driven.poll()
    assert isinstance(snapshot, Snapshot)
    assert snapshot.endpoints == endpoints("10.0.0.2")


def test_a_config_map_volume_is_followed_through_its_symlinks(tmp_path: Path) -> None:
    for version, address in (("v1", "10.0.0.1"), ("v2", "10.0.0.2")):
        (tmp_path / version).mkdir()
        (tmp_path / version / "endpoints.json").write_text(one(address))
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "endpoints.json").symlink_to("..data/endpoints.json")
    driven = Driven(tmp_path / "endpoints.json")
    driven.watch()
    driven.poll(3)
    (tmp_path / "..tmp").symlink_to("v2")
    (tmp_path / "..tmp").rename(tmp_path / "..data")
    (snapshot,) = driven.poll()
    assert isinstance(snapshot, Snapshot)
    assert snapshot.endpoints == endpoints("10.0.0.2")


def test_a_second_write_in_the_same_tick_of_the_clock_is_seen(driven: Driven) -> None:
    driven.path.write_text(one("10.0.0.1"))
    driven.watch()
    stat = driven.path.stat()
    with driven.path.open("r+") as same_inode:
        same_inode.write(one("10.0.0.2"))
    os.utime(driven.path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    (snapshot,) = driven.poll()
    assert isinstance(snapshot, Snapshot)
    assert snapshot.endpoints == endpoints("10.0.0.2")


def test_an_idle_file_is_not_read_again(driven: Driven, monkeypatch: pytest.MonkeyPatch) -> None:
    driven.path.write_text(one("10.0.0.1"))
    driven.watch()
    driven.poll(2)
    driven.path.chmod(0)
    monkeypatch.setattr(file_module, "read_up_to", lambda *args: pytest.fail("read although nothing changed"))
    assert driven.poll(100) == []


def test_a_file_beyond_the_limit_is_refused(driven: Driven, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_module, "MAX_FILE_BYTES", 100)
    driven.path.write_text(one("10.0.0.1"))
    assert driven.watch() == []
    assert "larger than 100 bytes" in driven.source.status(driven.now)["last_error"]


def test_a_fifo_or_directory_in_its_place_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path):
        driven = Driven(path)
        assert driven.watch() == []
        assert not driven.source.synced()
        assert driven.source.status(driven.now)["last_error"]


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_directory_in_its_place_leaves_no_file_open(tmp_path: Path) -> None:
    """It is looked at 20 times a second, for as long as it stands there."""
    driven = Driven(tmp_path)
    driven.poll()
    before = open_files()
    driven.poll(20)
    assert open_files() == before


def test_what_fails_by_no_fault_of_the_file_is_tried_again(
    driven: Driven, monkeypatch: pytest.MonkeyPatch
) -> None:
    driven.path.write_text(one("10.0.0.1"))
    driven.watch()
    driven.poll(2)
    driven.path.write_text(one("10.0.0.2"))
    with monkeypatch.context() as short:
        short.setattr(file_module, "decode", raise_memory_error)
        for _ in range(3):
            with pytest.raises(MemoryError):
                driven.poll()
        assert driven.source.status(driven.now)["state"] == "stale"
    (snapshot,) = driven.poll()
    assert isinstance(snapshot, Snapshot)
    assert snapshot.endpoints == endpoints("10.0.0.2")
    assert driven.source.status(driven.now)["state"] == "live"


def raise_memory_error(data: bytes) -> None:
    raise MemoryError


def test_an_address_is_resolved_by_cluster_ip_and_port(driven: Driven) -> None:
    h2c = [{"port": 80, "appProtocol": "kubernetes.io/h2c"}, {"name": "x", "port": 81}]
    six = service("six", ip="fd00::a", ports=h2c)
    headless = service("headless", ip="None")
    driven.path.write_text(listing(service(), six, headless))
    assert driven.resolve("10.96.0.10", 50051) == Resolution("10.96.0.10", 50051, GREETER, True)
    assert driven.resolve("10.96.0.10", 443) == Resolution("10.96.0.10", 443, None)
    assert driven.resolve("10.96.0.11", 50051) == Resolution("10.96.0.11", 50051, None)
    six_80, six_81 = ServicePort("default", "six", 80), ServicePort("default", "six", 81)
    assert driven.resolve("fd00:0:0::A", 80) == Resolution("fd00:0:0::A", 80, six_80, True)
    assert driven.resolve("fd00::a", 81) == Resolution("fd00::a", 81, six_81, False)
    assert driven.resolve("None", 50051) == Resolution("None", 50051, None)


def test_resolving_before_any_good_file_is_a_failure_not_a_no(driven: Driven) -> None:
    assert driven.resolve("10.96.0.10", 50051) == Resolution("10.96.0.10", 50051, None, failed=True)


def test_nothing_follows_close(driven: Driven) -> None:
    driven.path.write_text(one("10.0.0.1"))
    driven.watch()
    driven.source.close(driven.now)
    driven.path.write_text(one("10.0.0.2"))
    assert driven.source.deadline() == float("inf")
    driven.source.tick(1e9)
    assert list(driven.source.events()) == []


def test_status_ages_only_while_the_file_is_not_what_is_in_force(driven: Driven) -> None:
    logging.disable(logging.NOTSET)
    driven.path.write_text(one("10.0.0.1"))
    driven.watch()
    driven.poll(10)
    assert driven.source.status(driven.now + 0.01)["age_seconds"] == pytest.approx(0.01)
    driven.path.write_text("{")
    driven.poll(21)
    assert driven.source.status(driven.now)["age_seconds"] == pytest.approx(1.05, abs=0.06)
    assert json.dumps(driven.source.status(driven.now))
