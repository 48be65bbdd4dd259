"""Random histories of an API server and its faults: what the source says converges to what is so."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakeapi import World
from hyperframe.frame import SettingsFrame
from hypothesis import given, settings
from hypothesis import strategies as st
from objects import endpoint, endpoint_slice, service
from slice_oracle import may_be_given_streams

from sidecar.balance.endpoints import ServicePort, Snapshot
from sidecar.discovery import backoff, slices
from sidecar.discovery.watch import Reflector

GREETER = ServicePort("default", "greeter", 50051)
SEEDS = int(os.environ.get("EVENSTREAM_DISCOVERY_SEEDS", "150"))
# The longest wait, then time for a backoff to follow from a fault that only shows on the way back.
HEALED = 2 * backoff.MAX_SECONDS + 15


class History:
    """One seed's world and what is done to it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.world = World(folder / "token", seed=seed, piece=self.rng.choice([0, 0, 3, 50]))
        self.world.server.put(service())
        self.acts: list[Callable[[], None]] = [self.write, self.write, self.write, self.remove, self.move]
        self.acts += [self.service, self.drop, self.goaway, self.end_watches, self.bookmark, self.compact]
        self.acts += [self.outage, self.black_hole, self.refuse, self.rotate, self.wait, self.wait]

    def run(self, steps: int) -> None:
        self.world.watch(GREETER)
        for _ in range(steps):
            self.rng.choice(self.acts)()
            if self.rng.random() < 0.6:
                self.world.settle()
            if self.rng.random() < 0.5:
                self.world.advance(self.rng.choice([0.01, 0.3, 2, 20, 200]))
        server = self.world.server
        server.up, server.black_hole = True, False
        server.faults.clear()
        self.world.advance(HEALED)

    def slice(self, name: str) -> dict[str, Any]:
        members = self.rng.sample(range(1, 8), self.rng.randint(0, 4))
        return endpoint_slice(name, [endpoint(f"10.0.0.{n}", **self.conditions()) for n in members])

    def conditions(self) -> dict[str, bool | None]:
        """Mostly as the controller writes them; now and then anything the API allows."""
        if self.rng.random() < 0.7:
            state = self.rng.choice([(True, True, False), (False, False, False), (False, True, True)])
        else:
            state = self.rng.choice(list(itertools.product([True, False, None], repeat=3)))
        return dict(zip(("ready", "serving", "terminating"), state, strict=True))

    def write(self) -> None:
        self.world.server.put(self.slice(f"greeter-{self.rng.randint(0, 3)}"))

    def remove(self) -> None:
        names = [key for key in self.world.server.objects if key[0] == "EndpointSlice"]
        if names:
            self.world.server.delete(self.world.server.objects[self.rng.choice(names)])

    def move(self) -> None:
        """Everything of one slice into another, in two writes, as the controller does."""
        slices = [o for k, o in self.world.server.objects.items() if k[0] == "EndpointSlice"]
        if slices:
            old = self.rng.choice(slices)
            self.world.server.put(endpoint_slice("greeter-9", list(old["endpoints"])))
            self.world.server.put(endpoint_slice(old["metadata"]["name"], []))

    def service(self) -> None:
        known = self.world.server.objects.get(("Service", "default", "greeter"))
        if known and self.rng.random() < 0.3:
            self.world.server.delete(known)
        else:
            name = self.rng.choice(["grpc", "grpc", "renamed"])
            self.world.server.put(service(ports=[{"name": name, "port": 50051}]))

    def drop(self) -> None:
        for connection in list(self.world.server.connections):
            connection.drop()

    def goaway(self) -> None:
        for connection in self.world.server.connections:
            connection.goaway(self.rng.choice([0, 0, 2]))

    def end_watches(self) -> None:
        self.world.server.end_watches()

    def bookmark(self) -> None:
        self.world.server.version += self.rng.randint(0, 5)
        self.world.server.bookmark()

    def compact(self) -> None:
        self.world.server.version += 1
        self.world.server.compact()
        self.world.server.end_watches()

    def outage(self) -> None:
        self.world.server.stop()
        self.world.advance(self.rng.choice([0.1, 5, 100]))
        self.world.server.up = True

    def black_hole(self) -> None:
        self.world.server.black_hole = True
        self.world.advance(self.rng.choice([1, 50]))
        self.world.server.black_hole = False

    def refuse(self) -> None:
        status = self.rng.choice([403, 410, 429, 500, 503, 504, 200])
        self.world.server.fail("", status, self.rng.choice([b"", b"{"]), times=self.rng.randint(1, 4))

    def rotate(self) -> None:
        token = f"token-{self.rng.random()}"
        self.world.server.tokens = {token}
        self.world.token.write_text(token)

    def wait(self) -> None:
        self.world.advance(self.rng.choice([1, 61, 200]))

    def truth(self) -> tuple[bool, list[str]]:
        """What stands in the API server."""
        objects = self.world.server.objects
        owner = objects.get(("Service", "default", "greeter"))
        if owner is None:
            return False, []
        slices = [one for key, one in objects.items() if key[0] == "EndpointSlice"]
        found = may_be_given_streams(slices, owner["spec"]["ports"][0]["name"])
        return True, sorted(host for host, _ in found)

    def belief(self) -> tuple[bool, list[str]]:
        last = [e for e in self.world.events if isinstance(e, Snapshot)][-1]
        return last.exists, [e.host for e in last.endpoints]

    def check(self) -> None:
        assert self.belief() == self.truth()
        told = [e[1:2] + e[4:] for e in self.world.events]
        assert all(a != b for a, b in itertools.pairwise(told)), "told twice"
        assert len(self.world.server.watches) == 2
        assert len([c for c in self.world.server.connections if c.open]) == 1
        assert self.world.state() == "live"
        left_open = [t for t in self.world.transports if not (t.closed or t.gone)]
        assert len([t for t in left_open if t.connection is None or t.connection.open]) == 1


