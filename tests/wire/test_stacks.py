"""How each gRPC stack writes header blocks, as DESIGN.md's table has it, in transcripts on both sides of the engine.

A stack is its HPACK policy: whether it waits for our SETTINGS, whether it honours a table of 0 and says so, what it
puts into literals. Each plays five calls, as a client and as a server; the other side must read what was meant with
no table at all (the playbook's reader sees to that), and blocks without state must pass octet for octet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import hpack
import pytest
from hpackwriter import INDEXING, NEVER, WITHOUT, Writer, huffman, indexed, literal
from rawhttp2 import OK, POST, PREFACE, TRAILERS, Data, Headers, data, headers, request, response, settings
from transcript import BackendConnection, Client, Party, World, ready

Pairs = tuple[tuple[str, str], ...]
CALLS: Final = 5


class Stack(NamedTuple):
    """`honours`: 0x20 ahead of the first block after our SETTINGS were seen. `indexing`: literals as 0x40."""

    name: str
    waits: bool
    honours: bool
    table: bool  # keeps one where it may
    indexing_always: bool = False  # C-core: 0x40 literals even with a table of 0
    never: tuple[bytes, ...] = ()
    huffman: bool = True


STACKS: Final = (
    Stack("grpc-go", waits=True, honours=True, table=True),
    Stack("x/net http2 (connect-go)", waits=False, honours=True, table=True),
    Stack("C-core", waits=True, honours=True, table=True, indexing_always=True, huffman=False),
    Stack("grpc-java Netty", waits=True, honours=True, table=True, huffman=False),
    Stack("grpc-java OkHttp", waits=True, honours=False, table=True, huffman=False),
    Stack(".NET HttpClient", waits=False, honours=False, table=False, huffman=False),
    Stack("grpc-js", waits=True, honours=True, table=True, never=(b"authorization",)),
    Stack("node http2", waits=False, honours=True, table=True, never=(b"authorization",)),
    Stack("tonic", waits=False, honours=True, table=True),
    Stack("grpclib", waits=False, honours=True, table=True),
)
stacks = pytest.mark.parametrize("stack", STACKS, ids=lambda stack: stack.name)


class Speaker:
    """One connection's encoder, with the stack's policy."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.writer = Writer(table=4096 if stack.table else 0)
        self.owes_update = False

    def saw_settings(self) -> None:
        self.owes_update = self.stack.honours

    def block(self, fields: Pairs) -> bytes:
        out = b""
        if self.owes_update:
            self.owes_update = False
            out += self.writer.resize(0)
        for name, value in fields:
            out += self._field(name.encode(), value.encode())
        return out

    def _field(self, name: bytes, value: bytes) -> bytes:
        stack, writer = self.stack, self.writer
        never = name in stack.never
        whole = [] if never else writer.indices(name, value)
        if whole:
            return indexed(whole[0])
        fits = len(name) + len(value) + 32 <= writer.most
        form = NEVER if never else INDEXING if fits or stack.indexing_always else WITHOUT
        names = writer.indices(name)
        coded = stack.huffman and len(huffman(value)) < len(value)
        out = literal(names[0] if names else name, value, form, stack.huffman and not names, coded)
        if form == INDEXING:
            writer.add(name, value)
        return out


def call(at: int) -> Pairs:
    """What differs from call to call does, the rest repeats."""
    return (
        *POST,
        ("user-agent", "stack/1.0"),
        ("grpc-timeout", f"{900 + at}m"),
        ("authorization", "Bearer c2VjcmV0"),
        ("x-request-id", f"id-{at}"),
    )


def answer(at: int) -> Pairs:
    return (*OK, ("grpc-encoding", "identity"), ("x-served", f"{at}"))


def ending(at: int) -> Pairs:
    return (*TRAILERS, ("grpc-message", ""), ("x-cost", f"{at}"))


def carries_state(block: bytes) -> bool:
    """Whether the block means something only on its connection: what `hpack` cannot read without a table."""
    decoder = hpack.Decoder()
    decoder.header_table_size = decoder.max_allowed_table_size = 0
    try:
        decoder.decode(block.lstrip(b" "), raw=True)
    except hpack.HPACKError:
        return True
    return False


def passes_as_it_is(block: bytes, speaker: Speaker) -> bool:
    return not carries_state(block) and (speaker.writer.most == 0 or not inserts(block))


