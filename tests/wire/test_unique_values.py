"""Values that never repeat are checked in place: the same verdict as reading them gives, and nothing is remembered."""

from __future__ import annotations

import pytest
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hypothesis import given
from hypothesis import strategies as st

from sidecar.wire import fields, huffman, primitives
from sidecar.wire.blocks import MAX_VALUES_PER_NAME, BlockMemo
from sidecar.wire.headers import UNIQUE_IN_A_ROW, HeaderReader, encode

ENCODER = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)
VALUES = st.one_of(st.binary(max_size=40), st.text(" \tab0~", max_size=12).map(str.encode))
REQUEST = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/a/B"), (b"te", b"trailers")]


@given(VALUES)
def test_the_size_of_a_value_in_place(value: bytes) -> None:
    expected = len(value) if not fields.value_fault(value) else fields.BAD_VALUE
    assert fields.value_size(b"xx" + value + b"y", 2, 2 + len(value)) == expected
    coded = ENCODER.encode(value)
    assert huffman.value_size(b"x" + coded + b"yy", 1, 1 + len(coded)) == expected


@given(st.binary(min_size=1, max_size=12))
def test_what_does_not_decode_has_no_size(coded: bytes) -> None:
    try:
        value = huffman.decode(coded, 0, len(coded))
    except huffman.HuffmanError:
        with pytest.raises(huffman.HuffmanError):
            huffman.value_size(coded, 0, len(coded))
    else:
        expected = len(value) if not fields.value_fault(value) else fields.BAD_VALUE
        assert huffman.value_size(coded, 0, len(coded)) == expected


def huffman_literal(name: bytes, value: bytes) -> bytes:
    parts = [ENCODER.encode(text) for text in (name, value)]
    return b"\x00" + b"".join(bytes([0x80 | len(part)]) + part for part in parts)


def learned(coded: bool = False) -> BlockMemo:
    """A memo that has seen that these two names have a new value each time."""
    memo = BlockMemo()
    for number in range(int(MAX_VALUES_PER_NAME)):
        own = [(b"x-request-id", b"%d" % number), (b"grpc-timeout", b"%dm" % number)]
        memo.read(
            encode(REQUEST) + (b"".join(huffman_literal(*each) for each in own) if coded else encode(own))
        )
    return memo


@pytest.mark.parametrize("coded", [False, True])
@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        (b"x-request-id", b"4711", ""),
        (b"x-request-id", b"", ""),
        (b"x-request-id", b"47\x0011", "illegal octet in a field value"),
        (b"x-request-id", b"47\r\n11", "illegal octet in a field value"),
        (b"x-request-id", b" 4711", "field value starts or ends with white space"),
        (b"x-request-id", b"4711\t", "field value starts or ends with white space"),
    ],
)
def test_a_value_of_its_own_is_judged_like_any_other(
    name: bytes, value: bytes, fault: str, coded: bool
) -> None:
    memo = learned(coded)
    blocks, known = memo.blocks(), memo.fields()
    field = huffman_literal(name, value) if coded else encode([(name, value)])
    raw = encode(REQUEST) + field
    block = memo.read(raw)
    assert block.request_fault() == fault
    assert (block.unique_at == len(encode(REQUEST))) == (not fault)
    if not fault:
        assert (memo.blocks(), memo.fields()) == (blocks, known), "nothing of it is remembered"
        plain = encode([*REQUEST, (b"x-other", value)])
        assert block.list_size == memo.read(plain).list_size + len(name) - len(b"x-other")


def test_a_deadline_of_its_own_is_read() -> None:
    block = learned().read(encode([*REQUEST, (b"grpc-timeout", b"1234m")]))
    assert block.unique_at >= 0
    assert block.timeout == pytest.approx(1.234)


def test_a_huffman_string_that_is_none_is_refused() -> None:
    with pytest.raises(primitives.CompressionError):
        learned().read(encode(REQUEST) + b"\x00" + b"\x0cx-request-id" + b"\x82\xff\xff")


def test_a_peer_that_stops_being_unique_is_looked_up_again() -> None:
    memo = learned()
    reader = HeaderReader(memo)
    reader.read(b"\x20" + encode(REQUEST))
    for number in range(2 * int(UNIQUE_IN_A_ROW)):
        assert reader.read(encode([*REQUEST, (b"x-request-id", b"new %d" % number)])).unique_at > 0
    hits = memo.hits
    for path in (b"/a/B", b"/a/C", b"/a/D") * 3:
        assert reader.read(encode([*REQUEST[:2], (b":path", path)])).unique_at < 0
    assert memo.hits == hits + 6  # the first of each was new


def test_blocks_that_begin_alike_are_read_like_any_other() -> None:
    memo = learned()
    reader = HeaderReader(memo)
    reader.read(b"\x20" + encode(REQUEST))
    tails: list[list[tuple[bytes, bytes]]] = [
        [],
        [(b"grpc-timeout", b"7S"), (b"content-type", b"application/grpc")],
        [(b"x-request-id", b"7"), (b":authority", b"late")],
        [(b"x-request-id", b"7\n")],
        [(b"x-request-id", b"7"), (b"content-length", b"12"), (b"X-Upper", b"1")],
    ]
    for number in range(20):
        for path in (b"/a/B", b"/a/C"):
            for tail in tails:
                head = [*REQUEST[:2], (b":path", path), (b"te", b"trailers")]
                raw = encode([*head, (b"x-request-id", b"%d" % number), *tail])
                read, learnt = reader.read(raw), BlockMemo().read(raw)
                for name in (
                    "raw",
                    "seen",
                    "fault",
                    "path",
                    "content_length",
                    "timeout",
                    "is_grpc",
                    "list_size",
                ):
                    assert getattr(read, name) == getattr(learnt, name), (name, tail)
