"""Random header sequences in every encoding HPACK allows, through our path and through `hpack`: the same arrives.

Sequences run through readers that share one memo, as connections of one process do. Half the blocks are also
damaged: then both must refuse, or read the same.
"""

from __future__ import annotations

import random
from typing import Final

import hpack
import hpackcases as cases
import pytest
from hpackwriter import NEVER, WITHOUT, Choose, Reader, Writer, literal, size_update, static_index
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.wire.headers import HeaderReader
from sidecar.wire.memo import BlockMemo

SEEDS: Final = 100  # of sequences of 20 blocks; make fuzz runs many more


def run(choose: Choose, memo: BlockMemo, blocks: int) -> None:
    """One connection that complies with a size of 0 at some point, or never."""
    ours, library, writer = HeaderReader(memo), Reader(), Writer()
    complies_at = choose(2 * blocks)
    for at in range(blocks):
        block = b""
        if at == complies_at:
            block = writer.resize(0)
            writer.limit = 0
        block += writer.block(cases.some_headers(choose), choose, updates=at != complies_at)
        cases.agree(ours.read(block), library.read(block))
        assert ours.stateless == (writer.most == 0)


@pytest.mark.parametrize("seed", range(0, SEEDS, 10))
def test_what_arrives_is_what_was_sent(seed: int) -> None:
    memo = BlockMemo()
    for each in range(seed, seed + 10):
        run(cases.seeded(each), memo, 20)


MEMO = BlockMemo()


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_what_arrives_is_what_was_sent_as_hypothesis_chooses(data: st.DataObject) -> None:
    run(lambda n: data.draw(st.integers(0, n - 1)), MEMO, 4)


def damaged(block: bytes, rng: random.Random) -> bytes:
    octets = bytearray(block)
    for _ in range(rng.randrange(1, 4)):
        way = rng.randrange(5)
        at = rng.randrange(len(octets) + 1)
        if way == 0:
            octets[at:at] = rng.choice(
                [b"\x20", b"\x3f\xe1\x1f", b"\x80", b"\xbe", b"\x7f", b"\x0f\x2f\x00", b"\xff\x00"]
            )
        elif way == 1:
            del octets[at:]
        elif octets:
            at = min(at, len(octets) - 1)
            if way == 2:
                del octets[at]
            elif way == 3:
                octets[at] ^= 1 << rng.randrange(8)
            else:
                octets[at] = rng.choice([0, 0x10, 0x1F, 0x20, 0x3F, 0x40, 0x7F, 0x80, 0xBE, 0xFF])
    return bytes(octets)


def compare_damaged(seed: int, memo: BlockMemo) -> str:
    """Some good blocks, then a damaged one. Returns why ours refused it, or nothing."""
    rng, choose = random.Random(seed), cases.seeded(seed)
    ours, library, writer = HeaderReader(memo), Reader(), Writer()
    if choose(2):
        ours.read(size_update(0))
        library.read(size_update(0))
        writer = Writer(0)
    for _ in range(choose(4)):
        good = writer.block(cases.some_headers(choose), choose)
        cases.agree(ours.read(good), library.read(good))
    bad = damaged(writer.block(cases.some_headers(choose), choose), rng)
    if not writer.limit:
        library.decoder.max_allowed_table_size = 4096  # that much we put up with, docs/adr/0004
    block, why = cases.read(ours, bad)
    try:
        expected = library.read(bad)
    except hpack.HPACKError:
        assert why, f"ours takes {bad.hex()}, which the library refuses"
        return why
    if block is None:
        assert why in cases.OURS_ALONE, f"ours refuses {bad.hex()}: {why}; the library reads {expected}"
        return why
    cases.agree(block, expected)
    return ""


