"""The dynamic table of a peer that still has one, and its blocks written again without it.

Nothing is decoded and encoded: an entry is kept as the octets of a literal that no table takes in, and a
reference to it is replaced by them. What the octets say is for `blocks` to judge, as of any other block.
"""

from __future__ import annotations

from typing import Final, final

from mypy_extensions import i64

from sidecar.wire import fields, primitives
from sidecar.wire.primitives import NEVER_INDEXED, CompressionError

# The default of SETTINGS_HEADER_TABLE_SIZE (RFC 9113 section 6.5.2): what a peer may use until it has seen ours.
MAX_TABLE_SIZE: Final[i64] = 4096
# What a list may come to, as SETTINGS_MAX_HEADER_LIST_SIZE counts: HPACK lets a few octets stand for kilobytes (the
# "HPACK bomb"). Metadata of 64 KiB fits with room for its names; beyond it the connection ends.
MAX_HEADER_LIST: Final[i64] = 131_072

_PLAIN_NAME: Final = b"\x00"  # a literal without indexing whose name follows (section 6.2.2)


def _name_part(index: i64) -> bytes:
    """A literal without indexing whose name is that of a static entry, up to its value."""
    return bytes([index]) if index < 0x0F else bytes([0x0F, index - 0x0F])


_STATIC_PARTS: Final = [_name_part(index) for index in range(1, int(fields.STATIC_SIZE) + 1)]


class HeaderListTooLargeError(Exception):
    """The header list exceeds MAX_HEADER_LIST: the connection ends with ENHANCE_YOUR_CALM."""


@final
class _Entry:
    def __init__(self, name: bytes, name_size: i64, value: bytes, value_size: i64) -> None:
        self.name: Final = name  # a literal without indexing, up to its value
        self.name_size: Final[i64] = name_size  # decoded
        self.value: Final = value  # a string literal as it came
        self.size: i64 = name_size + value_size + fields.ENTRY_OVERHEAD


@final
class DynamicTable:
    """The table as the peer's encoder has it (RFC 7541 section 2.3.2)."""

    def __init__(self, limit: i64) -> None:
        self._entries: list[_Entry] = []  # the newest last; at most MAX_TABLE_SIZE / ENTRY_OVERHEAD
        self._limit: i64 = limit
        self.size: i64 = 0

    def resize(self, limit: i64) -> None:
        """A size update (section 4.3); at most MAX_TABLE_SIZE."""
        self._limit = limit
        self._make_room(0)

    def _make_room(self, size: i64) -> None:
        while self._entries and self.size + size > self._limit:
            self.size -= self._entries[0].size
            del self._entries[0]

    def _add(self, entry: _Entry) -> None:
        """An entry larger than the table empties it, which is no error (section 4.4)."""
        self._make_room(entry.size)
        if entry.size <= self._limit:
            self._entries.append(entry)
            self.size += entry.size

    def _entry(self, index: i64) -> _Entry:
        """By its index in the common address space (section 2.3.3)."""
        at: i64 = i64(len(self._entries)) - (index - fields.STATIC_SIZE)
        if index == 0 or at < 0:
            raise CompressionError(f"index {index} into a table of {len(self._entries)} entries")
        return self._entries[at]

    def write_without(self, raw: bytes) -> bytes:
        """The block with every use of the table replaced by a literal: `raw` itself if there is none.

        The table follows. Raises CompressionError or HeaderListTooLargeError, and then is of no more use.
        """
        parts: list[bytes] = []
        written: i64 = 0
        copied: i64 = 0  # up to here `raw` is in `parts`
        end: i64 = len(raw)
        at: i64 = 0
        while at < end:
            start = at
            first: i64 = raw[at]
            if first >= 0x80:
                mask: i64 = 0x7F
            elif first >= 0x40:
                mask = 0x3F
            elif first >= 0x20:
                raise CompressionError("a table size update after a field")
            else:
                mask = 0x0F
            index = first & mask
            at += 1
            if index == mask:
                index = primitives.integer(raw, at, end, mask)
                at = primitives.integer_end(raw, at, end)
            if mask == 0x7F:
                if 0 < index <= fields.STATIC_SIZE:
                    continue
                entry = self._entry(index)
            else:
                name_at = at
                if index == 0:
                    at = primitives.string_end(raw, at, end)
                value_at = at
                at = primitives.string_end(raw, at, end)
                if mask == 0x0F and index <= fields.STATIC_SIZE:
                    continue  # stands as it came
                entry = self._literal(raw, index, name_at, value_at, at)
                if mask == 0x3F:
                    self._add(entry)
            if start > copied:
                parts.append(raw[copied:start])
            copied = at
            never: i64 = first & NEVER_INDEXED if mask == 0x0F else 0
            parts.append(_never_indexed(entry.name) if never else entry.name)
            parts.append(entry.value)
            written += i64(len(entry.name)) + i64(len(entry.value))
            if written > MAX_HEADER_LIST:
                raise HeaderListTooLargeError
        if copied == 0:
            return raw
        if copied < end:
            parts.append(raw[copied:])
        return b"".join(parts)

    def _literal(self, raw: bytes, index: i64, name_at: i64, value_at: i64, end: i64) -> _Entry:
        """The literal whose name is at `index` (0: the string at `name_at`), its value at `value_at`."""
        if index == 0:
            name = _PLAIN_NAME + raw[name_at:value_at]
            name_size = primitives.string_size(raw, name_at, value_at)
        elif index <= fields.STATIC_SIZE:
            name = _STATIC_PARTS[index - 1]
            name_size = i64(len(fields.STATIC_NAMES[index - 1]))
        else:
            known = self._entry(index)
            name = known.name
            name_size = known.name_size
        return _Entry(name, name_size, raw[value_at:end], primitives.string_size(raw, value_at, end))


def _never_indexed(name: bytes) -> bytes:
    return bytes([name[0] | NEVER_INDEXED]) + name[1:]
