"""The whole engine: clients and backends that do anything, in any order, while endpoints and time change.

Input: operations, each an octet and what it takes. Whatever happens, nothing is raised, every bound holds, what we
write is HTTP/2 (the playbook's reader asserts it), and when all have left nothing is left of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import hpackcases as cases
from fuzzinput import Input
from hpackwriter import Writer
from rawhttp2 import (
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    OK,
    POST,
    TRAILERS,
    Fields,
    data,
    frame,
    goaway,
    headers,
    ping,
    rst,
    settings,
    split_headers,
    window,
)
from transcript import ACCEPT, MUTE, REFUSE, SILENCE, BackendConnection, Client, Party, World, host_name

from sidecar.splice.credit import MAX_LENT_FOR, MAX_LENT_IN_ALL
from sidecar.splice.downstream import MAX_STREAMS
from sidecar.splice.peer import MAX_HELD_FOR
from sidecar.wire.connection import CONNECTION_WINDOW
from sidecar.wire.memo import MAX_BLOCKS_REMEMBERED, MAX_FIELDS_REMEMBERED

MOST_CLIENTS: Final = 4
MOST_OPERATIONS: Final = 160
HOSTS: Final = 3
CODES: Final = (0, 1, 2, 7, 8, 0xB, 0xFFFFFFFF)
SIZES: Final = (0, 1, 5, 100, 1024, 16384, 40000, 65535, 70000)
INCREMENTS: Final = (0, 1, 100, 16384, 65535, 1 << 20, (1 << 31) - 1)
WINDOWS: Final = (0, 1, 100, 65535, 1 << 20, (1 << 31) - 1)
SECONDS: Final = (0.0, 0.001, 0.1, 0.3, 1.0, 2.6, 11.0)
PLAIN: Final = ((":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "x"))
TIMED: Final = (*POST, ("grpc-timeout", "50m"))
LENGTH: Final = (*POST, ("content-length", "5"))
REQUESTS: Final[tuple[Fields, ...]] = (POST, TIMED, PLAIN, LENGTH, POST[:3], TRAILERS, (*POST, ("Bad", "\0")))
ANSWERS: Final[tuple[Fields, ...]] = (
    OK,
    ((":status", "103"),),
    (*OK, ("content-length", "5")),
    (*OK, ("grpc-status", "5")),
    POST,
)


class Play:
    def __init__(self, octets: bytes) -> None:
        self.given = Input(octets)
        self.world = World(seed=self.given.octet())
        self.world.endpoints(*range(1, 1 + self.given.choose(HOSTS + 1)))
        self.clients: list[Client] = [self.world.client()]
        self.writers: dict[Party, Writer] = {}
        self.operations: tuple[Callable[[], None], ...] = (
            self.client_opens, self.client_opens, self.client_sends_data, self.client_sends_data, self.backend_answers,
            self.backend_answers, self.backend_sends_data, self.backend_ends, self.resets, self.windows,
            self.some_settings, self.some_frame, self.some_octets, self.some_headers, self.backend_goes_away,
            self.time_passes, self.endpoints_change, self.client_comes, self.client_leaves, self.backend_leaves,
            self.stops_reading, self.reads, self.manners_change, self.dial_is_answered, self.drains, self.pings,
            self.many_at_once,
        )  # fmt: skip

    def run(self) -> None:
        for _ in range(MOST_OPERATIONS):
            if not self.given.left:
                break
            self.operations[self.given.choose(len(self.operations))]()
            check_bounds(self.world)
        ends(self.world)

    # --- who

    def client(self) -> Client:
        return self.clients[self.given.choose(len(self.clients))]

    def backend(self) -> BackendConnection | None:
        found = [each for each in self.world.connections() if not each.closed and not each.left]
        return found[self.given.choose(len(found))] if found else None

    def party(self) -> Party | None:
        return self.backend() if self.given.choose(2) else self.client()

    def stream_of(self, party: Party) -> int:
        """Mostly one that is open; any, sometimes."""
        found = sorted(party.peer.streams)
        at = self.given.octet()
        if at < 16 or not found:
            return at
        return int(found[at % len(found)])

    def some(self, values: tuple[int, ...]) -> int:
        return values[self.given.choose(len(values))]

    # --- what they do

    def client_opens(self) -> None:
        client = self.client()
        way = self.given.choose(len(REQUESTS) * 2)
        client.opens(REQUESTS[way % len(REQUESTS)], end=way >= len(REQUESTS))

    def client_sends_data(self) -> None:
        client = self.client()
        stream, way = self.stream_of(client), self.given.octet()
        client.sends(data(stream, bytes(SIZES[way % len(SIZES)]), end=way >= 128))

    def backend_answers(self) -> None:
        backend = self.backend()
        if backend is not None:
            way = self.given.choose(len(ANSWERS) * 2)
            backend.sends(headers(self.stream_of(backend), ANSWERS[way % len(ANSWERS)], way >= len(ANSWERS)))

    def backend_sends_data(self) -> None:
        backend = self.backend()
        if backend is not None:
            stream, way = self.stream_of(backend), self.given.octet()
            backend.sends(
                data(stream, bytes(SIZES[way % len(SIZES)]), end=way >= 200, pad=way if way < 16 else -1)
            )

    def backend_ends(self) -> None:
        backend = self.backend()
        if backend is not None:
            backend.sends(headers(self.stream_of(backend), TRAILERS, end=True))

    def resets(self) -> None:
        party = self.party()
        if party is not None:
            party.sends(rst(self.stream_of(party), self.some(CODES)))

    def windows(self) -> None:
        party = self.party()
        if party is not None:
            party.sends(window(self.stream_of(party), self.some(INCREMENTS)))

    def some_settings(self) -> None:
        party = self.party()
        if party is None:
            return
        way = self.given.choose(4)
        if way == 0:
            party.sends(settings(ack=True))
        elif way == 1:
            party.sends(settings({INITIAL_WINDOW_SIZE: self.some(WINDOWS)}))
        elif way == 2:
            party.sends(settings({MAX_CONCURRENT_STREAMS: self.given.choose(6)}))
        else:
            party.sends(settings({self.given.octet(): self.given.octet() << 8}))

    def some_frame(self) -> None:
        party = self.party()
        if party is not None:
            kind, flags, stream = self.given.choose(12), self.given.octet(), self.stream_of(party)
            party.sends(frame(kind, flags, stream, self.given.take(64)))

    def some_octets(self) -> None:
        party = self.party()
        if party is not None:
            party.sends(self.given.take(64))

    def some_headers(self) -> None:
        """A block of the random encoder's, with its table, cut into frames."""
        party = self.party()
        if party is None:
            return
        writer = self.writers.setdefault(party, Writer())
        block = writer.block(cases.some_headers(self.given.choose), self.given.choose)
        if isinstance(party, Client) and self.given.choose(2):
            stream = party.next_id
            party.next_id += 2
        else:
            stream = self.stream_of(party)
        cuts = sorted(self.given.choose(len(block) + 1) for _ in range(self.given.choose(3)))
        party.sends(split_headers(stream, block, cuts, end=bool(self.given.choose(2))))

    def backend_goes_away(self) -> None:
        backend = self.backend()
        if backend is not None:
            backend.sends(goaway(self.stream_of(backend), self.some(CODES), self.given.take(8)))

    def pings(self) -> None:
        party = self.party()
        if party is not None:
            party.sends(ping(b"evendrai", ack=bool(self.given.choose(2))))

    def many_at_once(self) -> None:
        """A burst of calls, so that limits on streams and rounds of the balancer are met."""
        client = self.client()
        for _ in range(self.given.choose(40)):
            client.opens(POST, end=True)

    # --- what happens to them

    def time_passes(self) -> None:
        self.world.advance(SECONDS[self.given.choose(len(SECONDS))])

    def endpoints_change(self) -> None:
        which = self.given.choose(1 << HOSTS)
        self.world.endpoints(*(host for host in range(1, HOSTS + 1) if which >> (host - 1) & 1))

    def client_comes(self) -> None:
        if len(self.clients) < MOST_CLIENTS:
            self.clients.append(self.world.raw_client() if self.given.choose(4) == 3 else self.world.client())

    def client_leaves(self) -> None:
        self.client().leaves()

    def backend_leaves(self) -> None:
        backend = self.backend()
        if backend is not None:
            backend.leaves()

    def stops_reading(self) -> None:
        party = self.party()
        if party is not None:
            party.stops_reading(self.some(SIZES))

    def reads(self) -> None:
        party = self.party()
        if party is not None and not party.left:
            party.reads(self.some(SIZES) or None)

    def manners_change(self) -> None:
        host = host_name(1 + self.given.choose(HOSTS))
        self.world.manners[host] = (ACCEPT, REFUSE, SILENCE, MUTE)[self.given.choose(4)]

    def dial_is_answered(self) -> None:
        waiting = [each for each in self.world.dialling if not each.gone]
        if waiting:
            self.world.accept_dial(waiting[self.given.choose(len(waiting))], greet=bool(self.given.choose(2)))
            self.world.settle()

    def drains(self) -> None:
        if self.given.choose(8) == 7:
            self.world.engine.drain(self.world.now)
            self.world.settle()


