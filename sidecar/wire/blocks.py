"""Header blocks that carry no state: what they mean, found by their bytes.

gRPC callers repeat themselves, so a whole block is looked up first. Where a block is new (a deadline,
a request id or a trace id differs on every call) it is walked field by field by its lengths, and each
field is looked up in a second memo. Only a field never seen is decoded. Names whose values never
repeat are noticed and their values checked without being remembered.

A block in here never refers to a dynamic table: one that does is refused, or written anew by `table` first.
"""

from __future__ import annotations

from typing import Final, final

from mypy_extensions import i64

from sidecar.wire import fields, primitives
from sidecar.wire.fields import Field
from sidecar.wire.primitives import CompressionError
from sidecar.wire.table import MAX_HEADER_LIST, HeaderListTooLargeError

# Bounds of the memos. A block of gRPC is 100-400 octets; two generations of 1,024 keep well under a megabyte.
MAX_BLOCKS_REMEMBERED: Final = 1024
MAX_BLOCK_REMEMBERED: Final = 1024  # octets: longer ones are rarely repeated
MAX_FIELDS_REMEMBERED: Final = 2048  # a generation; with names that never repeat, two come to 3.5 MB
MAX_FIELD_REMEMBERED: Final = 256
# A name with this many different values (an id, a timeout) has its later values checked but not remembered.
MAX_VALUES_PER_NAME: Final[i64] = 64

# Bits of Block.seen beyond the marks of `fields`.
DUPLICATE_PSEUDO: Final[i64] = 64
LATE_PSEUDO: Final[i64] = 128
_REQUIRED: Final[i64] = fields.METHOD | fields.SCHEME | fields.PATH
_FREE: Final[i64] = fields.AUTHORITY | fields.OPTIONS
_REQUEST_ONLY: Final[i64] = _REQUIRED | fields.AUTHORITY


@final
class Block:
    """What a header block says, as far as a proxy cares."""

    def __init__(self, raw: bytes) -> None:
        self.raw: Final = raw  # no size updates, no dynamic references
        self.seen: i64 = 0
        self.fault: str = ""  # of any field, whatever the block is
        self.path: bytes = b""
        self.status: i64 = fields.NO_NUMBER
        self.content_length: i64 = fields.NO_NUMBER
        self.grpc_status: i64 = fields.NO_NUMBER
        self.timeout: float = -1.0  # grpc-timeout in seconds, -1 if none
        self.is_grpc: bool = False  # content-type application/grpc or application/grpc+...
        self.inserts: bool = False  # holds a literal with incremental indexing
        self.has_fields: bool = False  # beyond pseudo-headers
        # Where the first field stands whose name has other values each time; -1: none, worth remembering.
        self.unique_at: i64 = -1
        self.list_size: i64 = 0  # as SETTINGS_MAX_HEADER_LIST_SIZE counts

    def request_fault(self) -> str:
        """Empty, or why this cannot open a request (RFC 9113 section 8.3.1)."""
        if self.fault:
            return self.fault
        seen = self.seen
        if seen & ~_FREE == _REQUIRED:
            return ""
        if seen & DUPLICATE_PSEUDO:
            return "a pseudo-header stands twice"
        if seen & LATE_PSEUDO:
            return "a pseudo-header stands after a field"
        if seen & (fields.STATUS | fields.OTHER_PSEUDO):
            return "a pseudo-header that no request has"
        if seen & fields.CONNECT:
            whole = seen & _REQUEST_ONLY == fields.METHOD | fields.AUTHORITY
            return "" if whole else "CONNECT with other pseudo-headers than :method and :authority"
        if seen & _REQUIRED != _REQUIRED:
            return "a pseudo-header is missing"
        return "" if seen & fields.OPTIONS else "a :path of * with another method than OPTIONS"

    def response_fault(self) -> str:
        """Empty, or why this cannot be a response's header block (section 8.3.2)."""
        if self.fault:
            return self.fault
        if self.seen == fields.STATUS:
            return ""
        if self.seen & LATE_PSEUDO:
            return "a pseudo-header stands after a field"
        return "a response has :status once and no other pseudo-header"

    def trailers_fault(self) -> str:
        """Empty, or why this cannot be a trailer section (section 8.1)."""
        if self.fault:
            return self.fault
        return "trailers with a pseudo-header" if self.seen else ""


