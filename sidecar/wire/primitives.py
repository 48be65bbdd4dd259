"""HPACK's integers and strings in place (RFC 7541 section 5): where they end, what they say."""

from __future__ import annotations

from typing import Final

from mypy_extensions import i64

from sidecar.wire import fields, huffman

# An integer of more octets than this exceeds any length that fits a block (section 5.1).
_MAX_INTEGER_SHIFT: Final[i64] = 28
HUFFMAN: Final[i64] = 0x80  # of a string's first octet
NEVER_INDEXED: Final[i64] = 0x10  # of a literal's first octet, section 6.2.3


class CompressionError(Exception):
    """The block cannot be read: a connection error COMPRESSION_ERROR (RFC 9113 section 4.3)."""


def integer(raw: bytes, at: i64, end: i64, prefix: i64) -> i64:
    """The value of a multi-octet integer whose continuation starts at `at` (section 5.1).

    One with more octets than its value needs is refused: some decoders refuse it too (.NET's does), and passed
    on it would cost a backend's connection, which other streams share.
    """
    value = prefix
    shift: i64 = 0
    while at < end:
        octet: i64 = raw[at]
        at += 1
        value += (octet & 0x7F) << shift
        if octet < 0x80:
            if octet == 0 and shift > 0:
                raise CompressionError("an integer of more octets than it needs")
            return value
        shift += 7
        if shift > _MAX_INTEGER_SHIFT:
            raise CompressionError("an integer too large")
    raise CompressionError("the block ends inside an integer")


def integer_end(raw: bytes, at: i64, end: i64) -> i64:
    """Where the integer whose continuation starts at `at` ends."""
    while at < end:
        octet: i64 = raw[at]
        at += 1
        if octet < 0x80:
            return at
    raise CompressionError("the block ends inside an integer")


def literal(text: bytes) -> bytes:
    """A string literal that says `text`, as it is (section 5.2)."""
    length = len(text)
    if length < 0x7F:
        return bytes([length]) + text
    octets = [0x7F]
    length -= 0x7F
    while length >= 0x80:
        octets.append((length & 0x7F) | 0x80)
        length >>= 7
    octets.append(length)
    return bytes(octets) + text


def string_end(raw: bytes, at: i64, end: i64) -> i64:
    """Where the string literal at `at` ends (section 5.2)."""
    if at >= end:
        raise CompressionError("the block ends before a string")
    first: i64 = raw[at]
    length = first & 0x7F
    at += 1
    if length == 0x7F:
        length = integer(raw, at, end, 0x7F)
        at = integer_end(raw, at, end)
    if length > end - at:
        raise CompressionError("a string longer than its block")
    return at + length


def string_start(raw: bytes, at: i64, end: i64) -> i64:
    """Where the octets of the string literal `raw[at:end]` begin."""
    first: i64 = raw[at]
    return integer_end(raw, at + 1, end) if first & 0x7F == 0x7F else at + 1


def string(raw: bytes, at: i64, end: i64) -> bytes:
    """What the string literal `raw[at:end]` says."""
    first: i64 = raw[at]
    start = string_start(raw, at, end)
    if first < HUFFMAN:
        return raw[start:end]
    try:
        return huffman.decode(raw, start, end)
    except huffman.HuffmanError:
        raise CompressionError("a malformed Huffman string") from None


def string_size(raw: bytes, at: i64, end: i64) -> i64:
    """How many octets the string literal `raw[at:end]` says."""
    first: i64 = raw[at]
    if first < HUFFMAN:
        return end - string_start(raw, at, end)
    return i64(len(string(raw, at, end)))


def value_size(raw: bytes, at: i64, end: i64) -> i64:
    """The same, if it may be a field's value; else fields.BAD_VALUE."""
    first: i64 = raw[at]
    start = string_start(raw, at, end)
    if first < HUFFMAN:
        return fields.value_size(raw, start, end)
    try:
        return huffman.value_size(raw, start, end)
    except huffman.HuffmanError:
        raise CompressionError("a malformed Huffman string") from None