@pytest.mark.parametrize("seed", range(0, 2000, 250))
def test_a_damaged_block_is_refused_by_both_or_read_alike(seed: int) -> None:
    memo = BlockMemo()
    reasons: dict[str, int] = {}
    for each in range(seed, seed + 250):
        why = compare_damaged(each, memo)
        reasons[why] = reasons.get(why, 0) + 1
    assert reasons[""] > 10, (
        "hardly any damaged block could still be read: the damage is too coarse to tell much"
    )
    assert len(reasons) > 4


# --- blocks of one shape -------------------------------------------------------------------------------

VARYING: Final = (
    b"grpc-timeout",
    b"x-request-id",
    b"traceparent",
    b"date",
    b"authorization",
    b"grpc-message",
    b"cookie",
)


def a_value(name: bytes, rng: random.Random) -> bytes:
    """Mostly as such values are; sometimes what may not stand there, or what is rare."""
    way = rng.randrange(20)
    if way == 0:
        return rng.choice(cases.ILLEGAL_VALUES)
    if way == 1:
        return rng.choice(
            [b"", b"x" * 200, b"\xc3\xbc", b"{json: 1}", b"a b", b"1H", b"S", b"123456789S", b"~", b"x\ty"]
        )
    if name == b"grpc-timeout":
        return b"%d%c" % (rng.randrange(1, 10 ** rng.randrange(1, 9)), rng.choice(b"HMSmun"))
    return b"%x-%d" % (rng.getrandbits(rng.randrange(1, 130)), rng.randrange(1000))


@pytest.mark.parametrize("seed", range(12))
def test_blocks_that_differ_in_values_that_never_repeat(seed: int) -> None:
    """A caller's blocks: the same fields in the same encoding, but for values; several callers in turn, one memo."""
    rng = random.Random(seed)
    memo, library = BlockMemo(), Reader()
    callers = []
    for _ in range(4):
        start = list(rng.choice([cases.POST, cases.ANSWER, cases.TRAILERS]))
        for name in rng.sample(VARYING, rng.randrange(1, 4)):
            start.insert(rng.randrange(len(start) + 1) if rng.random() < 0.2 else len(start), (name, b""))
        start.append((b"x-last", b"constant" * rng.randrange(2)))
        reader = HeaderReader(memo)
        if rng.randrange(2):
            reader.read(size_update(0))
        forms = [rng.choice([WITHOUT, WITHOUT, NEVER]) for _ in start]
        callers.append((reader, start, forms, rng.randrange(2) == 1))
    for _ in range(400):
        reader, start, forms, coded = rng.choice(callers)
        raw = b""
        for (name, value), form in zip(start, forms, strict=True):
            what = a_value(name, rng) if name in VARYING else value
            huffman = coded if rng.random() < 0.95 else not coded
            raw += literal(static_index(name) or name, what, form, coded, huffman)
        cases.agree(reader.read(raw), library.read(raw))
        if rng.random() < 0.1:
            bad = damaged(raw, rng)
            if not any(0x20 <= octet < 0x40 for octet in (bad[:1] or b"-")):
                _agree_if_both_read(HeaderReader(memo), Reader(), bad)
    assert memo.shape_hits > 80, "hardly any block was recognised by its shape"


def _agree_if_both_read(ours: HeaderReader, library: Reader, raw: bytes) -> None:
    block, why = cases.read(ours, raw)
    try:
        expected = library.read(raw)
    except hpack.HPACKError:
        assert why
        return
    if block is None:
        assert why in cases.OURS_ALONE
    else:
        cases.agree(block, expected)


def test_a_deadline_is_each_blocks_own() -> None:
    memo = BlockMemo()
    reader = HeaderReader(memo)
    for at in range(100):
        for coded in (False, True):
            raw = b"".join(literal(name, value, coded=coded) for name, value in cases.POST)
            raw += literal(b"grpc-timeout", b"%dm" % (at + 1), coded=coded) + literal(
                b"x-id", b"%d" % at, coded=coded
            )
            block = reader.read(raw)
            assert block.timeout == (at + 1) * 1e-3
            assert block.raw == raw
    assert memo.shape_hits > 150
