"""An error of ours at any moment of a play of the engine target: what is counted anew is what was counted, and a
connection that ends for it leaves nothing behind and all others alone."""

from __future__ import annotations

import random
from typing import Any

from fuzzengine import Play, check_bounds, ends
from test_fuzz_slice import corpus, made
from transcript import World

EVERY: int = 7  # operations between two looks: a look costs a walk over all streams


def counts(world: World) -> list[object]:
    engine = world.engine
    found: list[object] = [engine.kept(), engine.held(), engine.open_streams()]
    for peer in [*engine.downstreams, *(each.peer for each in world.connections())]:
        figures = (peer.held_for, peer.held_back, peer.lent_for, peer.blocks_from, peer.replay_from)
        found.append((*map(int, figures), sorted(peer.streams)))
    for service in engine.services.values():
        found.append((int(service.downstreams), service.queued()))
        found += [int(backend.open_streams) for backend in [*service.backends.values(), *service.retiring]]
    return found


class Watched(Play):
    """Does something to the engine every so many operations."""

    def run_with(self, look: Any) -> None:
        self.world.bugs_expected = True
        at = 0
        while self.given.left:
            self.operations[self.given.choose(len(self.operations))]()
            at += 1
            if at % EVERY == 0:
                look(self.world)
            check_bounds(self.world)
        ends(self.world)


def counted_anew(world: World) -> None:
    before = counts(world)
    world.engine.recover(RuntimeError(), None, world.now)
    assert counts(world) == before


def test_counting_anew_changes_nothing_where_nothing_is_wrong() -> None:
    for octets in [*corpus("engine"), *made("engine")]:
        Watched(octets).run_with(counted_anew)


def test_a_connection_that_ends_for_it_leaves_nothing_behind() -> None:
    rng = random.Random("errors anywhere")

    def one_fails(world: World) -> None:
        parties = [each for each in world.parties.values() if not each.closed and not each.left]
        if not parties:
            return
        failing = rng.choice(parties)
        world.engine.failed("test", RuntimeError(), failing.peer, world.now)
        world.settle()
        assert failing.closed
        for each in parties:
            if each.closed and each is not failing:
                # It was only waiting for its last stream, and that was on the other connection.
                assert not each.peer.error_code, each.peer.error_message
                assert not each.peer.gone or not each.connected

    for octets in [*corpus("engine"), *made("engine")]:
        Watched(octets).run_with(one_fails)
