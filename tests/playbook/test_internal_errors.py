"""Bugs of ours: an exception ends the connection that was being handled, whatever state it left, and nothing else.

They are planted as state that cannot be: a list of octets with something else in it, say. Both builds raise over it.
"""

from __future__ import annotations

from typing import Any, cast

import pytest
from rawhttp2 import OK, POST, TRAILERS, Data, Goaway, Reset, data, headers, settings, window
from transcript import REFUSE, SILENCE, Client, World, ready

from sidecar.splice import internal
from sidecar.splice.internal import InternalErrors
from sidecar.splice.stream import Half
from sidecar.wire.connection import CONNECTION_WINDOW

INTERNAL_ERROR = 2
CANCEL = 8


def scene(*hosts: int) -> World:
    world = ready(*hosts)
    world.bugs_expected = True
    return world


def spoil(half: Half) -> None:
    """What is held is joined with what comes, and this cannot be."""
    half.held = cast(Any, [None])


def noted(world: World, **counts: int) -> None:
    """So many errors were noted, by what was being done, and each told with its traceback."""
    errors = world.engine.errors
    assert errors.counts == counts, errors.last
    assert len(world.bugs) == sum(counts.values())
    for told in world.bugs:
        assert "Traceback" in told
        assert "TypeError" in told or "AttributeError" in told or "IllegalTransitionError" in told, told


def others_go_on(world: World, bystander: Client) -> None:
    stream = bystander.calls()
    assert not bystander.closed
    (backend,) = [each for each in world.connections() if each.streams_open() and not each.closed]
    backend.answers(backend.streams_open()[0])
    assert bystander.outcome(stream) == ("0", "")


def all_leave(world: World) -> None:
    for party in list(world.parties.values()):
        party.leaves()
    world.nothing_is_left()


def test_while_a_clients_octets_are_taken() -> None:
    world = scene(1)
    bystander, client = world.client(), world.client()
    first, second = client.opens(), client.calls()
    backend = world.backend(1)
    backend.take()
    spoil(client.peer.streams.find(first).request)
    client.sends(data(first, b"more"))
    client.is_told(INTERNAL_ERROR, last=second)
    assert {e.stream for e in backend.take() if isinstance(e, Reset) and e.code == CANCEL} == {1, 3}
    assert not backend.closed
    noted(world, receive=1)
    world.nothing_is_left()
    others_go_on(world, bystander)
    all_leave(world)


def test_while_a_backends_octets_are_taken() -> None:
    """Its streams end at once, each with one clear status; the next calls have a new connection."""
    world = scene(1)
    client = world.client()
    answered, waiting = client.opens(), client.opens()
    backend = world.backend(1)
    backend.sends(headers(1, OK))
    client.take()
    spoil(client.peer.streams.find(answered).response)
    backend.sends(data(1, b"more"))
    backend.is_told(INTERNAL_ERROR)
    noted(world, receive=1)
    status, message = client.outcome(waiting)
    assert status == "14"
    assert "internal error" in message
    assert [e for e in client.take() if e.stream == answered] == [Reset(answered, INTERNAL_ERROR)]
    assert not client.closed
    world.nothing_is_left()
    world.advance(1.0)
    others_go_on(world, client)
    all_leave(world)


def test_an_answer_that_has_begun_ends_with_its_status() -> None:
    world = scene(1)
    client = world.client()
    spoilt, begun = client.opens(), client.opens()
    backend = world.backend(1)
    backend.sends(headers(1, OK), headers(3, OK), data(3, b"begun"))
    spoil(client.peer.streams.find(spoilt).response)
    backend.sends(data(1, b"more"))
    assert Data(begun, b"begun", False) in client.inbox
    assert client.outcome(begun)[0] == "14"
    all_leave(world)


def test_while_a_client_is_written_to() -> None:
    """What waited for its socket cannot be written: that client's connection ends."""
    world = scene(1)
    bystander, client = world.client(), world.client()
    client.sends(window(0, 1 << 24), settings({4: 1 << 20}))
    stream = client.opens()
    backend = world.backend(1)
    client.stops_reading()
    backend.sends(headers(1, OK), *[data(1, bytes(16384)) for _ in range(3)])
    half = client.peer.streams.find(stream).response
    world.engine.socket_state(client.peer, 1 << 20, world.now)  # the socket takes no more
    backend.sends(data(1, bytes(16383)))
    assert half.held
    half.held = cast(Any, [None])
    world.engine.socket_state(client.peer, 0, world.now)
    world.settle()
    assert client.closed
    noted(world, write=1)
    world.nothing_is_left()
    others_go_on(world, bystander)
    all_leave(world)


def test_in_a_timer_of_a_stream() -> None:
    """The stream whose time was over is reset; those behind it are answered."""
    world = scene()
    client = world.client()
    first, second = client.opens(end=True), client.opens(end=True)
    client.peer.streams.find(first).response.state = 3  # reset, so that it cannot end
    world.advance(3.0)
    noted(world, timer=1)
    assert Reset(first, INTERNAL_ERROR) in client.inbox
    assert client.outcome(second)[0] == "14"
    assert not client.closed
    all_leave(world)


def test_in_the_timer_of_a_dial_and_then_in_every_clean_up() -> None:
    """What cannot be set right either is left alone: no loop, and the rest goes on."""
    world = scene(1, 2)
    client = world.client()
    world.manners["10.0.0.3"] = SILENCE
    world.endpoints(1, 2, 3)
    service = next(iter(world.engine.services.values()))
    broken = service.backends["10.0.0.3", 50051]
    broken.upstreams.append(cast(Any, None))
    world.advance(60.0)
    assert 1 <= sum(world.engine.errors.counts.values()) <= 60
    assert not client.closed
    for _ in range(4):
        stream = client.calls()
        found = [each for each in world.connections() if each.streams_open()]
        if found:
            found[0].answers(found[0].streams_open()[0])
            assert client.outcome(stream)[0] == "0"
    broken.upstreams.remove(cast(Any, None))
    all_leave(world)


