"""The receiving half of HPACK: blocks with state come out without it, and size updates decide which they are."""

from __future__ import annotations

import hpack
import pytest
from hpackwriter import (
    INDEXING,
    NEVER,
    WITHOUT,
    Header,
    Reader,
    Writer,
    indexed,
    literal,
    read_without_state,
    size_update,
    static_index,
    string,
)
from rawhttp2 import integer

from sidecar.wire.blocks import Block
from sidecar.wire.headers import HeaderReader, encode
from sidecar.wire.memo import BlockMemo
from sidecar.wire.primitives import CompressionError
from sidecar.wire.table import MAX_HEADER_LIST, HeaderListTooLargeError

PATH = literal(4, b"/greeter.Greeter/SayHello")
REQUEST = indexed(3) + indexed(6) + PATH
X = (b"x-request-id", b"abc")


def reader(acknowledged: bool = False) -> HeaderReader:
    made = HeaderReader(BlockMemo())
    made.acknowledged = acknowledged
    return made


def fields_of(block: Block) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value, _ in read_without_state(block.raw)]


# --- what is spliced as it came ----------------------------------------------------------------------


def test_a_block_of_static_indices_and_plain_literals_is_taken_as_it_came_even_before_a_size_update() -> None:
    """Point 3: .NET's HttpClient never says 0x20 and never uses the table."""
    made = reader()
    raw = REQUEST + literal(*X) + literal(*X, form=NEVER, coded=True)
    assert made.read(raw).raw == raw
    assert not made.stateless


def test_after_a_size_update_to_0_a_block_is_taken_as_it_came_but_for_the_update() -> None:
    made = reader()
    raw = REQUEST + literal(*X, form=INDEXING)  # C-core goes on writing such literals
    assert made.read(size_update(0) + raw).raw == raw
    assert made.stateless
    assert made.read(raw).raw == raw


def test_the_acknowledgement_alone_changes_nothing() -> None:
    """Point 2."""
    made = reader()
    made.read(literal(*X, form=INDEXING))
    made.acknowledged = True
    assert not made.stateless
    assert fields_of(made.read(indexed(62))) == [X]


def test_the_same_block_means_its_own_on_each_connection() -> None:
    """Index 62 of one connection is not that of another, though they share one memo."""
    memo = BlockMemo()
    one, two = HeaderReader(memo), HeaderReader(memo)
    one.read(literal(b"a", b"1", INDEXING))
    two.read(literal(b"a", b"2", INDEXING))
    for _ in range(3):
        assert fields_of(one.read(indexed(62))) == [(b"a", b"1")]
        assert fields_of(two.read(indexed(62))) == [(b"a", b"2")]


def test_a_block_that_inserts_is_followed_though_the_memo_knows_it() -> None:
    """A stateless connection has put it into the memo; one with a table must still take the entry in."""
    memo = BlockMemo()
    without, with_table = HeaderReader(memo), HeaderReader(memo)
    raw = REQUEST + literal(*X, form=INDEXING)
    without.read(size_update(0) + raw)
    without.read(raw)
    with_table.read(raw)
    assert fields_of(with_table.read(REQUEST + indexed(62)))[-1] == X


# --- dynamic references ------------------------------------------------------------------------------


def test_references_are_replaced_by_what_they_stand_for() -> None:
    made, writer = reader(), Writer()
    blocks = [
        literal(b"a", b"1", INDEXING) + literal(4, b"/p", INDEXING, coded=True),
        indexed(62) + indexed(63) + literal(63, b"2", INDEXING),
        indexed(62) + literal(62, b"3", WITHOUT) + literal(64, b"4", NEVER) + indexed(2),
    ]
    expected = [
        [(b"a", b"1"), (b":path", b"/p")],
        [(b":path", b"/p"), (b"a", b"1"), (b"a", b"2")],
        [(b"a", b"2"), (b"a", b"3"), (b"a", b"4"), (b":method", b"GET")],
    ]
    assert writer.size() == 0
    for raw, fields in zip(blocks, expected, strict=True):
        assert fields_of(made.read(raw)) == fields


def test_a_table_evicts_the_oldest_first() -> None:
    made = reader()
    for at in range(5):
        made.read(literal(b"name", b"%d" % at * 1000, INDEXING))  # 1036 octets each: three fit
    for at, index in ((4, 62), (3, 63), (2, 64)):
        assert fields_of(made.read(indexed(index))) == [(b"name", b"%d" % at * 1000)]
    with pytest.raises(CompressionError, match="index 65 into a table of 3 entries"):
        made.read(indexed(65))


