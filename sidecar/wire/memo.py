"""Header blocks found by their octets: whole, by their shape, or field by field.

gRPC callers repeat themselves, so a whole block is looked up first. Where a block is new (a deadline, a request id or
a trace id differs on every call) it has the shape of one seen before (see `shapes`). Where that is new too it is walked
field by field by its lengths, each field is looked up, and only one never seen is decoded. Names whose values never
repeat are noticed: their values are checked without being remembered, and make a shape.

A block in here never refers to a dynamic table: one that does is refused, or written anew by `table` first.
"""

from __future__ import annotations

from typing import Final, final

from mypy_extensions import i64

from sidecar.wire import fields, primitives
from sidecar.wire.blocks import Block
from sidecar.wire.fields import Field
from sidecar.wire.primitives import CompressionError
from sidecar.wire.shapes import MAX_SHAPED, Shape, Shapes, Varying
from sidecar.wire.table import MAX_HEADER_LIST, HeaderListTooLargeError

# Bounds of the memos, each for one of two generations: by number, which bounds what is kept beside the octets, and by
# octets. Together they stay under 3 MB whatever peers send; an application's blocks need a tenth of it.
MAX_BLOCKS_REMEMBERED: Final = 512
MAX_BLOCK_OCTETS: Final[i64] = 262_144
MAX_BLOCK_REMEMBERED: Final = 4096  # octets: with a token in it a block has one or two thousand
MAX_FIELDS_REMEMBERED: Final = 1024
MAX_FIELD_OCTETS: Final[i64] = 131_072
MAX_FIELD_REMEMBERED: Final = 2048
MAX_NAMES_REMEMBERED: Final = 512
MAX_NAME_REMEMBERED: Final = 128
# A name with this many different values (an id, a timeout) has its later values checked but not remembered. To check
# one costs about as much as to find it.
MAX_VALUES_PER_NAME: Final[i64] = 8


@final
class _Name:
    """A field name, and how many values it was seen with."""

    def __init__(self, name: bytes) -> None:
        self.name: Final = name
        self.size: i64 = i64(len(name)) + fields.ENTRY_OVERHEAD
        self.kind: i64 = fields.kind_of(name)
        # The values of others are read, however often they differ.
        self.may_vary: bool = (
            self.kind == fields.ORDINARY or self.kind == fields.GRPC_TIMEOUT
        ) and not fields.name_fault(name)
        self.values: i64 = 0