def inserts(block: bytes) -> bool:
    decoder = hpack.Decoder()
    decoder.decode(b"\x3f\xe1\x1f" + block.lstrip(b" "), raw=True)
    return bool(decoder.header_table.dynamic_entries)


def never_indexed(block: bytes) -> set[bytes]:
    decoder = hpack.Decoder()
    return {bytes(each[0]) for each in decoder.decode(block, raw=True) if not each.indexable}


def greets(world: World, stack: Stack) -> tuple[Client, Speaker]:
    """A client of this stack. One that does not wait has its first call out before it reads a word of ours."""
    client, speaker = world.raw_client(), Speaker(stack)
    if stack.waits:
        client.sends(PREFACE, settings(), settings(ack=True))
        speaker.saw_settings()
    else:
        client.sends(PREFACE, settings())
    return client, speaker


@stacks
def test_as_a_client(stack: Stack) -> None:
    world = ready(1)
    client, speaker = greets(world, stack)
    backend = world.backend(1)
    for at in range(CALLS):
        stream = 2 * at + 1
        block = speaker.block(call(at))
        client.sends(headers(stream, block), data(stream, b"request", end=True))
        backend.receives(request(stream, call(at)), Data(stream, b"request", True))
        _compare(block, backend.reader.blocks[-1], speaker, first=at == 0)
        assert never_indexed(backend.reader.blocks[-1]) == set(stack.never)
        backend.answers(stream)
        client.receives(response(stream, OK), Data(stream, b"response"), response(stream, TRAILERS, True))
        if at == 1 and not stack.waits:
            client.sends(settings(ack=True))
            speaker.saw_settings()
    world.nothing_is_left()


@stacks
def test_as_a_server(stack: Stack) -> None:
    """Response headers and trailers; a server has no reason to wait either."""
    world = World()
    world.endpoints(1)
    client, backend, speaker = world.client(), world.backend(1), Speaker(stack)
    if stack.waits:
        backend.sends(settings(ack=True))
        speaker.saw_settings()
    for at in range(CALLS):
        stream = client.opens(end=True)
        backend.receives(request(stream, end=True))
        first, last = speaker.block(answer(at)), None
        backend.sends(headers(stream, first), data(stream, b"response"))
        client.receives(response(stream, answer(at)), Data(stream, b"response"))
        _compare(first, client.reader.blocks[-1], speaker, first=at == 0)
        last = speaker.block(ending(at))
        backend.sends(headers(stream, last, end=True))
        client.receives(response(stream, ending(at), True))
        _compare(last, client.reader.blocks[-1], speaker, first=False)
        if at == 1 and not stack.waits:
            backend.sends(settings(ack=True))
            speaker.saw_settings()
    world.nothing_is_left()


def _compare(sent: bytes, arrived: bytes, speaker: Speaker, first: bool) -> None:
    """Points 3 and 4: octet for octet where the block carries no state, and 0x20 ahead of a connection's first only."""
    assert arrived.startswith(b"\x20") == first
    arrived = arrived[1:] if first else arrived
    assert not arrived.startswith(b"\x20")
    assert not carries_state(arrived)
    if passes_as_it_is(sent, speaker):
        assert arrived == sent.lstrip(b"\x20")
    else:
        assert arrived != sent


@pytest.mark.parametrize("stack", [each for each in STACKS if each.honours], ids=lambda stack: stack.name)
def test_one_that_honours_the_table_of_0_is_spliced_octet_for_octet(stack: Stack) -> None:
    world = ready(1)
    client, speaker = greets(world, stack)
    client.sends(settings(ack=True))
    client.opens(speaker.block(call(0)), end=True)
    speaker.saw_settings()
    for at in range(1, CALLS):
        block = speaker.block(call(at))
        client.opens(block, end=True)
        assert world.backend(1).reader.blocks[-1] == (block[1:] if block[:1] == b"\x20" else block)


def test_okhttp_never_complies_and_is_served_for_ever() -> None:
    """Point 2: the acknowledgement proves nothing. From the second call on its blocks are all references."""
    world = ready(1)
    client, speaker = greets(world, next(each for each in STACKS if "OkHttp" in each.name))
    for at in range(300):
        stream = 2 * at + 1
        block = speaker.block(call(at % 7))
        assert at == 0 or carries_state(block)
        client.sends(headers(stream, block, end=True))
        world.backend(1).receives(request(stream, call(at % 7), True))
        world.backend(1).answers(stream)
    client.still_works()
    world.nothing_is_left()