def test_it_converges_whatever_happens(tmp_path: Path) -> None:
    first = random.SystemRandom().randrange(10**6)
    for seed in range(first, first + SEEDS):
        history = History(tmp_path, seed)
        try:
            history.run(30)
            history.check()
        except BaseException:
            print(f"seed {seed}")
            raise


PLANTED: dict[str, Callable[[pytest.MonkeyPatch], None]] = {}


def planted(act: Callable[[pytest.MonkeyPatch], None]) -> None:
    PLANTED[act.__name__] = act


@planted
def deletions_are_overlooked(patch: pytest.MonkeyPatch) -> None:
    original = Reflector._apply
    patch.setattr(
        Reflector, "_apply", lambda self, kind, item: kind == "DELETED" or original(self, kind, item)
    )


@planted
def a_list_adds_and_never_removes(patch: pytest.MonkeyPatch) -> None:
    original = Reflector._list_complete

    def keep(self: Any, now: float) -> None:
        before = dict(self.objects)
        original(self, now)
        self.objects = before | self.objects

    patch.setattr(Reflector, "_list_complete", keep)


@planted
def gone_goes_on_from_the_old_version(patch: pytest.MonkeyPatch) -> None:
    def stay(self: Any, now: float) -> None:
        self.state, self._not_before = "watch wanted", now + 1

    patch.setattr(Reflector, "_gone", stay)


@planted
def a_lost_connection_skips_to_the_newest_version(patch: pytest.MonkeyPatch) -> None:
    original = Reflector._watch_path

    def skip(self: Any) -> str:
        return original(self).replace(f"resourceVersion={self.version}", "resourceVersion=9999999")

    patch.setattr(Reflector, "_watch_path", skip)


@planted
def terminating_endpoints_are_never_used(patch: pytest.MonkeyPatch) -> None:
    original = slices._slice_endpoint

    def only_ready(*arguments: Any) -> Any:
        found = original(*arguments)
        return found if found is None or found.rank == 0 else None

    patch.setattr(slices, "_slice_endpoint", only_ready)


@planted
def terminating_endpoints_are_used_beside_ready_ones(patch: pytest.MonkeyPatch) -> None:
    original = slices._slice_endpoint

    def all_alike(*arguments: Any) -> Any:
        found = original(*arguments)
        return found if found is None else found._replace(rank=0)

    patch.setattr(slices, "_slice_endpoint", all_alike)


@pytest.mark.parametrize("bug", PLANTED)
def test_planted_bugs_are_found(bug: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    PLANTED[bug](monkeypatch)
    for seed in range(200):
        history = History(tmp_path, seed)
        try:
            history.run(30)
            history.check()
        except (AssertionError, IndexError):
            print(f"found by seed {seed}")
            return
    pytest.fail(f"{bug}: not found in 200 histories")


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 255), st.integers(0, 5), st.binary(max_size=60)))
)
@settings(max_examples=400, deadline=None)
def test_no_bytes_from_the_server_raise(frames: list[tuple[int, int, int, bytes]]) -> None:
    data = b"".join(
        len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
        for kind, flags, stream, payload in frames
    )
    folder = Path(os.environ.get("TMPDIR", "/tmp"))
    world = World(folder / f"evenstream-token-{os.getpid()}")
    try:
        world.watch(GREETER)
        (connection,) = world.server.connections
        connection.handler.received(SettingsFrame(0).serialize() + data, world.now)
        world.settle()
        world.advance(1)
    finally:
        world.token.unlink()
