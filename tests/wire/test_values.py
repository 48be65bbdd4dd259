"""Values checked in place: sure only of what reading them in full says too, and sure of what is common."""

from __future__ import annotations

import random
import uuid

import pytest
from hpackwriter import huffman
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.wire import huffman as full
from sidecar.wire import values
from sidecar.wire.fields import BAD_VALUE, Field, grpc_timeout, timeout_in, value_fault, value_size

PRINTABLE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=60).map(str.encode)
AROUND = st.binary(max_size=9)


def is_printable(value: bytes) -> bool:
    return all(0x20 <= octet < 0x7F for octet in value) and value == value.strip(b" ")


@given(st.one_of(PRINTABLE, st.binary(max_size=40)), AROUND, AROUND)
@example(b"", b"", b"")
@example(b" ", b"", b"")
@example(b"a b", b"", b"")
@example(b"abcd ", b"", b"x")
@example(b"abc\x80", b"", b"")
@example(b"\x7f" * 4, b"", b"")
@example(b"\x1f" * 4, b"", b"")
@example(b"\xff\xff\xff\xff", b"", b"")
def test_printable_is_exact(value: bytes, before: bytes, after: bytes) -> None:
    block = before + value + after
    assert values.printable(block, len(before), len(before) + len(value)) == is_printable(value)


def test_printable_knows_every_octet_at_every_place() -> None:
    for octet in range(256):
        for size in range(1, 10):
            for at in range(size):
                value = b"x" * at + bytes([octet]) + b"x" * (size - at - 1)
                assert values.printable(value, 0, size) == is_printable(value), value


@given(st.one_of(PRINTABLE, st.binary(max_size=40)), AROUND, AROUND)
@example(b"a ", b"", b"")
@example(b" a", b"", b"")
@example(b"0123456789abcdef ", b"", b"")
def test_printable_coded_is_never_wrong(value: bytes, before: bytes, after: bytes) -> None:
    block = before + huffman(value) + after
    if values.printable_coded(block, len(before), len(block) - len(after)):
        assert value_fault(value) == ""
        assert is_printable(value)


@given(st.binary(max_size=24), AROUND)
@example(b"\xff", b"")
@example(b"\x1f\xff", b"")
@example(b"\x18", b"")
@example(b"\xff\xff\xff\xff\xff", b"")
def test_printable_coded_of_any_octets_is_never_wrong(octets: bytes, after: bytes) -> None:
    if values.printable_coded(octets + after, 0, len(octets)):
        assert value_fault(full.decode(octets, 0, len(octets))) == ""


def test_printable_coded_of_one_wrong_bit_is_never_wrong() -> None:
    rng = random.Random(3)
    for _ in range(20_000):
        octets = bytearray(huffman(rng.choice([b"%x" % rng.getrandbits(80), b"a b c d", b"A-z_0.9/" * 3])))
        octets[rng.randrange(len(octets))] ^= 1 << rng.randrange(8)
        if values.printable_coded(bytes(octets), 0, len(octets)):
            assert value_fault(full.decode(bytes(octets), 0, len(octets))) == ""


def test_all_coded_strings_of_two_octets() -> None:
    sure = 0
    for number in range(65536):
        octets = number.to_bytes(2, "big")
        if values.printable_coded(octets, 0, 2):
            sure += 1
            assert value_fault(full.decode(octets, 0, 2)) == ""
    assert sure > 1000


@pytest.mark.parametrize("size", range(1, 30))
def test_it_is_sure_of_what_is_common(size: int) -> None:
    """Letters, digits, and what stands between them in ids, dates, paths and base64."""
    rng = random.Random(size)
    letters = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/=+ ,;%&*"
    for _ in range(300):
        value = bytes(rng.choices(letters, k=size)).strip(b" ") or b"a"
        coded = huffman(value)
        assert values.printable_coded(coded, 0, len(coded)), value


def test_it_is_sure_of_ids_and_traces() -> None:
    rng = random.Random(1)
    for _ in range(500):
        for value in (
            str(uuid.UUID(int=rng.getrandbits(128))).encode(),
            b"00-%032x-%016x-01" % (rng.getrandbits(128), rng.getrandbits(64)),
            b"Mon, 24 Nov 2025 06:00:%02d GMT" % rng.randrange(60),
        ):
            coded = huffman(value)
            assert values.printable_coded(coded, 0, len(coded))
            assert values.printable(value, 0, len(value))


TIMEOUTS = st.builds(
    lambda number, unit: b"%d%c" % (number, unit), st.integers(0, 10**9), st.sampled_from(b"HMSmunxs0 ")
)


@given(st.one_of(TIMEOUTS, st.binary(max_size=12)), AROUND, AROUND)
@example(b"", b"", b"")
@example(b"S", b"", b"")
@example(b"00000001S", b"", b"")
@example(b"99999999S", b"", b"")
@example(b"999999999S", b"", b"")
@example(b"1SS", b"", b"")
def test_a_timeout_is_read_alike(value: bytes, before: bytes, after: bytes) -> None:
    expected = grpc_timeout(value)
    plain = before + value + after
    assert timeout_in(plain, len(before), len(plain) - len(after)) == expected
    coded = before + huffman(value) + after
    found = values.timeout_coded(coded, len(before), len(coded) - len(after))
    if found != -1.0:
        assert found == expected == Field(b"grpc-timeout", value).timeout
    elif expected >= 0:
        assert len(huffman(value)) > 7, value  # the rare one that is left to others


@given(st.binary(max_size=8))
def test_a_timeout_of_any_octets_is_never_wrong(octets: bytes) -> None:
    found = values.timeout_coded(octets, 0, len(octets))
    if found != -1.0:
        assert found == grpc_timeout(full.decode(octets, 0, len(octets)))


# --- sizes of values in place: exact, also of those `printable` is not sure of -----------------------------


@given(st.one_of(st.binary(max_size=40), st.text(" \tab0~", max_size=12).map(str.encode)), AROUND, AROUND)
def test_the_size_of_a_value_in_place(value: bytes, before: bytes, after: bytes) -> None:
    expected = len(value) if not value_fault(value) else BAD_VALUE
    at = len(before)
    assert value_size(before + value + after, at, at + len(value)) == expected
    coded = huffman(value)
    assert full.value_size(before + coded + after, at, at + len(coded)) == expected


@given(st.binary(min_size=1, max_size=12))
def test_what_does_not_decode_has_no_size(coded: bytes) -> None:
    try:
        value = full.decode(coded, 0, len(coded))
    except full.HuffmanError:
        with pytest.raises(full.HuffmanError):
            full.value_size(coded, 0, len(coded))
    else:
        expected = len(value) if not value_fault(value) else BAD_VALUE
        assert full.value_size(coded, 0, len(coded)) == expected
