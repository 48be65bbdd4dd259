"""An HPACK encoder that may choose: every representation RFC 7541 offers, with a table of its own.

`choose(n)` picks one of n ways (0 the plainest), from a seeded generator or from hypothesis, which then shrinks
towards the plainest block that fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import hpack
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.table import HeaderTable
from rawhttp2 import integer

STATIC: Final = HeaderTable.STATIC_TABLE
STATIC_SIZE: Final = 61
ENTRY_OVERHEAD: Final = 32
DEFAULT_TABLE: Final = 4096
# The first octet of a literal and the bits its name's index has (RFC 7541 section 6.2).
INDEXING: Final = (0x40, 6)
WITHOUT: Final = (0x00, 4)
NEVER: Final = (0x10, 4)

_HUFFMAN: Final = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)
Choose = Callable[[int], int]


class Header(NamedTuple):
    name: bytes
    value: bytes
    never: bool = False  # never indexed, section 6.2.3


def huffman(text: bytes) -> bytes:
    """The octets only, without length."""
    return _HUFFMAN.encode(text)


def string(text: bytes, coded: bool = False) -> bytes:
    if coded:
        octets = huffman(text)
        return integer(len(octets), 7, 0x80) + octets
    return integer(len(text), 7) + text


def size_update(size: int) -> bytes:
    return integer(size, 5, 0x20)


def indexed(index: int) -> bytes:
    return integer(index, 7, 0x80)


def literal(
    name: bytes | int,
    value: bytes,
    form: tuple[int, int] = WITHOUT,
    coded_name: bool = False,
    coded: bool = False,
) -> bytes:
    """A literal whose name is an index or a string."""
    high, bits = form
    if isinstance(name, int):
        return integer(name, bits, high) + string(value, coded)
    return bytes([high]) + string(name, coded_name) + string(value, coded)


def static_index(name: bytes, value: bytes | None = None) -> int:
    """The first entry with this name (and value); 0 if there is none."""
    for at, (known, known_value) in enumerate(STATIC):
        if known == name and (value is None or known_value == value):
            return at + 1
    return 0


class Writer:
    """The encoding half of a connection. Everything it writes is legal while its table stays within `limit`."""

    def __init__(self, limit: int = DEFAULT_TABLE, table: int | None = None) -> None:
        self.limit = limit
        self.table: list[tuple[bytes, bytes]] = []  # the newest first
        self.most = limit if table is None else table

    def size(self) -> int:
        return sum(len(name) + len(value) + ENTRY_OVERHEAD for name, value in self.table)

    def resize(self, most: int) -> bytes:
        self.most = most
        self._evict(0)
        return size_update(most)

    def _evict(self, room: int) -> None:
        while self.table and self.size() + room > self.most:
            self.table.pop()

    def add(self, name: bytes, value: bytes) -> None:
        size = len(name) + len(value) + ENTRY_OVERHEAD
        self._evict(size)
        if size <= self.most:
            self.table.insert(0, (name, value))

    def indices(self, name: bytes, value: bytes | None = None) -> list[int]:
        """All entries of both tables with this name (and value)."""
        both = [*STATIC, *self.table]
        return [at + 1 for at, (n, v) in enumerate(both) if n == name and (value is None or v == value)]

    def block(self, headers: Sequence[Header], choose: Choose, updates: bool = True) -> bytes:
        """These headers, in the ways `choose` picks; size updates in front where it wants them."""
        out = b""
        if updates and choose(8) == 7:
            sizes = (0, self.limit, self.limit // 2, ENTRY_OVERHEAD + 1, 100)
            for _ in range(1 + choose(2)):
                out += self.resize(min(sizes[choose(len(sizes))], self.limit))
        for header in headers:
            out += self.field(header, choose)
        return out

    def field(self, header: Header, choose: Choose) -> bytes:
        name, value, never = header
        whole = [] if never else self.indices(name, value)
        if whole and choose(4):
            return indexed(whole[choose(len(whole))])
        form = NEVER if never else (WITHOUT, INDEXING, INDEXING)[choose(3)]
        named = self.indices(name)
        coded_name, coded = bool(choose(2)), bool(choose(2))
        if named and choose(4):
            out = literal(named[choose(len(named))], value, form, coded=coded)
        else:
            out = literal(name, value, form, coded_name, coded)
        if form == INDEXING:
            self.add(name, value)
        return out


class Reader:
    """The oracle: the `hpack` library, with a table of `limit`."""

    def __init__(self, limit: int = DEFAULT_TABLE, most: int = 1 << 20) -> None:
        self.decoder = hpack.Decoder(max_header_list_size=most)
        self.decoder.max_allowed_table_size = limit
        self.decoder.header_table_size = limit

    def read(self, block: bytes) -> list[Header]:
        """Raises hpack.HPACKError."""
        try:
            found = self.decoder.decode(block, raw=True)
        except IndexError as error:  # of a block that ends too soon; the library lets it through
            raise hpack.HPACKDecodingError(str(error)) from error
        return [Header(bytes(each[0]), bytes(each[1]), not each.indexable) for each in found]


def read_without_state(block: bytes, most: int = 1 << 20) -> list[Header]:
    """A block that needs no table and leaves none."""
    reader = Reader(0, most)
    found = reader.read(block)
    assert not reader.decoder.header_table.dynamic_entries
    return found
