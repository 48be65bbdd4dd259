"""Header blocks: one connection's, each as our reader and as the `hpack` library have them.

Input: a mode, then blocks. A block is octets as they are, or one of the random encoder's, as it is or damaged.
"""

from __future__ import annotations

from typing import Final

import hpack
import hpackcases as cases
from fuzzinput import Input
from hpackwriter import Header, Reader, Writer

from sidecar.wire.headers import HeaderReader
from sidecar.wire.memo import BlockMemo
from sidecar.wire.table import MAX_HEADER_LIST

# One memo for all inputs, as for all connections of a process: what one left in it must not mislead another.
MEMO: Final = BlockMemo()
MOST_BLOCKS: Final = 24
# A peer that agreed to a table of 0 is held to it; the library is not told of that.
OURS_ALONE: Final = (*cases.OURS_ALONE, "where 0 was agreed")


def next_block(given: Input, writer: Writer) -> bytes:
    way = given.choose(4)
    if way == 0:
        return given.take(200)
    block = writer.block(cases.some_headers(given.choose), given.choose)
    if way == 3:
        octets = bytearray(block)
        at = given.choose(len(octets) + 1)
        octets[at : at + given.choose(3)] = given.take(3)
        block = bytes(octets)
    return block


def read_by_library(library: Reader, raw: bytes) -> list[Header] | None:
    try:
        return library.read(raw)
    except hpack.HPACKError:
        return None


def one(octets: bytes) -> None:
    given = Input(octets)
    ours, library, writer = HeaderReader(MEMO), Reader(most=MAX_HEADER_LIST), Writer()
    ours.acknowledged = bool(given.choose(2))
    for _ in range(MOST_BLOCKS):
        if not given.left:
            return
        raw = next_block(given, writer)
        block, why = cases.read(ours, raw)
        expected = read_by_library(library, raw)
        if expected is None:
            assert why, f"ours takes {raw.hex()}, which the library refuses"
            return
        if block is None:
            assert any(each in why for each in OURS_ALONE), (
                f"ours refuses {raw.hex()}: {why}; read {expected}"
            )
            return
        cases.agree(block, expected)
