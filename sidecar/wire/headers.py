"""From a peer's header blocks to blocks that carry no state, whatever the peer does.

We announce SETTINGS_HEADER_TABLE_SIZE = 0. A peer that honours it says so with a size update of 0
(0x20) ahead of a block (RFC 7541 section 4.2); from then on its blocks mean the same on any connection
and are forwarded as they came. Until then, and for ever with a peer that never complies, the peer's table
is followed, and a block that uses it is written again without it. The peer's ACK of our SETTINGS proves
nothing: the decision is made block by block, from its bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, final

from mypy_extensions import i64

from sidecar.wire import fields, primitives
from sidecar.wire.blocks import Block
from sidecar.wire.memo import BlockMemo
from sidecar.wire.primitives import CompressionError
from sidecar.wire.shapes import Shape
from sidecar.wire.table import MAX_TABLE_SIZE, DynamicTable

MAX_SIZE_UPDATES: Final = 2  # RFC 7541 section 4.2: the smallest and the final size
SIZE_UPDATE_TO_ZERO: Final = b"\x20"

_INDEXED: Final = {
    (name, value): bytes([0x80 | (at + 1)])
    for at, (name, value) in reversed(list(enumerate((f.name, f.value) for f in fields.STATIC)))
}


@final
class HeaderReader:
    """One for each connection: the receiving half of HPACK."""

    def __init__(self, memo: BlockMemo) -> None:
        self._memo = memo
        self._table: DynamicTable | None = DynamicTable(MAX_TABLE_SIZE)  # None: empty for good
        # The last two blocks, while stateless: a peer that repeats itself has the same one again, or two in turn
        # (a response's headers and its trailers), and comparing is cheaper than hashing.
        self._last: Block | None = None
        self._before: Block | None = None
        self._shape: Shape | None = None  # of the last block that had one: the next will often have it too
        self.acknowledged: bool = False  # the peer has acknowledged our table size of 0

    @property
    def stateless(self) -> bool:
        """Whether the peer has emptied its table, so that its blocks stand for themselves."""
        return self._table is None

    def read(self, wire_block: bytes) -> Block:
        """The block without state. Raises CompressionError or HeaderListTooLargeError."""
        last = self._last
        if last is not None and last.raw == wire_block:
            self._memo.hits += 1
            return last
        before = self._before
        if before is not None and before.raw == wire_block:
            self._before = last
            self._last = before
            self._memo.hits += 1
            return before
        raw = wire_block
        first: i64 = raw[0] if raw else 0
        if 0x20 <= first < 0x40:
            raw = self._take_size_updates(raw)
        table = self._table
        shape = self._shape
        if shape is not None and (table is None or not shape.inserts):
            known = self._memo.find_like(raw, shape)
            if known is not None:
                return known
        known = self._memo.find(raw)
        if known is None or (known.inserts and table is not None):
            known = self._learn(raw)
        if known.shape is not None:
            self._shape = known.shape
        elif table is None and raw is wire_block:
            self._before = last
            self._last = known
        return known

    def _learn(self, raw: bytes) -> Block:
        """A block that is not known, or that the table must follow."""
        table = self._table
        if table is None:
            return self._memo.learn(raw)
        plain = table.write_without(raw)
        return self._memo.learn(raw) if plain is raw else self._memo.read(plain)

    def _take_size_updates(self, raw: bytes) -> bytes:
        """Apply and strip the updates in front of a block."""
        self._last = None
        self._before = None
        end: i64 = len(raw)
        at: i64 = 0
        updates = 0
        while at < end:
            first: i64 = raw[at]
            if not 0x20 <= first < 0x40:
                break
            if updates == MAX_SIZE_UPDATES:
                raise CompressionError("more than two table size updates")
            updates += 1
            size = first & 0x1F
            at += 1
            if size == 0x1F:
                size = primitives.integer(raw, at, end, 0x1F)
                at = primitives.integer_end(raw, at, end)
            self._resize(size)
        return raw[at:]

    def _resize(self, size: i64) -> None:
        if size == 0:
            self._table = None
            return
        if size > MAX_TABLE_SIZE:
            raise CompressionError(f"a table of {size} octets; {MAX_TABLE_SIZE} is the most")
        if self.acknowledged and size < fields.ENTRY_OVERHEAD:
            # 0 was agreed. A peer that keeps a table all the same is put up with (docs/adr/0004), as long as it
            # is one: this has no room for any entry.
            raise CompressionError(f"a table of {size} octets where 0 was agreed")
        if self._table is None:
            self._table = DynamicTable(size)
        else:
            self._table.resize(size)


def encode(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A block without state: static entries where one fits whole, literals never indexed dynamically otherwise."""
    parts: list[bytes] = []
    for name, value in headers:
        indexed = _INDEXED.get((name, value))
        if indexed is not None:
            parts.append(indexed)
            continue
        parts.append(b"\x00")
        parts.append(primitives.literal(name))
        parts.append(primitives.literal(value))
    return b"".join(parts)