@final
class BlockMemo:
    """Reads blocks and remembers them. One a process: what is remembered was validated, and is the same for all."""

    def __init__(self) -> None:
        # Two generations each: when the young one is full the old one is dropped, so that a flood of new
        # blocks costs a bounded amount of memory and no scan.
        self._young: dict[bytes, Block] = {}
        self._old: dict[bytes, Block] = {}
        self._fields: dict[bytes, Field] = {}
        self._old_fields: dict[bytes, Field] = {}
        self._block_octets: i64 = 0  # of the young generation
        self._field_octets: i64 = 0
        self._names: dict[bytes, _Name] = {}  # by the octets that spell them
        self._static_names: list[_Name] = [_Name(name) for name in fields.STATIC_NAMES]
        self._shapes = Shapes()
        self.hits: i64 = 0
        self.shape_hits: i64 = 0
        self.misses: i64 = 0
        self.field_hits: i64 = 0
        self.field_misses: i64 = 0

    def blocks(self) -> int:
        """Blocks remembered now."""
        return len(self._young) + len(self._old)

    def fields(self) -> int:
        """Fields remembered now."""
        return len(self._fields) + len(self._old_fields)

    def shapes(self) -> int:
        """Shapes remembered now."""
        return int(self._shapes.count)

    def read(self, raw: bytes) -> Block:
        """What `raw` (no leading size updates) says. Raises CompressionError or HeaderListTooLargeError."""
        found = self.find(raw)
        return found if found is not None else self.learn(raw)

    def find(self, raw: bytes) -> Block | None:
        """What is remembered of exactly these octets."""
        found = self._young.get(raw)
        if found is None:
            found = self._old.get(raw)
            if found is None:
                return None
            self._remember(raw, found)
        self.hits += 1
        return found

    def learn(self, raw: bytes) -> Block:
        """What a block that `find` does not know says. Raises CompressionError or HeaderListTooLargeError."""
        small = len(raw) <= MAX_SHAPED
        if small:
            found = self._shapes.find(raw)
            if found is not None:
                self.shape_hits += 1
                return found
        self.misses += 1
        varying: list[Varying] = []
        block = self._walk(raw, varying)
        if varying:
            if small and not block.fault:
                self._shapes.add(block, varying)
        elif len(raw) <= MAX_BLOCK_REMEMBERED:
            self._remember(raw, block)
        return block

    def find_like(self, raw: bytes, shape: Shape) -> Block | None:
        """What it says if it has this shape."""
        found = shape.match(raw)
        if found is not None:
            self.shape_hits += 1
        return found

    def _remember(self, raw: bytes, block: Block) -> None:
        self._block_octets += i64(len(raw))
        if len(self._young) >= MAX_BLOCKS_REMEMBERED or self._block_octets > MAX_BLOCK_OCTETS:
            self._old = self._young
            self._young = {}
            self._block_octets = i64(len(raw))
        self._young[raw] = block

    def _walk(self, raw: bytes, varying: list[Varying]) -> Block:
        """Field by field. `varying` is given the values that are not worth remembering."""
        block = Block(raw)
        end: i64 = len(raw)
        at: i64 = 0
        bare: list[bytes] = []  # the block up to `copied` without white space at the ends of values
        copied: i64 = 0
        while at < end:
            first: i64 = raw[at]
            if block.list_size > MAX_HEADER_LIST:
                break
            if first >= 0x80:
                index: i64 = first & 0x7F
                if index > fields.STATIC_SIZE:
                    raise CompressionError("an index into a dynamic table of size 0")
                if index == 0:
                    raise CompressionError("index 0")
                at += 1
                block.add(fields.STATIC[index - 1])
                continue
            if 0x20 <= first < 0x40:
                raise CompressionError("a table size update after a field")
            if first >= 0x40:
                block.inserts = True
            start = at
            name_end = _name_end(raw, at, end)
            at = primitives.string_end(raw, name_end, end)
            name = self._name(raw, start, name_end)
            if name.values < MAX_VALUES_PER_NAME or not _pass_over(block, name, raw, name_end, at, varying):
                found = self._field(raw, start, name, name_end, at)
                if found.is_spaced:
                    bare.append(raw[copied:name_end])
                    bare.append(primitives.literal(found.value.strip(fields.WHITE_SPACE)))
                    copied = at
                block.add(found)
        if block.list_size > MAX_HEADER_LIST:
            raise HeaderListTooLargeError
        if copied > 0:
            bare.append(raw[copied:])
            varying.clear()
            return self._walk(b"".join(bare), varying)
        return block

    def _field(self, raw: bytes, start: i64, name: _Name, name_end: i64, end: i64) -> Field:
        key = raw[start:end]
        found = self._fields.get(key)
        if found is not None:
            self.field_hits += 1
            return found
        found = self._old_fields.get(key)
        size = end - start
        if found is None:
            self.field_misses += 1
            found = Field(name.name, primitives.string(raw, name_end, end))
            if size > MAX_FIELD_REMEMBERED:
                return found
            name.values += 1
        self._field_octets += size
        if len(self._fields) >= MAX_FIELDS_REMEMBERED or self._field_octets > MAX_FIELD_OCTETS:
            self._old_fields = self._fields
            self._fields = {}
            self._field_octets = size
            self._names = {}  # lets a name that changed its ways be remembered again
            for each in self._static_names:
                each.values = 0
        self._fields[key] = found
        return found

    def _name(self, raw: bytes, start: i64, name_end: i64) -> _Name:
        first: i64 = raw[start]
        mask: i64 = 0x3F if first >= 0x40 else 0x0F
        index = first & mask
        if index == mask:
            index = primitives.integer(raw, start + 1, name_end, mask)
        if index > 0:
            return self._static_names[index - 1]
        key = raw[start + 1 : name_end]
        found = self._names.get(key)
        if found is None:
            found = _Name(primitives.string(raw, start + 1, name_end))
            if len(key) <= MAX_NAME_REMEMBERED and len(self._names) < MAX_NAMES_REMEMBERED:
                self._names[key] = found
        return found


def _pass_over(block: Block, name: _Name, raw: bytes, at: i64, end: i64, varying: list[Varying]) -> bool:
    """Take a field whose values never repeat: check the value in place, without a Field for it.

    False: this one has to be read.
    """
    if not name.may_vary:
        return False
    size = primitives.value_size(raw, at, end)
    if size < 0:
        return False
    block.has_fields = True
    block.list_size += name.size + size
    is_timeout = name.kind == fields.GRPC_TIMEOUT
    if is_timeout:
        block.timeout = fields.grpc_timeout(primitives.string(raw, at, end))
    varying.append(Varying(at, end, is_timeout))
    return True


def _name_end(raw: bytes, at: i64, end: i64) -> i64:
    """Where the name of the literal field at `at` ends. Raises if its index is not a static one."""
    first: i64 = raw[at]
    mask: i64 = 0x3F if first >= 0x40 else 0x0F
    index = first & mask
    at += 1
    if index == 0:
        return primitives.string_end(raw, at, end)
    if index == mask:
        index = primitives.integer(raw, at, end, mask)
        at = primitives.integer_end(raw, at, end)
    if index > fields.STATIC_SIZE:
        raise CompressionError("a name from a dynamic table of size 0")
    return at
