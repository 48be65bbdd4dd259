"""What is remembered of header blocks, and the bounds of it whatever peers send."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from hpackcases import ANSWER, POST
from hpackwriter import INDEXING, Header, literal, read_without_state, static_index, string

from sidecar.wire.fields import Field
from sidecar.wire.headers import HeaderReader
from sidecar.wire.memo import (
    MAX_BLOCK_OCTETS,
    MAX_BLOCK_REMEMBERED,
    MAX_BLOCKS_REMEMBERED,
    MAX_FIELD_OCTETS,
    MAX_FIELD_REMEMBERED,
    MAX_FIELDS_REMEMBERED,
    MAX_VALUES_PER_NAME,
    BlockMemo,
)
from sidecar.wire.primitives import CompressionError
from sidecar.wire.shapes import MAX_SHAPE_OCTETS, MAX_SHAPES, MAX_SHAPES_PER_START

CALL = b"".join(literal(name, value) for name, value in POST)
# Octets of memory that a hostile peer may cost in all: the memos are a part of it.
FLOOD_MOST = 5 * 1024 * 1024


def test_a_block_is_understood_once() -> None:
    memo = BlockMemo()
    first = memo.read(CALL)
    assert all(memo.read(CALL) is first for _ in range(10))
    assert (memo.hits, memo.misses, memo.blocks()) == (10, 1, 1)


def test_fields_are_shared_between_blocks() -> None:
    memo = BlockMemo()
    for at in range(5):
        memo.read(CALL + literal(b"a", b"%d" % at))
    assert memo.field_misses == len(POST) + 5
    assert memo.field_hits == 4 * len(POST)


def test_a_name_whose_values_never_repeat_fills_no_memo() -> None:
    memo = BlockMemo()
    for at in range(1000):
        memo.read(CALL + literal(b"x-request-id", b"id-%d" % at))
    assert memo.blocks() == MAX_VALUES_PER_NAME
    assert memo.fields() == len(POST) + MAX_VALUES_PER_NAME
    assert memo.shapes() == 1
    assert memo.shape_hits == 1000 - MAX_VALUES_PER_NAME - 1


@pytest.mark.parametrize("name", [name for name, _ in POST] + [b"content-length", b"grpc-status", b":status"])
def test_what_matters_here_is_never_taken_for_granted(name: bytes) -> None:
    """Pseudo-headers and fields with rules of their own are read in full each time, however often they differ."""
    memo = BlockMemo()
    others = [each for each in POST if each[0] != name]
    for at in range(60):
        value = b"/%d" % at if name == b":path" else b"%d" % (100 + at)
        block = memo.read(b"".join(literal(*each) for each in [(name, value), *others]))
        if name == b":path":
            assert block.path == value
        elif name == b"content-length":
            assert block.content_length == 100 + at
        elif name == b":status":
            assert block.status == 100 + at
        elif name == b"grpc-status":
            assert block.grpc_status == 100 + at
        elif name == b"te":
            assert block.fault
    assert memo.shapes() == 0


def test_calls_of_many_methods_in_turn_are_recognised() -> None:
    memo = BlockMemo()
    reader = HeaderReader(memo)
    for at in range(2000):
        fields = [(n, b"/svc/Method%d" % (at % 20) if n == b":path" else v) for n, v in POST]
        raw = b"".join(literal(static_index(name) or name, value) for name, value in fields)
        for name in (b"grpc-timeout", b"x-request-id"):
            raw += literal(name, b"%dm" % (at + 100), coded=True)
        if at % 3:
            raw += literal(b"x-shard", b"%d" % (at % 2))
        assert reader.read(raw).path == b"/svc/Method%d" % (at % 20)
    assert memo.shapes() <= 20 * 3
    assert memo.shape_hits > 1800


def test_responses_and_trailers_have_shapes_too() -> None:
    memo = BlockMemo()
    reader = HeaderReader(memo)
    for at in range(300):
        start = b"".join(literal(*each) for each in ANSWER) + literal(
            b"date", b"Mon, 24 Nov 2025 06:00:%02d" % (at % 60)
        )
        assert reader.read(start + literal(b"x-served", b"%d" % at)).status == 200
        end = literal(b"grpc-status", b"%d" % (at % 2)) + literal(b"x-cost", b"%d" % at)
        assert reader.read(end).grpc_status == at % 2
    assert memo.shape_hits > 500
    assert memo.shapes() <= 6


def test_a_block_of_a_known_shape_keeps_its_own_octets() -> None:
    memo = BlockMemo()
    for at in range(50):
        raw = CALL + literal(b"x-id", b"%d" % at, coded=at % 2 == 1) + literal(b"x-end", b"e")
        block = memo.read(raw)
        assert read_without_state(block.raw)[-2:] == [Header(b"x-id", b"%d" % at), Header(b"x-end", b"e")]


@pytest.mark.parametrize("coded", [False, True])
@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (b"4711", ""),
        (b"", ""),
        (b"~" * 300, ""),
        (b"47\x0011", "illegal octet in a field value"),
        (b"47\r\n11", "illegal octet in a field value"),
        (b" 47\x0011", "illegal octet in a field value"),
    ],
)
def test_a_value_of_its_own_is_judged_like_any_other(value: bytes, fault: str, coded: bool) -> None:
    memo = BlockMemo()
    for at in range(30):
        memo.read(CALL + literal(b"x-id", b"%d" % at, coded=coded))
    block = memo.read(CALL + literal(b"x-id", value, coded=coded))
    assert block.request_fault() == fault
    assert block.path == dict(POST)[b":path"]


@pytest.mark.parametrize("coded", [False, True])
@pytest.mark.parametrize(
    "value", [b" 4711", b"4711\t", b" \t 47 11 ", b" ", b"x" * 126 + b" ", b"~" * 300 + b"  "]
)
@pytest.mark.parametrize("form", [b"\x00", b"\x10", b"\x40"], ids=["plain", "never indexed", "to be indexed"])
def test_white_space_at_the_ends_of_a_value_is_taken_off(form: bytes, value: bytes, coded: bool) -> None:
    """RFC 9113 section 8.2.1 forbids to pass it on; gRPC over HTTP/2 says that it may be stripped."""
    memo = BlockMemo()
    for at in range(30):
        memo.read(CALL + literal(b"x-id", b"%d" % at, coded=coded) + literal(b"x-end", b"e"))
    field = form + literal(b"x-id", value, coded=coded)[1:]
    for _ in range(3):
        block = memo.read(CALL + field + literal(b"x-end", b"e") + field)
        assert block.request_fault() == ""
        bare = Header(b"x-id", value.strip(b" \t"), form == b"\x10")
        assert read_without_state(block.raw)[-3:] == [bare, Header(b"x-end", b"e"), bare]
        assert block.list_size == sum(len(n) + len(v) + 32 for n, v, _ in read_without_state(block.raw))


@pytest.mark.parametrize("name", [b":path", b"content-length", b"te", b"grpc-status"])
def test_white_space_is_a_fault_where_the_value_is_looked_at(name: bytes) -> None:
    assert Field(name, b"/ ").fault == "field value starts or ends with white space"


def test_thousands_of_values_with_white_space_are_one_more_walk() -> None:
    block = BlockMemo().read(CALL + literal(b"a", b" x ") * 3000)
    assert read_without_state(block.raw)[-3000:] == [Header(b"a", b"x")] * 3000


@pytest.mark.parametrize(
    "bad", [b"", b"\x05abc", b"\x7f\xff\xff\xff\xff\xff\x01", b"\x81\x18", b"\x84\xff\xff\xff\xff"]
)
def test_what_breaks_off_in_a_gap_is_refused(bad: bytes) -> None:
    memo = BlockMemo()
    reader = HeaderReader(memo)
    for at in range(30):
        reader.read(CALL + literal(b"x-id", b"%d" % at))
    for _ in range(3):
        with pytest.raises(CompressionError):
            reader.read(CALL + b"\x00\x04x-id" + bad)


@pytest.mark.parametrize(
    "after", [b"\x83", literal(b"X", b"y"), literal(b"connection", b"close"), literal(b":path", b"/")]
)
def test_what_follows_a_known_shape_is_still_judged(after: bytes) -> None:
    memo = BlockMemo()
    reader = HeaderReader(memo)
    for at in range(30):
        assert reader.read(CALL + literal(b"x-id", b"%d" % at)).request_fault() == ""
        assert reader.read(CALL + literal(b"x-id", b"%d" % at) + after).request_fault() != ""


def test_a_shape_whose_fields_insert_is_followed_by_a_connection_with_a_table() -> None:
    memo = BlockMemo()
    without, with_table = HeaderReader(memo), HeaderReader(memo)
    without.read(b"\x20")
    for at in range(30):
        raw = CALL + literal(b"x-id", b"%d" % at, INDEXING)
        without.read(raw)
        with_table.read(raw)
        found = read_without_state(with_table.read(CALL + b"\xbe").raw)[-1]
        assert found == Header(b"x-id", b"%d" % at)
    assert memo.shape_hits > 40


# --- bounds ------------------------------------------------------------------------------------------


def test_the_number_of_blocks_is_bounded() -> None:
    memo = BlockMemo()
    for at in range(5 * MAX_BLOCKS_REMEMBERED):
        memo.read(b"".join(literal(name, b"/%d" % at if name == b":path" else value) for name, value in POST))
        assert memo.blocks() <= 2 * MAX_BLOCKS_REMEMBERED
    assert memo.blocks() > MAX_BLOCKS_REMEMBERED
    assert memo.fields() <= 2 * MAX_FIELDS_REMEMBERED


@pytest.mark.parametrize("size", [100, MAX_BLOCK_REMEMBERED, MAX_BLOCK_REMEMBERED + 1])
def test_the_octets_of_blocks_are_bounded(size: int) -> None:
    memo = BlockMemo()
    for at in range(3000):
        memo.read(literal(b"content-type", b"%08d" % at + b"t" * (size - 8 - 14 - (1 if size < 142 else 3))))
        assert memo.blocks() * size <= 2 * (MAX_BLOCK_OCTETS + size)
    assert (memo.blocks() == 0) == (size > MAX_BLOCK_REMEMBERED)


@pytest.mark.parametrize("size", [20, MAX_FIELD_REMEMBERED, MAX_FIELD_REMEMBERED + 1])
def test_the_number_and_octets_of_fields_are_bounded(size: int) -> None:
    memo = BlockMemo()
    for at in range(5000):
        memo.read(literal(b"n%06d" % at, b"v" * (size - 9 - (1 if size < 136 else 3))))
        assert memo.fields() <= 2 * MAX_FIELDS_REMEMBERED
        assert memo.fields() * size <= 2 * (MAX_FIELD_OCTETS + size)
    assert (memo.fields() == 0) == (size > MAX_FIELD_REMEMBERED)


def test_shapes_are_bounded() -> None:
    memo = BlockMemo()
    for at in range(20):
        memo.read(literal(b"x-id", b"%d" % at))
    for at in range(4 * int(MAX_SHAPES)):
        memo.read(literal(4, b"/%d" % at) + literal(b"x-id", b"v%d" % at))
        assert memo.shapes() <= MAX_SHAPES
    for at in range(500, 1000):
        memo.read(literal(4, b"/%d" % at + b"p" * 1500) + literal(b"x-id", b"v%d" % at))
        assert at < 600 or memo.shapes() * 1500 <= MAX_SHAPE_OCTETS


def test_one_start_has_few_shapes() -> None:
    memo = BlockMemo()
    for at in range(20):
        memo.read(literal(b"x-id", b"%d" % at))
    for at in range(200):
        memo.read(literal(4, b"/p") + literal(b"x-id", b"%d" % at) + literal(b"te", b"%d" % at))
    assert memo.shapes() <= MAX_SHAPES_PER_START + 1


def test_a_hostile_peer_costs_little_memory() -> None:
    """Blocks, fields and names that never repeat, each as large as may be remembered, in each of several ways."""
    rng = random.Random(1)
    coded = [string(b"e" * size, coded=True) for size in (1, 100, 2500)]
    memo = BlockMemo()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for at in range(2500):
            unique = b"%06d" % at
            memo.read(literal(b"te", unique + b"x" * rng.choice([10, 300, 2000])))
            memo.read(b"\x00" + string(b"n" + unique + b"x" * rng.choice([5, 100])) + rng.choice(coded))
            memo.read(
                literal(4, b"/" + unique)
                + literal(b"x-id", unique)
                + literal(b"y", b"y" * rng.choice([1, 1500]))
            )
            memo.read(literal(b"m" + unique, b"") * 40)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert memo.fields() > 100
    assert memo.shapes() > 10
    assert grown < FLOOD_MOST * 0.7, grown