def test_an_entry_larger_than_the_table_empties_it() -> None:
    """RFC 7541 section 4.4."""
    made = reader()
    made.read(literal(*X, form=INDEXING))
    assert fields_of(made.read(literal(b"large", b"v" * 5000, INDEXING))) == [(b"large", b"v" * 5000)]
    with pytest.raises(CompressionError, match="index 62 into a table of 0 entries"):
        made.read(indexed(62))


def test_an_entry_may_take_its_name_from_one_it_evicts() -> None:
    made = reader()
    made.read(literal(b"name", b"1" * 4000, INDEXING))
    assert fields_of(made.read(literal(62, b"2" * 4000, INDEXING))) == [(b"name", b"2" * 4000)]
    assert fields_of(made.read(indexed(62))) == [(b"name", b"2" * 4000)]


def test_entries_count_decoded_octets() -> None:
    """A Huffman string counts by what it says (section 4.1), names from either table by their length."""
    made, oracle = reader(), Reader()
    blocks = [
        literal(b"x-y", b"0" * 1500, INDEXING, coded_name=True, coded=True),
        literal(33, b"\xff" * 1000, INDEXING, coded=True),  # longer coded than not
        literal(63, b"e" * 1600, INDEXING, coded=True),
        indexed(62) + indexed(63),
    ]
    for raw in blocks:
        assert fields_of(made.read(raw)) == [(h.name, h.value) for h in oracle.read(raw)]
    with pytest.raises(CompressionError):
        made.read(indexed(64))
    with pytest.raises(hpack.HPACKError):
        oracle.read(indexed(64))


@pytest.mark.parametrize("size", [0, 1, 14, 15, 16, 31, 61])
def test_every_static_name_survives(size: int) -> None:
    """The prefix of an index has 6 bits in a literal that inserts and 4 in the one it becomes."""
    made = reader()
    index = max(size, 1)
    name = static_name(index)
    value = b"/" if name == b":path" else b"1"
    made.read(literal(index, value, INDEXING))
    assert fields_of(made.read(indexed(62))) == [(name, value)]


def static_name(index: int) -> bytes:
    from hpackwriter import STATIC

    return STATIC[index - 1][0]


@pytest.mark.parametrize("index", [0, 62, 63, 127, 1 << 20])
@pytest.mark.parametrize("stateless", [False, True])
@pytest.mark.parametrize(
    "form", [None, WITHOUT, NEVER, INDEXING], ids=["indexed", "without", "never", "inserting"]
)
def test_an_index_beyond_the_tables_is_refused(
    index: int, stateless: bool, form: tuple[int, int] | None
) -> None:
    made = reader()
    made.read((size_update(0) if stateless else b"") + REQUEST)
    if form is None:
        raw = indexed(index)
    else:
        raw = literal(max(index, 62), b"v", form)
    with pytest.raises(CompressionError):
        made.read(raw)


# --- never indexed -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stateless", [False, True])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"authorization", b"Bearer secret"),
        (23, b"Bearer secret"),
        (b"x-secret", b"s"),
        (2, b"GET"),  # stands in the static table as it is
        (b":path", b"/"),
    ],
)
@pytest.mark.parametrize("coded", [False, True])
def test_never_indexed_stays_never_indexed(
    name: bytes | int, value: bytes, coded: bool, stateless: bool
) -> None:
    """RFC 7541 section 7.1.3: an intermediary keeps the representation, also where it writes the block anew."""
    made = reader()
    sensitive = literal(name, value, NEVER, coded_name=coded, coded=coded)
    if stateless:
        made.read(size_update(0) + REQUEST)
        raw = sensitive + literal(*X)
    else:
        made.read(literal(*X, form=INDEXING))
        raw = sensitive + indexed(62)
    plain_name = static_name(name) if isinstance(name, int) else name
    for _ in range(2):
        found = read_without_state(made.read(raw).raw)
        assert found == [Header(plain_name, value, True), Header(*X)]


def test_a_never_indexed_value_under_a_name_from_the_table() -> None:
    made = reader()
    made.read(literal(b"token", b"public", INDEXING) + literal(23, b"none", INDEXING))
    found = read_without_state(made.read(literal(63, b"secret", NEVER) + literal(62, b"secret", NEVER)).raw)
    assert found == [Header(b"token", b"secret", True), Header(b"authorization", b"secret", True)]


# --- size updates ------------------------------------------------------------------------------------


@pytest.mark.parametrize("acknowledged", [False, True])
@pytest.mark.parametrize("size", [32, 33, 100, 128, 4095, 4096])
def test_a_peer_may_keep_a_table_up_to_the_default(size: int, acknowledged: bool) -> None:
    """h2spec generic/5; OkHttp keeps one without saying so. docs/adr/0004."""
    made = reader(acknowledged)
    entry = literal(b"a", b"b" * (size - 33), INDEXING)
    made.read(size_update(size) + entry)
    assert not made.stateless
    assert fields_of(made.read(indexed(62))) == [(b"a", b"b" * (size - 33))] if size > 32 else True
    made.read(literal(b"c", b"", INDEXING) if size > 32 else REQUEST)
    with pytest.raises(CompressionError):
        made.read(indexed(63))


