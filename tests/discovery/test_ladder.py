"""The ladder, rung by rung, down and up again, in virtual time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ladderworld import LadderWorld
from objects import endpoint, endpoint_slice, service

from sidecar.balance.endpoints import ServicePort, Snapshot
from sidecar.discovery import ladder, resolve
from sidecar.discovery.saved import FILE_NAME
from sidecar.discovery.source import DISK, DNS, LIVE, MEMORY, NONE, ORIGINAL, Resolution

GREETER = ServicePort("default", "greeter", 50051)
ORDERS = ServicePort("default", "orders", 50051)
CLUSTER_IP = "10.96.0.10"
NAME = "greeter.default.svc.cluster.local"
FALLBACK = ladder.FALLBACK_SECONDS + 0.05
BACK = 35.0  # the promise: in touch again so long after the API server is


@pytest.fixture(params=[0, 7], ids=["whole", "by 7"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> LadderWorld:
    made = LadderWorld(tmp_path, piece=request.param)
    made.server.put(service(ip=CLUSTER_IP))
    made.server.put(endpoint_slice("greeter-a", [endpoint("10.0.0.1"), endpoint("10.0.0.2")]))
    return made


def snapshots(events: list[Any], wanted: ServicePort = GREETER) -> list[tuple[str, list[str]]]:
    found = [e for e in events if isinstance(e, Snapshot) and e.service == wanted]
    return [(e.source, [each.address for each in e.endpoints]) for e in found]


LIVE_ENDPOINTS = ("kubernetes", ["10.0.0.1:50051", "10.0.0.2:50051"])
DISK_ENDPOINTS = ("disk", ["10.0.0.1:50051", "10.0.0.2:50051"])


# --- live and memory ---


def test_while_the_api_server_answers_nothing_else_is_asked(world: LadderWorld) -> None:
    world.dns["10.96.0.53"].records[NAME] = ["10.0.0.7"]
    assert snapshots(world.watch(GREETER)) == [LIVE_ENDPOINTS]
    assert snapshots(world.advance(600)) == []
    assert world.rung(GREETER) == LIVE
    assert world.dns_dials == []
    assert world.source.synced()


def test_what_the_api_server_said_stays_in_force_and_its_age_shows(world: LadderWorld) -> None:
    world.watch(GREETER)
    world.advance(30)
    world.server.stop()
    assert snapshots(world.advance(600)) == []
    rung, age = world.standing(GREETER)
    assert rung == MEMORY
    assert age is not None
    assert 600 <= age <= 641  # a live watch is heard of every 40 s at least
    world.server.put(endpoint_slice("greeter-a", [endpoint("10.0.0.3")]))
    world.server.up = True
    assert snapshots(world.advance(BACK)) == [("kubernetes", ["10.0.0.3:50051"])]
    rung, age = world.standing(GREETER)
    assert rung == LIVE
    assert age is not None
    assert age < BACK


def test_empty_is_honoured_on_every_rung_that_knows_it(world: LadderWorld) -> None:
    world.watch(GREETER)
    world.server.put(endpoint_slice("greeter-a", []))
    assert snapshots(world.settle()) == [("kubernetes", [])]
    world.server.stop()
    assert snapshots(world.advance(600)) == []
    assert world.rung(GREETER) == MEMORY


# --- disk ---


def known_then_away(world: LadderWorld, *, killed: bool = False, seconds: float = 5.0) -> None:
    """A first process learns of the greeter; the API server goes, and then the process."""
    world.watch(GREETER)
    assert world.resolves(CLUSTER_IP, 50051).service == GREETER
    world.advance(seconds)
    world.server.stop()
    world.advance(100)
    world.restart(killed=killed)


@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
def test_a_restart_without_an_api_server_finds_what_was_known(world: LadderWorld, killed: bool) -> None:
    known_then_away(world, killed=killed)
    assert world.watch(GREETER) == []
    assert not world.source.synced()
    assert snapshots(world.advance(FALLBACK)) == [DISK_ENDPOINTS]
    assert world.source.synced()
    rung, age = world.standing(GREETER)
    assert rung == DISK
    assert age is not None
    assert 100 <= age <= 100 + ladder.REFRESH_SECONDS + FALLBACK
    assert world.resolves(CLUSTER_IP, 50051) == Resolution(CLUSTER_IP, 50051, GREETER, True)


def test_a_kill_moments_after_a_service_was_learned_loses_nothing(world: LadderWorld) -> None:
    soon = 0.15
    world.watch(GREETER)
    world.advance(soon)
    world.server.stop()
    world.restart(killed=True)
    world.watch(GREETER)
    assert snapshots(world.advance(FALLBACK)) == [DISK_ENDPOINTS]


def test_a_second_restart_still_finds_it(world: LadderWorld) -> None:
    known_then_away(world)
    world.watch(GREETER)
    world.advance(300)
    world.restart(killed=True)
    world.watch(GREETER)
    assert snapshots(world.advance(FALLBACK)) == [DISK_ENDPOINTS]
    age = world.standing(GREETER).age
    assert age is not None
    assert age > 400


def test_the_api_servers_word_replaces_what_was_on_disk(world: LadderWorld) -> None:
    known_then_away(world)
    world.watch(GREETER)
    world.advance(FALLBACK)
    world.server.put(endpoint_slice("greeter-a", [endpoint("10.0.0.9")]))
    world.server.up = True
    assert snapshots(world.advance(BACK)) == [("kubernetes", ["10.0.0.9:50051"])]
    assert world.rung(GREETER) == LIVE


def test_an_api_server_that_answers_in_time_leaves_the_disk_alone(world: LadderWorld) -> None:
    world.watch(GREETER)
    world.advance(5)
    world.restart()
    world.server.put(endpoint_slice("greeter-a", [endpoint("10.0.0.9")]))
    assert snapshots(world.watch(GREETER) + world.advance(10)) == [("kubernetes", ["10.0.0.9:50051"])]


def test_what_is_on_disk_for_too_long_is_not_used(world: LadderWorld) -> None:
    known_then_away(world)
    world.now += ladder.TRUSTED_SECONDS
    world.watch(GREETER)
    assert snapshots(world.advance(FALLBACK)) == [("original", [f"{CLUSTER_IP}:50051"])]


@pytest.mark.parametrize("jump", [-86400.0, 600.0])
def test_a_wall_clock_that_jumped_makes_the_age_wrong_and_nothing_else(
    world: LadderWorld, jump: float
) -> None:
    known_then_away(world)
    world.wall_ahead += jump
    world.watch(GREETER)
    assert snapshots(world.advance(FALLBACK)) == [DISK_ENDPOINTS]
    age = world.standing(GREETER).age
    assert age is not None
    assert age >= 0


def test_a_wall_clock_that_jumps_is_nothing_to_a_live_watch(world: LadderWorld) -> None:
    world.watch(GREETER)
    for jump in (86400.0, -200000.0):
        world.wall_ahead += jump
        assert snapshots(world.advance(100)) == []
        rung, age = world.standing(GREETER)
        assert rung == LIVE
        assert age is not None
        assert age < 60
    assert world.counter("reconnects") == 0


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"format":2}', b"\xff" * 100, b"[" * 100_000], ids=repr
)
def test_a_file_that_is_not_ours_is_passed_over_and_replaced(world: LadderWorld, content: bytes) -> None:
    (world.folder / FILE_NAME).write_bytes(content)
    world.restart()
    assert snapshots(world.watch(GREETER)) == [LIVE_ENDPOINTS]
    assert "nothing is taken from it" in world.last_error()
    world.advance(ladder.SAVE_SECONDS + 0.1)
    assert json.loads((world.folder / FILE_NAME).read_bytes())["format"] == 1
    assert world.last_error() == ""


def test_a_directory_that_cannot_be_written_is_told_and_nothing_else_suffers(world: LadderWorld) -> None:
    (world.folder / f"{FILE_NAME}.new").mkdir()
    assert snapshots(world.watch(GREETER)) == [LIVE_ENDPOINTS]
    world.advance(5)
    assert "is not kept for a restart" in world.last_error()
    (world.folder / f"{FILE_NAME}.new").rmdir()
    world.advance(ladder.REFRESH_SECONDS)
    assert world.last_error() == ""
    assert world.counter("saves") == 1


def test_writes_are_few(world: LadderWorld) -> None:
    world.watch(GREETER)
    for number in range(100):
        world.server.put(endpoint_slice("greeter-a", [endpoint(f"10.0.0.{number + 1}")]))
        world.advance(0.05)
    assert 3 <= world.counter("saves") <= 7  # one a second at most
    before = world.counter("saves")
    world.advance(600)
    assert world.counter("saves") - before <= 600 / ladder.REFRESH_SECONDS + 1


def test_without_a_state_volume_it_goes_on_without(tmp_path: Path) -> None:
    world = LadderWorld(tmp_path, state=False)
    world.server.put(service(ip=CLUSTER_IP))
    world.server.put(endpoint_slice("greeter-a", [endpoint("10.0.0.1")]))
    world.watch(GREETER)
    world.advance(100)
    assert not (tmp_path / FILE_NAME).exists()
    assert world.counter("saves") == 0
    assert world.rung(GREETER) == LIVE


def test_a_service_that_is_gone_is_not_kept(world: LadderWorld) -> None:
    world.watch(GREETER)
    world.advance(5)
    world.server.delete(service(ip=CLUSTER_IP))
    world.advance(5)
    assert json.loads((world.folder / FILE_NAME).read_bytes())["ports"] == []


def test_an_address_that_has_no_service_any_more_is_not_kept(world: LadderWorld) -> None:
    assert world.resolves(CLUSTER_IP, 50051).service == GREETER
    world.server.delete(service(ip=CLUSTER_IP))
    world.advance(resolve.FOUND_SECONDS)
    assert world.resolves(CLUSTER_IP, 50051) == Resolution(CLUSTER_IP, 50051, None)
    world.server.stop()
    world.restart()
    assert world.resolves(CLUSTER_IP, 50051, within=3).failed


# --- the original destination ---


def test_a_captured_service_without_endpoints_goes_where_the_application_wanted(world: LadderWorld) -> None:
    world.server.forbidden.append("/apis/discovery.k8s.io")
    assert world.resolves(CLUSTER_IP, 50051).service == GREETER
    assert world.watch(GREETER) == []
    assert snapshots(world.advance(FALLBACK)) == [("original", [f"{CLUSTER_IP}:50051"])]
    assert world.standing(GREETER) == (ORIGINAL, None)
    assert world.source.synced()
    assert world.dns_dials == []
    world.server.forbidden.clear()
    assert snapshots(world.advance(BACK)) == [LIVE_ENDPOINTS]


def test_an_address_learnt_after_the_fall_is_used(world: LadderWorld) -> None:
    """The Service is named in `services` and watched from the start; the application calls it later."""
    world.server.forbidden.append("/apis/discovery.k8s.io")
    world.watch(GREETER)
    world.advance(60)
    assert world.rung(GREETER) == NONE
    events = world.resolve(CLUSTER_IP, 50051) + world.advance(0.1)
    assert snapshots(events) == [("original", [f"{CLUSTER_IP}:50051"])]


def test_an_address_never_learnt_stays_unknown(world: LadderWorld) -> None:
    """The caller then leaves the connection as it is: to where it was going."""
    world.server.stop()
    assert world.resolves(CLUSTER_IP, 50051, within=3) == Resolution(CLUSTER_IP, 50051, None, failed=True)


def test_a_late_answer_does_not_come_twice(world: LadderWorld) -> None:
    known_then_away(world)
    world.server.up = True
    held: list[tuple[Any, int]] = []
    world.server.misbehave("spec.clusterIP", lambda c, s: held.append((c, s)))
    assert world.resolves(CLUSTER_IP, 50051) == Resolution(CLUSTER_IP, 50051, GREETER, True)
    ((connection, stream),) = held
    connection.respond(stream, 200, b'{"items":[]}')
    connection.flush()
    assert world.advance(3) == []
    # What it said is known from now on.
    assert world.resolves(CLUSTER_IP, 50051) == Resolution(CLUSTER_IP, 50051, None)


def test_each_of_many_questions_gets_one_answer(world: LadderWorld) -> None:
    known_then_away(world)
    events: list[Any] = []
    for _ in range(5):
        events += world.resolve(CLUSTER_IP, 50051) + world.advance(0.2)
    events += world.advance(3)
    assert events == [Resolution(CLUSTER_IP, 50051, GREETER, True)] * 5


# --- when what was known is of no use any more ---


def test_endpoints_that_are_all_gone_while_out_of_touch_give_way_to_the_address_itself(
    world: LadderWorld,
) -> None:
    world.watch(GREETER)
    world.resolves(CLUSTER_IP, 50051)
    world.server.stop()
    world.advance(60)
    world.source.failing(GREETER, world.now)
    assert snapshots(world.advance(0.1)) == [("original", [f"{CLUSTER_IP}:50051"])]
    world.source.failing(GREETER, world.now)
    assert snapshots(world.advance(60)) == []
    # Its word counts again as soon as it is in touch, though it says nothing new.
    world.server.up = True
    assert snapshots(world.advance(BACK)) == [LIVE_ENDPOINTS]
    assert world.rung(GREETER) == LIVE


def test_endpoints_from_disk_that_are_all_gone_give_way_too(world: LadderWorld) -> None:
    known_then_away(world)
    world.watch(GREETER)
    world.advance(60)
    world.source.failing(GREETER, world.now)
    assert snapshots(world.advance(0.1)) == [("original", [f"{CLUSTER_IP}:50051"])]


def test_a_live_source_is_believed_whatever_fails(world: LadderWorld) -> None:
    world.watch(GREETER)
    world.resolves(CLUSTER_IP, 50051)
    world.advance(60)
    world.source.failing(GREETER, world.now)
    assert snapshots(world.advance(60)) == []
    world.server.end_watches()  # for a moment there is none
    world.source.failing(GREETER, world.now)
    assert snapshots(world.advance(60)) == []
    assert world.rung(GREETER) == LIVE


# --- DNS ---


def test_a_service_nobody_captured_is_looked_up_by_name(world: LadderWorld) -> None:
    world.server.stop()
    world.dns["10.96.0.53"].records[NAME] = ["10.0.0.8", "10.0.0.7"]
    world.watch(GREETER)
    assert snapshots(world.advance(FALLBACK)) == [("dns", ["10.0.0.7:50051", "10.0.0.8:50051"])]
    assert world.rung(GREETER) == DNS
    assert world.source.synced()
    assert world.dns["10.96.0.53"].asked == [(NAME, "A"), (NAME, "AAAA")]
    # On a timer, and only what changes is told.
    assert snapshots(world.advance(4 * ladder.DNS_SECONDS)) == []
    assert len(world.dns["10.96.0.53"].asked) == 2 * 5
    world.dns["10.96.0.53"].records[NAME] = ["10.0.0.8"]
    assert snapshots(world.advance(ladder.DNS_SECONDS)) == [("dns", ["10.0.0.8:50051"])]
    world.server.up = True
    assert snapshots(world.advance(BACK)) == [LIVE_ENDPOINTS]
    before = len(world.dns["10.96.0.53"].asked)
    world.advance(60)
    assert len(world.dns["10.96.0.53"].asked) == before
    assert all(transport.closed for transport in world.dns_transports)


def test_dns_that_fails_later_leaves_its_last_word_in_force(world: LadderWorld) -> None:
    world.server.stop()
    world.dns["10.96.0.53"].records[NAME] = ["10.0.0.7"]
    world.watch(GREETER)
    world.advance(FALLBACK)
    for server in world.dns.values():
        server.up = False
    assert snapshots(world.advance(60)) == []
    rung, age = world.standing(GREETER)
    assert rung == DNS
    assert age is not None
    assert age >= 60


def test_many_services_are_looked_up_together(world: LadderWorld) -> None:
    world.server.stop()
    world.dns["10.96.0.53"].records[NAME] = ["10.0.0.7"]
    world.dns["10.96.0.53"].records["orders.default.svc.cluster.local"] = ["fd00::1"]
    events = world.watch(GREETER) + world.watch(ORDERS) + world.advance(FALLBACK)
    assert snapshots(events) == [("dns", ["10.0.0.7:50051"])]
    assert snapshots(events, ORDERS) == [("dns", ["[fd00::1]:50051"])]
    assert world.dns_dials == ["10.96.0.53"]


def test_memory_of_no_use_gives_way_to_dns_where_nothing_was_captured(world: LadderWorld) -> None:
    world.watch(GREETER)
    world.server.stop()
    world.advance(60)
    world.dns["10.96.0.53"].records[NAME] = ["10.0.0.7"]
    world.source.failing(GREETER, world.now)
    assert snapshots(world.advance(1)) == [("dns", ["10.0.0.7:50051"])]
    world.server.up = True
    assert snapshots(world.advance(BACK)) == [LIVE_ENDPOINTS]


# --- the whole ---


def test_status_names_the_rung_and_counts_the_falls(world: LadderWorld) -> None:
    known_then_away(world)
    world.watch(GREETER)
    world.advance(FALLBACK)
    status = world.source.status(world.now)
    json.dumps(status)
    greeter = status["services"]["greeter.default:50051"]
    assert greeter["rung"] == "disk"
    assert greeter["rung_age_seconds"] >= 100
    assert status["counters"]["disk_snapshots"] == 1
    assert status["counters"]["dns_snapshots"] == status["counters"]["original_snapshots"] == 0


def test_nothing_follows_close(world: LadderWorld) -> None:
    world.server.stop()
    world.watch(GREETER)
    world.resolve(CLUSTER_IP, 50051)
    world.source.close(world.now)
    assert world.advance(100) == []
    assert world.source.deadline() == float("inf")


def test_unwatch_ends_it_on_every_rung(world: LadderWorld) -> None:
    world.server.stop()
    world.dns["10.96.0.53"].records[NAME] = ["10.0.0.7"]
    world.watch(GREETER)
    world.advance(FALLBACK)
    world.source.unwatch(GREETER, world.now)
    asked = len(world.dns["10.96.0.53"].asked)
    assert world.advance(60) == []
    assert len(world.dns["10.96.0.53"].asked) == asked
    assert world.standing(GREETER) == (NONE, None)


def test_an_unwatched_answer_on_its_way_is_dropped(world: LadderWorld) -> None:
    world.source.watch(GREETER, world.now)
    world.source.unwatch(GREETER, world.now)
    assert world.advance(5) == []


def test_the_state_file_is_readable_by_us_alone(world: LadderWorld) -> None:
    world.watch(GREETER)
    world.advance(5)
    assert (world.folder / FILE_NAME).stat().st_mode & 0o777 == 0o600
