"""Values that differ with every call, checked where they stand: no copy, no decoding, a few octets a step.

Each function answers for what is common and says "not sure" for the rest, which is then read in full. Being sure is a
promise: `printable` is never true of a value that `fields` would refuse.
"""

from __future__ import annotations

from typing import Final

from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from librt.strings import read_i32_be, read_i64_be
from mypy_extensions import i64

from sidecar.wire.fields import MAX_TIMEOUT_DIGITS, timeout_unit

_WINDOW: Final[i64] = 12  # bits looked at in a step: two symbols of most values, which are letters and digits
_SHORTEST: Final[i64] = 5  # bits of a symbol
_BITS: Final[i64] = 0x0F  # of an entry of the tables: how many bits of the window they take
_SPACE_CODE: Final[i64] = 0x14  # of six bits
_SPACE: Final[i64] = 0x10  # the last of them is a space, which may not end a value


def _tables() -> tuple[bytes, bytes, bytes]:
    """By window: one symbol, and up to two, if they are printable ASCII; 0 if the first is not, or is too long."""
    one = bytearray(1 << int(_WINDOW))
    symbol = bytearray(1 << int(_WINDOW))
    for octet in range(0x20, 0x7F):
        length = REQUEST_CODES_LENGTH[octet]
        if length <= _WINDOW:
            first = REQUEST_CODES[octet] << (_WINDOW - length)
            for window in range(first, first + (1 << (_WINDOW - length))):
                one[window] = length | (_SPACE if octet == 0x20 else 0)
                symbol[window] = octet
    two = bytearray(one)
    for window in range(1 << int(_WINDOW)):
        took = one[window] & _BITS
        following = one[window << took & 0xFFF] if took else 0
        if following and took + (following & _BITS) <= _WINDOW:
            two[window] = took + following
    return bytes(one), bytes(two), bytes(symbol)


_TABLES: Final = _tables()
_ONE: Final[bytes] = _TABLES[0]
_TWO: Final[bytes] = _TABLES[1]
_SYMBOL: Final[bytes] = _TABLES[2]


def printable(block: bytes, start: i64, end: i64) -> bool:
    """Whether `block[start:end]` is printable ASCII that does not start or end with a space. Four octets a step."""
    at = start
    if at == end:
        return True
    if block[start] == 0x20 or block[end - 1] == 0x20:
        return False
    while at + 4 <= end:
        word: i64 = i64(read_i32_be(block, at))
        # Below 0x80, so that the sums do not carry; at least 0x20; and one more does not make 0x80.
        if (word | (word + 0x01010101)) & 0x80808080 != 0 or (word + 0x60606060) & 0x80808080 != 0x80808080:
            return False
        at += 4
    while at < end:
        octet: i64 = block[at]
        if not 0x20 <= octet < 0x7F:
            return False
        at += 1
    return True


def printable_coded(block: bytes, start: i64, end: i64) -> bool:
    """The same of a Huffman string, whose padding is right too. Two symbols a step."""
    one: bytes = _ONE
    two: bytes = _TWO
    at = start
    bit: i64 = 0  # of the octet at `at`
    if at == end:
        return True
    took: i64 = block[at]
    if took >> 2 == _SPACE_CODE:
        return False
    took = 0
    while end - at >= 8:
        word: i64 = read_i64_be(block, at)
        while bit <= 52:
            took = two[(word >> (52 - bit)) & 0xFFF]
            if took == 0:
                return False
            bit += took & _BITS
        at += bit >> 3
        bit &= 7
    # At most seven octets are left.
    left: i64 = (end - at) * 8 - bit
    word = 0
    while at < end:
        word = (word << 8) | i64(block[at])
        at += 1
    while left >= _WINDOW:
        took = two[(word >> (left - _WINDOW)) & 0xFFF]
        if took == 0:
            return False
        left -= took & _BITS
    while left >= _SHORTEST:
        entry: i64 = one[_last_window(word, left)]
        if entry == 0 or entry & _BITS > left:
            break
        took = entry
        left -= took & _BITS
    return _is_padding(word, left) and took & _SPACE == 0


def _last_window(word: i64, left: i64) -> i64:
    """The last `left` bits of `word`, fewer than a window, and ones as the padding is."""
    missing = _WINDOW - left
    return ((word << missing) | ((1 << missing) - 1)) & 0xFFF


def _is_padding(word: i64, left: i64) -> bool:
    """Whether these last bits may follow the last symbol (RFC 7541 section 5.2)."""
    ones: i64 = (1 << left) - 1
    return left < 8 and word & ones == ones


def timeout_coded(block: bytes, start: i64, end: i64) -> float:
    """Seconds of the grpc-timeout that the Huffman string `block[start:end]` is, or -1.0 if not sure.

    At most eight digits of six bits and a unit of seven: all but the longest fit 56 bits.
    """
    symbols: bytes = _SYMBOL
    one: bytes = _ONE
    if end - start > 7:
        return -1.0
    word: i64 = 0
    at = start
    while at < end:
        word = (word << 8) | i64(block[at])
        at += 1
    left: i64 = (end - start) * 8
    number: i64 = 0
    digits: i64 = 0
    while left >= _SHORTEST and digits <= MAX_TIMEOUT_DIGITS:
        window = (word >> (left - _WINDOW)) & 0xFFF if left >= _WINDOW else _last_window(word, left)
        took: i64 = i64(one[window]) & _BITS
        symbol: i64 = symbols[window]
        if took == 0 or took > left:
            return -1.0
        left -= took
        if 0x30 <= symbol <= 0x39:
            number = number * 10 + (symbol - 0x30)
            digits += 1
            continue
        unit = timeout_unit(symbol)
        sure = digits > 0 and unit > 0.0 and _is_padding(word, left)
        return float(number) * unit if sure else -1.0
    return -1.0