@pytest.mark.parametrize("acknowledged", [False, True])
@pytest.mark.parametrize("size", [4097, 65536, (1 << 32) - 1])
def test_a_table_over_the_default_is_refused(size: int, acknowledged: bool) -> None:
    with pytest.raises(CompressionError, match=f"a table of {size} octets; 4096 is the most"):
        reader(acknowledged).read(size_update(size) + REQUEST)


@pytest.mark.parametrize("size", [1, 31])
def test_a_table_that_holds_nothing_is_refused_once_0_was_agreed(size: int) -> None:
    """h2spec hpack/6.3 sends the limit plus one."""
    assert reader().read(size_update(size) + REQUEST).raw == REQUEST
    with pytest.raises(CompressionError, match="where 0 was agreed"):
        reader(acknowledged=True).read(size_update(size) + REQUEST)


@pytest.mark.parametrize("acknowledged", [False, True])
def test_smaller_then_larger_keeps_what_fits_the_smaller(acknowledged: bool) -> None:
    """Section 4.2: the smallest size in between is told, so that both sides evict alike."""
    made = reader(acknowledged)
    made.read(literal(b"a", b"1", INDEXING) + literal(b"b", b"2", INDEXING))  # 34 octets each
    made.read(size_update(40) + size_update(4096) + REQUEST)
    assert fields_of(made.read(indexed(62))) == [(b"b", b"2")]
    with pytest.raises(CompressionError):
        made.read(indexed(63))


def test_a_table_that_was_empty_for_a_while_is_followed_again() -> None:
    """Legal before the peer has seen our SETTINGS: 0x20 is no promise."""
    made = reader()
    made.read(literal(b"a", b"1", INDEXING))
    made.read(size_update(0) + REQUEST)
    assert made.stateless
    made.read(size_update(4096) + literal(b"b", b"2", INDEXING))
    assert not made.stateless
    assert fields_of(made.read(indexed(62))) == [(b"b", b"2")]
    with pytest.raises(CompressionError):
        made.read(indexed(63))
    made.read(size_update(0) + size_update(100) + literal(b"c", b"3", INDEXING))
    assert fields_of(made.read(indexed(62))) == [(b"c", b"3")]
    made.read(size_update(100) + size_update(0) + REQUEST)
    assert made.stateless


@pytest.mark.parametrize("updates", [[0, 0, 0], [0, 100, 0], [100, 100, 100]])
def test_three_updates_are_refused(updates: list[int]) -> None:
    with pytest.raises(CompressionError, match="more than two"):
        reader().read(b"".join(size_update(size) for size in updates) + REQUEST)


@pytest.mark.parametrize("stateless", [False, True])
@pytest.mark.parametrize("update", [size_update(0), size_update(1), size_update(4096)])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_an_update_after_a_field_is_refused(at: int, update: bytes, stateless: bool) -> None:
    made = reader()
    made.read((size_update(0) if stateless else b"") + REQUEST)
    parts = [indexed(3), indexed(6), PATH]
    with pytest.raises(CompressionError, match="a table size update after a field"):
        made.read(b"".join(parts[:at]) + update + b"".join(parts[at:]))


@pytest.mark.parametrize("update", [size_update(0), size_update(100), b""])
def test_a_block_of_nothing_but_updates_has_no_fields(update: bytes) -> None:
    block = reader().read(update)
    assert block.raw == b""
    assert block.trailers_fault() == ""
    assert block.request_fault() == "a pseudo-header is missing"


@pytest.mark.parametrize("update", [b"\x3f", b"\x3f\x80", b"\x3f\xff\xff\xff\xff\xff\xff\x01"])
def test_an_update_that_does_not_end_is_refused(update: bytes) -> None:
    with pytest.raises(CompressionError):
        reader().read(update)


# --- what cannot be read -----------------------------------------------------------------------------