def test_in_a_timer_that_a_backend_needs() -> None:
    """Without it the endpoint would be out of rotation for good: it comes again."""
    world = scene(1)
    world.manners["10.0.0.1"] = REFUSE
    client = world.client()
    service = next(iter(world.engine.services.values()))
    backend = service.backends["10.0.0.1", 50051]
    backend.upstreams.append(cast(Any, None))  # so that no dial can be made
    world.advance(1.0)
    assert world.engine.errors.counts["timer"] == 1
    backend.upstreams.remove(cast(Any, None))
    world.manners.clear()
    world.advance(10.0)
    others_go_on(world, client)
    all_leave(world)


def test_while_a_client_is_accepted() -> None:
    world = scene(1)
    bystander = world.client()
    service = next(iter(world.engine.services.values()))
    service.backends["x", 1] = cast(Any, None)
    refused = world.raw_client()
    refused.is_told(INTERNAL_ERROR)
    noted(world, accept=1, recovery=1)  # it stands in the way of counting anew too
    del service.backends["x", 1]
    assert service.downstreams == 1
    others_go_on(world, bystander)
    others_go_on(world, world.client())
    all_leave(world)


def test_while_a_snapshot_is_taken_in() -> None:
    """Calls go on with what is known, and the snapshot is taken in a little later."""
    world = scene(1)
    client = world.client()
    service = next(iter(world.engine.services.values()))
    service.waiting[cast(Any, None)] = None
    world.endpoints(1, 2)
    service.waiting.pop(cast(Any, None), None)
    assert world.engine.errors.counts["snapshot"] == 1
    world.advance(6.0)
    assert world.engine.errors.counts["snapshot"] == 1
    assert {backend.state() for backend in service.backends.values()} == {"ready"}
    others_go_on(world, client)
    all_leave(world)


def test_a_stream_that_cannot_be_sent_ends_alone() -> None:
    """It need not be of the connection that is being handled: here a backend's SETTINGS let it go."""
    world = scene()
    client = world.client()
    spoilt, other = client.calls(), client.calls()
    client.peer.streams.find(spoilt).block = None
    world.endpoints(1)
    assert Reset(spoilt, INTERNAL_ERROR) in client.inbox
    assert not client.closed
    world.advance(1.0)
    backend = world.backend(1)
    backend.answers(*backend.streams_open())
    assert client.outcome(other)[0] == "0"
    others_go_on(world, client)
    all_leave(world)


def test_without_memory_nothing_more_is_said() -> None:
    world = scene(1)
    bystander, client = world.client(), world.client()
    client.calls()
    world.engine.failed("receive", MemoryError(), client.peer, world.now)
    world.settle()
    assert client.closed
    assert not [e for e in client.take() if isinstance(e, Goaway)]
    world.nothing_is_left()
    others_go_on(world, bystander)


def test_a_second_error_on_a_connection_that_is_ending_closes_it() -> None:
    world = scene(1)
    client = world.client()
    client.calls()
    world.engine.failed("receive", ValueError("first"), client.peer, world.now)
    world.engine.failed("write", ValueError("second"), client.peer, world.now)
    assert client.peer.gone
    world.settle()
    assert client.closed
    world.nothing_is_left()


def test_the_same_with_credit_and_copies_outstanding() -> None:
    """What is held, lent and copied for others is still counted when one connection has gone."""
    world = ready(1, settings={4: 16383})
    world.bugs_expected = True
    stays, goes = world.client(), world.client()
    for client in (stays, goes):
        client.sends(headers(1, (*POST, ("x-large", "v" * 9000))), *[data(1, bytes(16383)) for _ in range(3)])
    before = world.engine.kept()
    assert all(before[what] > 0 for what in ("streams", "held", "blocks", "replay"))
    world.engine.failed("receive", ValueError("bug"), goes.peer, world.now)
    world.settle()
    after = world.engine.kept()
    assert {what: 2 * n for what, n in after.items()} == before
    assert stays.peer.receive_window <= CONNECTION_WINDOW
    world.backend(1).sends(window(0, 1 << 20), window(1, 1 << 20), window(3, 1 << 20))
    world.backend(1).sends(headers(1, OK), headers(1, TRAILERS, end=True))
    assert stays.outcome(1)[0] == "0"
    all_leave(world)


def test_tracebacks_are_told_under_a_limit() -> None:
    errors, told = InternalErrors(), cast(list[str], [])
    errors.report = told.append
    for n in range(100):
        errors.note("receive", ValueError(f"no {n}\n\n and more"), 1000.0)
    assert len(told) == internal.REPORTS
    assert errors.counts == {"receive": 100}
    assert errors.last == "receive: ValueError: no 99 and more"
    errors.note("receive", ValueError("x" * 1000), 1011.0)
    assert f"({100 - int(internal.REPORTS)} more were not told)" in told[-1]
    assert len(errors.last) < 300


def test_telling_may_fail_too() -> None:
    class UnspeakableError(Exception):
        def __str__(self) -> str:
            raise MemoryError

    errors = InternalErrors()
    errors.note("receive", UnspeakableError(), 1.0)
    assert sum(errors.counts.values()) == 1


@pytest.mark.parametrize("method", ["deadline", "take_dials", "held", "kept", "open_streams"])
def test_what_people_ask_for_still_answers_afterwards(method: str) -> None:
    world = scene(1)
    client = world.client()
    client.calls()
    world.engine.failed("receive", ValueError("bug"), client.peer, world.now)
    world.settle()
    getattr(world.engine, method)()