@final
class _Name:
    """A field name, and how many values it was seen with."""

    def __init__(self, name: bytes) -> None:
        self.name: Final = name
        self.size: i64 = i64(len(name)) + fields.ENTRY_OVERHEAD
        self.kind: i64 = fields.kind_of(name)
        # Others are worth a Field: their values are read.
        self.may_be_unique: bool = self.kind == fields.ORDINARY or self.kind == fields.GRPC_TIMEOUT
        self.fault: str = fields.name_fault(name)
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
        self._names: dict[bytes, _Name] = {}  # by the octets that spell them
        self._static_names: list[_Name] = [_Name(name) for name in fields.STATIC_NAMES]
        self.hits: i64 = 0
        self.misses: i64 = 0
        self.field_hits: i64 = 0
        self.field_misses: i64 = 0

    def blocks(self) -> int:
        """Blocks remembered now."""
        return len(self._young) + len(self._old)

    def fields(self) -> int:
        """Fields remembered now."""
        return len(self._fields) + len(self._old_fields)

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
        self.misses += 1
        block = Block(raw)
        self._walk(block, 0)
        if len(raw) <= MAX_BLOCK_REMEMBERED and block.unique_at < 0:
            self._remember(raw, block)
        return block

    def learn_rest(self, raw: bytes, beginning: Block) -> Block:
        """`learn` for a block that begins with the octets of another one, which is known."""
        self.misses += 1
        block = Block(raw)
        block.seen = beginning.seen
        block.fault = beginning.fault
        block.path = beginning.path
        block.status = beginning.status
        block.content_length = beginning.content_length
        block.grpc_status = beginning.grpc_status
        block.timeout = beginning.timeout
        block.is_grpc = beginning.is_grpc
        block.inserts = beginning.inserts
        block.has_fields = beginning.has_fields
        block.list_size = beginning.list_size
        self._walk(block, len(beginning.raw))
        return block

    def _remember(self, raw: bytes, block: Block) -> None:
        if len(self._young) >= MAX_BLOCKS_REMEMBERED:
            self._old = self._young
            self._young = {}
        self._young[raw] = block

    def _walk(self, block: Block, at: i64) -> None:
        """Read the block's octets from `at` on, the start of a field."""
        raw = block.raw
        end: i64 = len(raw)
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
                _add(block, fields.STATIC[index - 1])
                continue
            if 0x20 <= first < 0x40:
                raise CompressionError("a table size update after a field")
            if first >= 0x40:
                block.inserts = True
            start = at
            name_end = _name_end(raw, at, end)
            at = primitives.string_end(raw, name_end, end)
            name = self._name(raw, start, name_end)
            if name.values >= MAX_VALUES_PER_NAME and _pass_over(block, name, raw, name_end, at):
                if block.unique_at < 0:
                    block.unique_at = start
            else:
                _add(block, self._field(raw, start, name, name_end, at))
        if block.list_size > MAX_HEADER_LIST:
            raise HeaderListTooLargeError

    def _field(self, raw: bytes, start: i64, name: _Name, name_end: i64, end: i64) -> Field:
        key = raw[start:end]
        found = self._fields.get(key)
        if found is not None:
            self.field_hits += 1
            return found
        found = self._old_fields.get(key)
        if found is None:
            self.field_misses += 1
            found = Field(name.name, primitives.string(raw, name_end, end))
            if end - start > MAX_FIELD_REMEMBERED or name.values >= MAX_VALUES_PER_NAME:
                return found
            name.values += 1
        if len(self._fields) >= MAX_FIELDS_REMEMBERED:
            self._old_fields = self._fields
            self._fields = {}
            # Lets a name that changed its ways be remembered again.
            self._names = {}
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
        if found is not None:
            return found
        found = _Name(primitives.string(raw, start + 1, name_end))
        if len(key) <= MAX_FIELD_REMEMBERED and len(self._names) < MAX_FIELDS_REMEMBERED:
            self._names[key] = found
        return found


def _pass_over(block: Block, name: _Name, raw: bytes, at: i64, end: i64) -> bool:
    """Take a field whose values do not repeat: check the value in place, without a Field for it.

    False: this one has to be read.
    """
    if not name.may_be_unique or name.fault:
        return False
    size = primitives.value_size(raw, at, end)
    if size < 0:
        return False
    block.has_fields = True
    block.list_size += name.size + size
    if name.kind == fields.GRPC_TIMEOUT:
        block.timeout = fields.grpc_timeout(primitives.string(raw, at, end))
    return True


def _add(block: Block, field: Field) -> None:
    kind = field.kind
    block.list_size += field.size
    if field.fault and not block.fault:
        block.fault = field.fault
    if kind < fields.PSEUDO_LIMIT:
        if block.seen & kind:
            block.seen |= DUPLICATE_PSEUDO
        if block.has_fields:
            block.seen |= LATE_PSEUDO
        block.seen |= field.marks
        if kind == fields.PATH:
            block.path = field.value
        elif kind == fields.STATUS:
            block.status = field.number
        return
    block.has_fields = True
    if kind == fields.CONTENT_TYPE:
        block.is_grpc = field.value == b"application/grpc" or field.value.startswith(
            (b"application/grpc+", b"application/grpc;")
        )
    elif kind == fields.CONTENT_LENGTH:
        if block.content_length >= 0 and block.content_length != field.number and not block.fault:
            block.fault = "two content-lengths that differ"
        block.content_length = field.number
    elif kind == fields.GRPC_STATUS:
        block.grpc_status = field.number
    elif kind == fields.GRPC_TIMEOUT:
        block.timeout = field.timeout


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
