"""Huffman strings against the `hpack` library, which shares the table but not the code."""

from __future__ import annotations

import random

import pytest
from hpack import HPACKError
from hpack.huffman_table import decode_huffman
from hpackwriter import huffman
from hypothesis import given
from hypothesis import strategies as st

from sidecar.wire.huffman import HuffmanError, decode


@given(st.binary(max_size=100), st.binary(max_size=5), st.binary(max_size=5))
def test_what_was_coded_comes_back(text: bytes, before: bytes, after: bytes) -> None:
    block = before + huffman(text) + after
    assert decode(block, len(before), len(block) - len(after)) == text


def test_every_octet_comes_back() -> None:
    for octet in range(256):
        text = bytes([octet])
        assert decode(huffman(text), 0, len(huffman(text))) == text
        assert decode(huffman(text * 9), 0, len(huffman(text * 9))) == text * 9


def agree(octets: bytes) -> None:
    try:
        expected = bytes(decode_huffman(octets)) if octets else b""
    except HPACKError:
        with pytest.raises(HuffmanError):
            decode(octets, 0, len(octets))
    else:
        assert decode(octets, 0, len(octets)) == expected


@given(st.binary(max_size=30))
def test_any_octets_are_read_alike(octets: bytes) -> None:
    agree(octets)


def test_all_strings_of_two_octets_are_read_alike() -> None:
    for value in range(65536):
        agree(value.to_bytes(2, "big"))


def test_one_bit_wrong_is_read_alike() -> None:
    rng = random.Random(7)
    for _ in range(3000):
        octets = bytearray(huffman(bytes(rng.choices(range(256), k=rng.randrange(1, 12)))))
        octets[rng.randrange(len(octets))] ^= 1 << rng.randrange(8)
        agree(bytes(octets))


@pytest.mark.parametrize(
    "octets", [b"\xff", b"\xff\xff", b"\x1f\xff", b"\x18", b"\xff\xff\xff\xff", b"\xff\xff\xff\xfc"]
)
def test_padding_that_is_none(octets: bytes) -> None:
    """RFC 7541 section 5.2: more than 7 bits, other than ones, or a whole EOS."""
    with pytest.raises(HuffmanError):
        decode(octets, 0, len(octets))
