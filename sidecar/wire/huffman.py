"""Huffman strings of RFC 7541 section 5.2, four bits a step.

The states come from the `hpack` library's table (nghttp2's); here they stand in flat byte strings,
which compiled code reads without boxing.
"""

from __future__ import annotations

from typing import Final

from hpack.huffman_table import (
    HUFFMAN_COMPLETE,
    HUFFMAN_EMIT_SYMBOL,
    HUFFMAN_FAIL,
    HUFFMAN_TABLE,
)
from librt.strings import BytesWriter
from mypy_extensions import i64

_EMIT: Final[i64] = 1
_FAIL: Final[i64] = 2
_COMPLETE: Final[i64] = 4
_ILLEGAL: Final[i64] = 8  # the symbol may stand nowhere in a field's value (RFC 9110 section 5.5)
_SPACE: Final[i64] = 16  # nor this one at its ends


def _flags(value: int, symbol: int) -> int:
    flags = (_FAIL if value & HUFFMAN_FAIL else 0) | (_COMPLETE if value & HUFFMAN_COMPLETE else 0)
    if value & HUFFMAN_EMIT_SYMBOL:
        flags |= _EMIT
        if symbol in (0x20, 0x09):
            flags |= _SPACE
        elif symbol < 0x20 or symbol == 0x7F:
            flags |= _ILLEGAL
    return int(flags)


# Indexed by state * 16 + nibble.
_NEXT: Final = bytes([row[0] for row in HUFFMAN_TABLE])
_FLAGS: Final = bytes([_flags(row[1], row[2]) for row in HUFFMAN_TABLE])
_SYMBOL: Final = bytes([row[2] for row in HUFFMAN_TABLE])


class HuffmanError(Exception):
    """The string holds EOS or ends in wrong padding: a COMPRESSION_ERROR."""


def decode(block: bytes, start: i64, end: i64) -> bytes:
    """The octets that `block[start:end]` stands for. Raises HuffmanError."""
    out = BytesWriter()
    next_state: bytes = _NEXT
    flags: bytes = _FLAGS
    symbols: bytes = _SYMBOL
    state: i64 = 0
    flag: i64 = _COMPLETE
    at: i64 = start
    while at < end:
        octet: i64 = block[at]
        at += 1
        row: i64 = (state << 4) | (octet >> 4)
        flag = flags[row]
        if flag & _FAIL:
            raise HuffmanError
        if flag & _EMIT:
            out.append(symbols[row])
        row = (next_state[row] << 4) | (octet & 0xF)
        flag = flags[row]
        if flag & _FAIL:
            raise HuffmanError
        if flag & _EMIT:
            out.append(symbols[row])
        state = next_state[row]
    if not flag & _COMPLETE:
        raise HuffmanError
    return out.getvalue()


def value_size(block: bytes, start: i64, end: i64) -> i64:
    """The length of the field value that `block[start:end]` stands for, without decoding it; -1 if it is one
    that `fields.value_size` refuses. Raises HuffmanError."""
    next_state: bytes = _NEXT
    flags: bytes = _FLAGS
    state: i64 = 0
    flag: i64 = _COMPLETE
    seen: i64 = 0  # of all flags together
    size: i64 = 0
    ends: i64 = 0  # white space at either end
    last: i64 = 0
    at: i64 = start
    while at < end:
        octet: i64 = block[at]
        at += 1
        row: i64 = (state << 4) | (octet >> 4)
        flag = flags[row]
        seen |= flag
        if flag & _EMIT:
            if size == 0:
                ends = flag
            size += 1
            last = flag
        row = (next_state[row] << 4) | (octet & 0xF)
        flag = flags[row]
        seen |= flag
        if flag & _EMIT:
            if size == 0:
                ends = flag
            size += 1
            last = flag
        if seen & _FAIL:
            raise HuffmanError
        state = next_state[row]
    if not flag & _COMPLETE:
        raise HuffmanError
    return -1 if seen & _ILLEGAL or (ends | last) & _SPACE else size