def test_the_python_library_of_grpclib_itself() -> None:
    """grpclib's encoder is `hpack`: here it is the one that speaks, before and after it has seen our SETTINGS."""
    world = ready(1)
    client, encoder = world.raw_client(), hpack.Encoder()
    client.sends(PREFACE, settings())
    backend = world.backend(1)
    for at in range(CALLS):
        stream = 2 * at + 1
        if at == 2:
            client.sends(settings(ack=True))
            encoder.header_table_size = 0
        block = encoder.encode(call(at))
        assert block.startswith(b"\x20") == (at == 2)
        client.sends(headers(stream, block, end=True))
        backend.receives(request(stream, call(at), True))
        assert (backend.reader.blocks[-1] == block.lstrip(b"\x20")) == (at >= 2)


def test_two_clients_of_different_kinds_on_one_backend_connection() -> None:
    """One memo, one backend's connection; tables of their own."""
    world = ready(1)
    pairs = [greets(world, stack) for stack in STACKS]
    backend = world.backend(1)
    for at in range(CALLS):
        for client, speaker in pairs:
            fields = (*call(at), ("x-who", speaker.stack.name.replace(" ", "-")))
            client.opens(speaker.block(fields), end=True)
            (event,) = backend.take()
            assert isinstance(event, Headers)
            assert event.fields == fields
    assert sum(block.startswith(b"\x20") for block in backend.reader.blocks) == 1


# --- point 4: exactly one 0x20, before the first block of each connection -------------------------------


def test_each_connection_of_ours_begins_with_one_size_update() -> None:
    """Trailers, informational blocks and answers made here count as first blocks too."""
    world = ready(1, 2)
    clients = [world.client() for _ in range(3)]
    for _ in range(4):
        for client in clients:
            client.opens()
    for connection in world.connections():
        assert [block.startswith(b"\x20") for block in connection.reader.blocks] == [True] + [False] * 5
    world.backend(1).leaves()  # its streams are answered here
    for client in clients:
        found = client.reader.blocks
        assert [block.startswith(b"\x20") for block in found] == [True] + [False] * (len(found) - 1)
    _sends_informational_first(world.backend(2), clients)


def _sends_informational_first(backend: BackendConnection, clients: Sequence[Party]) -> None:
    for stream in backend.streams_open():
        backend.sends(headers(stream, ((":status", "103"),)))
        backend.sends(headers(stream, OK))
        backend.sends(headers(stream, TRAILERS, end=True))
    for client in clients:
        assert [block.startswith(b"\x20") for block in client.reader.blocks].count(True) == 1
        assert client.reader.blocks[0].startswith(b"\x20")


def test_a_new_connection_to_the_same_backend_begins_anew() -> None:
    world = ready(1)
    client = world.client()
    for _ in range(3):
        client.calls()
        assert world.backend(1).reader.blocks[0].startswith(b"\x20")
        world.backend(1).leaves()
        world.advance(1.0)
    assert len(world.backends["10.0.0.1"]) > 2


@pytest.mark.parametrize("updates", [b"\x20", b"\x20\x20", b"\x3f\xe1\x1f\x20", b"\x3f\x45"])
def test_updates_are_taken_off_each_block_whichever_block_it_is(updates: bytes) -> None:
    """Ahead of trailers too, where a peer has changed its table between two blocks."""
    world = ready(1)
    client = world.client()
    backend = world.backend(1)
    block, end = literal(b"checksum", b"abc"), literal(b"grpc-status", b"0")
    for stream in (1, 3):
        client.sends(headers(stream, updates + Speaker(STACKS[5]).block(POST)))
        client.sends(headers(stream, updates + block, end=True))
        backend.receives(request(stream), request(stream, (("checksum", "abc"),), True))
        backend.sends(headers(stream, updates + indexed(8)), headers(stream, updates + end, end=True))
        client.receives(
            response(stream, ((":status", "200"),)), response(stream, (("grpc-status", "0"),), True)
        )
    for party in (client, backend):
        assert [each[:1] == b"\x20" for each in party.reader.blocks] == [True, False, False, False]
