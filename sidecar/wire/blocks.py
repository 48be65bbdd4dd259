"""What a header block says, and whether a request, a response or trailers may say it (RFC 9113 section 8)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from mypy_extensions import i64

from sidecar.wire import fields
from sidecar.wire.fields import Field

if TYPE_CHECKING:
    from sidecar.wire.shapes import Shape

# Bits of Block.seen beyond the marks of `fields`.
DUPLICATE_PSEUDO: Final[i64] = 64
LATE_PSEUDO: Final[i64] = 128
# A :path beyond this is passed on, but not kept apart from its block. The balancer counts streams by it and remembers
# it for that, and no method has such a name.
MAX_PATH_KEPT: Final[i64] = 512
_REQUIRED: Final[i64] = fields.METHOD | fields.SCHEME | fields.PATH
_FREE: Final[i64] = fields.AUTHORITY | fields.OPTIONS | fields.HEAD
_REQUEST_ONLY: Final[i64] = _REQUIRED | fields.AUTHORITY


@final
class Block:
    """What a header block says, as far as a proxy cares."""

    def __init__(self, raw: bytes) -> None:
        self.raw: Final = raw  # no size updates, no dynamic references
        self.seen: i64 = 0
        self.fault: str = ""  # of any field, whatever the block is
        self.path: bytes = b""  # if it is no longer than MAX_PATH_KEPT
        self.status: i64 = fields.NO_NUMBER
        self.content_length: i64 = fields.NO_NUMBER
        self.grpc_status: i64 = fields.NO_NUMBER
        self.timeout: float = -1.0  # grpc-timeout in seconds, -1 if none
        self.is_grpc: bool = False  # content-type application/grpc or application/grpc+...
        self.inserts: bool = False  # holds a literal with incremental indexing
        self.has_fields: bool = False  # beyond pseudo-headers
        self.shape: Shape | None = None  # that it was recognised by
        self.list_size: i64 = 0  # as SETTINGS_MAX_HEADER_LIST_SIZE counts; of a `like` block, the model's

    def add(self, field: Field) -> None:
        """Take the next field into account."""
        kind = field.kind
        self.list_size += field.size
        if field.fault and not self.fault:
            self.fault = field.fault
        if kind < fields.PSEUDO_LIMIT:
            if self.seen & kind:
                self.seen |= DUPLICATE_PSEUDO
            if self.has_fields:
                self.seen |= LATE_PSEUDO
            self.seen |= field.marks
            if kind == fields.PATH:
                if len(field.value) <= MAX_PATH_KEPT:
                    self.path = field.value
            elif kind == fields.STATUS:
                self.status = field.number
            return
        self.has_fields = True
        if kind == fields.CONTENT_TYPE:
            self.is_grpc = field.value == b"application/grpc" or field.value.startswith(
                (b"application/grpc+", b"application/grpc;")
            )
        elif kind == fields.CONTENT_LENGTH:
            if self.content_length >= 0 and self.content_length != field.number and not self.fault:
                self.fault = "two content-lengths that differ"
            self.content_length = field.number
        elif kind == fields.GRPC_STATUS:
            self.grpc_status = field.number
        elif kind == fields.GRPC_TIMEOUT:
            self.timeout = field.timeout

    def like(self, raw: bytes, timeout: float) -> Block:
        """A block that says the same but for its deadline and for values that nobody here looks at."""
        block = Block(raw)
        block.seen = self.seen
        block.path = self.path
        block.status = self.status
        block.content_length = self.content_length
        block.grpc_status = self.grpc_status
        block.timeout = timeout
        block.is_grpc = self.is_grpc
        block.inserts = self.inserts
        block.has_fields = self.has_fields
        block.list_size = self.list_size
        return block

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
