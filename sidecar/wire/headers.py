"""From a peer's header blocks to blocks that carry no state, whatever the peer does.

We announce SETTINGS_HEADER_TABLE_SIZE = 0. A peer that honours it says so with a size update of 0
(0x20) ahead of a block (RFC 7541 section 4.2); from then on its blocks mean the same on any connection
and are forwarded as they came. Until then, and for ever with a peer that never complies, a decoder
follows the peer's table, and a block that uses the table is written again without it. The peer's ACK of
our SETTINGS proves nothing: the decision is made block by block, from its bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, final

from hpack import Decoder, HeaderTuple, HPACKError
from hpack.exceptions import OversizedHeaderListError
from mypy_extensions import i64

from sidecar.wire import fields
from sidecar.wire.blocks import Block, BlockMemo, CompressionError, DynamicReferenceError

# What a decoded list may come to: HPACK lets a few octets stand for kilobytes (the "HPACK bomb"). Metadata of
# 64 KiB fits with room for its names; beyond it the connection ends, for the decoder's state is then lost.
MAX_HEADER_LIST: Final = 131_072
DEFAULT_TABLE_SIZE: Final[i64] = 4096
MAX_SIZE_UPDATES: Final = 2  # RFC 7541 section 4.2: the smallest and the final size
SIZE_UPDATE_TO_ZERO: Final = b"\x20"

_INDEXED: Final = {
    (name, value): bytes([0x80 | (at + 1)])
    for at, (name, value) in reversed(list(enumerate((f.name, f.value) for f in fields.STATIC)))
}


class HeaderListTooLargeError(Exception):
    """The decoded header list exceeds MAX_HEADER_LIST: the connection ends with ENHANCE_YOUR_CALM."""


@final
class HeaderReader:
    """One for each connection: the receiving half of HPACK."""

    def __init__(self, memo: BlockMemo) -> None:
        self._memo = memo
        self._decoder: Decoder | None = None
        self.stateless: bool = False
        self.acknowledged: bool = False  # the peer has acknowledged our table size of 0

    def read(self, wire_block: bytes) -> Block:
        """The block without state. Raises CompressionError or HeaderListTooLargeError."""
        raw = wire_block
        first: i64 = raw[0] if raw else 0
        if 0x20 <= first < 0x40:
            raw = self._take_size_updates(raw)
        if self.stateless:
            block = self._memo.read(raw)
        else:
            block = self._read_with_decoder(raw)
        if block.list_size > MAX_HEADER_LIST:
            raise HeaderListTooLargeError
        return block

    def _take_size_updates(self, raw: bytes) -> bytes:
        """Apply and strip the updates in front of a block."""
        for _ in range(MAX_SIZE_UPDATES):
            first: i64 = raw[0] if raw else 0
            if not 0x20 <= first < 0x40:
                return raw
            length = 1 if first < 0x3F else _update_length(raw)
            update = raw[:length]
            raw = raw[length:]
            if first == 0x20:
                # An empty table on both sides: the decoder has nothing more to know.
                self.stateless = True
                self._decoder = None
                continue
            if self.acknowledged:
                raise CompressionError("a table larger than the 0 that was agreed")
            # Legal until the peer has seen our SETTINGS; the table is empty, or followed by the decoder.
            empty = self.stateless
            self.stateless = False
            decoder = self._decode_state()
            if empty:
                decoder.header_table_size = 0
            self._decode(decoder, update)
        first = raw[0] if raw else 0
        if 0x20 <= first < 0x40:
            raise CompressionError("more than two table size updates")
        return raw

    def _read_with_decoder(self, raw: bytes) -> Block:
        try:
            block = self._memo.read(raw)
        except DynamicReferenceError:
            return self._rewrite(raw)
        return self._rewrite(raw) if block.inserts else block

    def _rewrite(self, raw: bytes) -> Block:
        return self._memo.read(encode(self._decode(self._decode_state(), raw)))

    def _decode_state(self) -> Decoder:
        if self._decoder is None:
            self._decoder = Decoder(max_header_list_size=MAX_HEADER_LIST)
        return self._decoder

    def _decode(self, decoder: Decoder, raw: bytes) -> Iterable[HeaderTuple]:
        try:
            return decoder.decode(raw, raw=True)
        except OversizedHeaderListError:
            raise HeaderListTooLargeError from None
        except (HPACKError, ValueError, IndexError) as error:
            raise CompressionError(str(error) or "malformed header block") from None


def _update_length(raw: bytes) -> int:
    """Octets of a size update whose value does not fit its first one."""
    for at in range(1, min(len(raw), 6)):
        if raw[at] < 0x80:
            return at + 1
    raise CompressionError("malformed table size update")


def encode(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A block without state: static entries where one fits whole, literals never indexed dynamically otherwise.

    A HeaderTuple that says so stays "never indexed" (RFC 7541 section 7.1.3).
    """
    parts: list[bytes] = []
    for header in headers:
        name, value = header[0], header[1]
        indexed = _INDEXED.get((name, value))
        if indexed is not None:
            parts.append(indexed)
            continue
        sensitive = isinstance(header, HeaderTuple) and not header.indexable
        parts.append(b"\x10" if sensitive else b"\x00")
        parts.append(_literal(name))
        parts.append(_literal(value))
    return b"".join(parts)


def _literal(text: bytes) -> bytes:
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