BROKEN = {
    "an index that does not end": b"\xff",
    "an index that does not end, later": b"\xff\x80\x80",
    "a literal that ends before its name": b"\x00",
    "a literal that ends before its value": b"\x00\x01a",
    "a literal that ends in its value": b"\x00\x01a\x05bcd",
    "a string length that does not end": b"\x00\x7f\x80",
    "a string length too large": b"\x00\x7f\xff\xff\xff\xff\xff\x01" + bytes(40),
    "a string length beyond 64 bits": b"\x00\x7f" + b"\xff" * 12 + b"\x01",
    "a name index that does not end": b"\x0f",
    "a Huffman name that ends inside a symbol": b"\x00\x81\x00\x01v",
    "a Huffman value padded with zeros": b"\x00\x01a\x81\x18",
    "a Huffman value with a whole octet of padding": b"\x00\x01a\x82\x1f\xff",
    "a Huffman value that holds EOS": b"\x00\x01a\x84\xff\xff\xff\xff",
    "index 0": b"\x80",
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("mode", ["table", "stateless", "inserting"])
def test_a_broken_block_is_refused(broken: bytes, mode: str) -> None:
    made = reader()
    made.read((size_update(0) if mode == "stateless" else b"") + REQUEST)
    raw = REQUEST + (literal(*X, form=INDEXING) if mode == "inserting" else b"") + broken
    for _ in range(2):
        with pytest.raises(CompressionError):
            made.read(raw)
    with pytest.raises(hpack.HPACKError):
        Reader().read(raw)


@pytest.mark.parametrize("mode", ["table", "stateless"])
@pytest.mark.parametrize("padding", [1, 2, 3])
def test_an_integer_longer_than_it_need_be_is_refused(mode: str, padding: int) -> None:
    """.NET's decoder refuses it with the connection, and behind us that connection is shared."""
    made = reader()
    made.read((size_update(0) if mode == "stateless" else b"") + REQUEST)
    made.read(REQUEST + b"\x00" + string(b"n" * 127) + string(b"v"))  # 0x7f 0x00: the shortest there is
    padded = b"\x7f" + b"\x80" * padding + b"\x00"
    for raw in (
        b"\x00" + padded + b"n" * 127 + b"\x01v",
        b"\x00\x01n" + padded + b"v" * 127,
        b"\x0f" + b"\x80" * padding + b"\x00" + b"\x01v",
        size_update(0)[:0] + integer(31, 5, 0x20)[:1] + b"\x80" * padding + b"\x00" + REQUEST,
    ):
        with pytest.raises(CompressionError, match="an integer of more octets than it needs"):
            made.read(raw)


# --- limits ------------------------------------------------------------------------------------------


def list_of(octets: int) -> bytes:
    """A block whose list comes to exactly so many octets as SETTINGS_MAX_HEADER_LIST_SIZE counts."""
    return literal(b"large", b"v" * (octets - 5 - 32))


@pytest.mark.parametrize("stateless", [False, True])
def test_a_list_at_the_limit_is_taken_and_one_beyond_is_not(stateless: bool) -> None:
    made = reader()
    made.read((size_update(0) if stateless else b"") + REQUEST)
    assert len(fields_of(made.read(list_of(MAX_HEADER_LIST)))) == 1
    with pytest.raises(HeaderListTooLargeError):
        made.read(list_of(MAX_HEADER_LIST + 1))


@pytest.mark.parametrize("stateless", [False, True])
def test_a_block_of_tiny_fields_is_cut_off_at_the_limit(stateless: bool) -> None:
    """4 KiB of octets stand for 4,096 fields."""
    made = reader()
    made.read((size_update(0) if stateless else b"") + REQUEST)
    size = 32 + len(b":method") + len(b"GET")
    made.read(indexed(2) * (MAX_HEADER_LIST // size))
    with pytest.raises(HeaderListTooLargeError):
        made.read(indexed(2) * (MAX_HEADER_LIST // size + 1))


def test_a_bomb_is_not_unpacked() -> None:
    """References of one octet to an entry of four kilobytes: 128 KiB that would stand for half a gigabyte."""
    made = reader()
    made.read(literal(b"bomb", b"v" * 4000, INDEXING))
    assert len(fields_of(made.read(indexed(62) * 32))) == 32
    with pytest.raises(HeaderListTooLargeError):
        made.read(indexed(62) * 131_072)


def test_a_bomb_of_empty_fields_is_not_unpacked() -> None:
    made = reader()
    made.read(literal(b"a", b"", INDEXING))
    with pytest.raises(HeaderListTooLargeError):
        made.read(indexed(62) * 131_072)


# --- encode ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 126, 127, 128, 254, 255, 16_511, 100_000])
def test_what_is_written_here_reads_as_it_was_meant(size: int) -> None:
    headers = [(b":status", b"200"), (b"grpc-message", b"m" * size), (b"n" * max(1, size), b"")]
    assert [(h.name, h.value) for h in read_without_state(encode(headers))] == headers


def test_static_entries_are_used_where_they_fit_whole() -> None:
    assert encode([(b":status", b"200")]) == indexed(static_index(b":status", b"200"))
