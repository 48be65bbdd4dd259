"""Header blocks: one connection's, each as our reader and as the `hpack` library have them.

Input: a mode, then blocks. A block is octets as they are, or one of the random encoder's, as it is or damaged.
"""

from __future__ import annotations

from typing import Final

import hpack
import hpackcases as cases
from fuzzinput import Input
from hpackwriter import Header, Reader, Writer, read_without_state

from sidecar.wire.blocks import Block
from sidecar.wire.headers import HeaderReader
from sidecar.wire.memo import BlockMemo
from sidecar.wire.primitives import CompressionError
from sidecar.wire.table import MAX_HEADER_LIST, HeaderListTooLargeError

# One memo for all inputs, as for all connections of a process: what one left in it must not mislead another.
MEMO: Final = BlockMemo()
MOST_BLOCKS: Final = 24
# Where ours is stricter than the library, it says one of these.
STRICTER: Final = (
    "an integer of more octets than it needs",
    "more than two table size updates",
    "where 0 was agreed",
)


def judge(block: Block, expected: list[Header]) -> None:
    """The block says what the library read, needs no table, and is judged as the RFCs would."""
    assert read_without_state(block.raw, 2 * MAX_HEADER_LIST) == expected
    assert (block.request_fault() == "") == cases.request_is_legal(expected), (
        block.request_fault(),
        expected,
    )
    assert (block.response_fault() == "") == cases.response_is_legal(expected), (
        block.response_fault(),
        expected,
    )
    assert (block.trailers_fault() == "") == cases.trailers_are_legal(expected), (
        block.trailers_fault(),
        expected,
    )
    assert block.path == {name: value for name, value, _ in expected}.get(b":path", b"")


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


def read(reader: HeaderReader, raw: bytes) -> tuple[Block | None, str]:
    """What it says, or why it is refused."""
    try:
        return reader.read(raw), ""
    except CompressionError as error:
        return None, str(error) or "refused"
    except HeaderListTooLargeError:
        return None, "the list is too large"


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
        block, why = read(ours, raw)
        expected = read_by_library(library, raw)
        if expected is None:
            assert why, f"ours takes {raw.hex()}, which the library refuses"
            return
        if block is None:
            assert any(each in why for each in STRICTER), f"ours refuses {raw.hex()}: {why}; read {expected}"
            return
        judge(block, expected)