# --- what must hold ------------------------------------------------------------------------------------


def check_bounds(world: World) -> None:
    engine = world.engine
    for peer in [*engine.downstreams, *(each.peer for each in world.connections())]:
        assert 0 <= peer.held_for <= MAX_HELD_FOR + 65536
        assert 0 <= peer.lent_for <= MAX_LENT_FOR
        assert 0 <= peer.held_back <= CONNECTION_WINDOW
        assert len(peer.streams) <= MAX_STREAMS
        assert peer.receive_window <= CONNECTION_WINDOW
    memo = engine.memo
    assert memo.blocks() <= 2 * MAX_BLOCKS_REMEMBERED
    assert memo.fields() <= 2 * MAX_FIELDS_REMEMBERED
    assert engine.held() >= 0
    assert 0 <= engine.kept()["lent"] <= MAX_LENT_IN_ALL


def ends(world: World) -> None:
    """All clients leave, then all backends, and time passes: nothing is left."""
    for party in list(world.parties.values()):
        if isinstance(party, Client):
            party.leaves()
    assert world.engine.open_streams() == 0
    assert not world.engine.downstreams
    world.endpoints()
    world.advance(0.0)
    for party in list(world.parties.values()):
        party.reads()
        party.leaves()
    world.advance(30.0)
    world.nothing_is_left()
    for service in world.engine.services.values():
        assert not service.backends
        assert not service.retiring
        assert service.downstreams == 0


def one(octets: bytes) -> None:
    Play(octets).run()
