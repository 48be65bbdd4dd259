"""One header field: what its bytes mean, and whether RFC 9113 section 8.2 allows it.

A `Field` is made once for each distinct run of bytes and then found by those bytes.
"""

from __future__ import annotations

from typing import Final

from hpack.table import HeaderTable
from mypy_extensions import i64

ENTRY_OVERHEAD: Final[i64] = 32  # RFC 7541 section 4.1

# What a field is. Kinds below PSEUDO_LIMIT are pseudo-headers and double as bits of Field.marks.
METHOD: Final[i64] = 1
SCHEME: Final[i64] = 2
PATH: Final[i64] = 4
AUTHORITY: Final[i64] = 8
STATUS: Final[i64] = 16
OTHER_PSEUDO: Final[i64] = 32
PSEUDO_LIMIT: Final[i64] = 64
ORDINARY: Final[i64] = 64
CONTENT_TYPE: Final[i64] = 65
CONTENT_LENGTH: Final[i64] = 66
GRPC_STATUS: Final[i64] = 67
GRPC_TIMEOUT: Final[i64] = 68
TE: Final[i64] = 69
CONNECTION_SPECIFIC: Final[i64] = 70

# More bits of Field.marks: values that change which pseudo-headers a request has.
CONNECT: Final[i64] = 256
OPTIONS: Final[i64] = 512
STAR: Final[i64] = 1024  # a :path of *
HEAD: Final[i64] = 2048
_METHOD_MARKS: Final[dict[bytes, int]] = {
    b"CONNECT": int(CONNECT),
    b"OPTIONS": int(OPTIONS),
    b"HEAD": int(HEAD),
}

_KINDS: Final[dict[bytes, int]] = {
    b":method": METHOD,
    b":scheme": SCHEME,
    b":path": PATH,
    b":authority": AUTHORITY,
    b":status": STATUS,
    b"content-type": CONTENT_TYPE,
    b"content-length": CONTENT_LENGTH,
    b"grpc-status": GRPC_STATUS,
    b"grpc-timeout": GRPC_TIMEOUT,
    b"te": TE,
    # Section 8.2.2: these speak of one connection and have no place here.
    b"connection": CONNECTION_SPECIFIC,
    b"proxy-connection": CONNECTION_SPECIFIC,
    b"keep-alive": CONNECTION_SPECIFIC,
    b"transfer-encoding": CONNECTION_SPECIFIC,
    b"upgrade": CONNECTION_SPECIFIC,
}

# Section 8.2.1 for names. `bytes.translate` with these deletes all that is allowed; what is left is the fault.
_NAME_OCTETS: Final = bytes([c for c in range(0x21, 0x7F) if not (0x41 <= c <= 0x5A) and c != 0x3A])
WHITE_SPACE: Final = b" \t"
_DIGITS: Final = b"0123456789"
_LETTERS: Final = bytes(range(0x41, 0x5B)) + bytes(range(0x61, 0x7B))
# The same for two pseudo-headers (section 8.3.1). What reads "GET /elsewhere HTTP/1.1" where a method belongs may
# end up, in front of a server that speaks HTTP/1, as another request than the one that was balanced.
_METHOD_OCTETS: Final = _LETTERS + _DIGITS + b"!#$%&'*+-.^_`|~"  # a token, RFC 9110 section 5.6.2
_SCHEME_OCTETS: Final = _LETTERS + _DIGITS + b"+-."  # RFC 3986 section 3.1

NO_NUMBER: Final[i64] = -1
BAD_VALUE: Final[i64] = -1  # in place of a size
MAX_TIMEOUT_DIGITS: Final[i64] = 8  # gRPC over HTTP/2, "Timeout"
_CONTENT_LENGTH_DIGITS: Final = 18  # fits 63 bits
_STATUS_DIGITS: Final = 3
LEAST_STATUS: Final[i64] = 100  # RFC 9110 section 15


class Field:
    """A decoded field. `fault` is empty, or says why a message with it is malformed.

    `is_spaced`: an ordinary field whose value has white space at an end, where it is no part of the value and may not
    be passed on (RFC 9113 section 8.2.1). gRPC's libraries write it all the same, as in a grpc-message "not found: ";
    gRPC over HTTP/2 lets it be stripped ("ASCII-Value"). So it is, and is no fault.
    """

    def __init__(self, name: bytes, value: bytes) -> None:
        self.name: Final = name
        self.value: Final = value
        self.kind: i64 = kind_of(name)
        self.size: i64 = len(name) + len(value) + ENTRY_OVERHEAD
        self.marks: i64 = self.kind if self.kind < PSEUDO_LIMIT else 0
        self.number: i64 = NO_NUMBER  # of :status, content-length and grpc-status
        self.timeout: float = -1.0  # of grpc-timeout, seconds
        bare = value.strip(WHITE_SPACE) if self.kind == ORDINARY else value
        self.is_spaced: bool = len(bare) < len(value)
        self.fault: str = name_fault(name) or value_fault(bare) or self._read_value()

    def _read_value(self) -> str:
        kind = self.kind
        value = self.value
        if kind == CONTENT_LENGTH:
            if not is_number(value, _CONTENT_LENGTH_DIGITS):
                return "content-length is not a number"
            self.number = int(value)
        elif kind == PATH:
            if value == b"*":
                self.marks |= STAR
            elif not value.startswith(b"/"):
                return ":path does not start with a slash"
            elif b" " in value or b"\t" in value:
                return "white space in :path"
        elif kind == METHOD or kind == SCHEME:
            if not value:
                return "empty " + self.name.decode("ascii")
            if value.translate(None, _METHOD_OCTETS if kind == METHOD else _SCHEME_OCTETS):
                return "illegal octet in " + self.name.decode("ascii")
            if kind == METHOD:
                self.marks |= _METHOD_MARKS.get(value, 0)
        elif kind == STATUS:
            if not is_number(value, _STATUS_DIGITS) or len(value) != _STATUS_DIGITS:
                return ":status is not three digits"
            self.number = int(value)
            if self.number < LEAST_STATUS:
                return f":status is not three digits from {LEAST_STATUS} on"
        elif kind == GRPC_STATUS:
            # A status that is no number is the caller's to judge (it reads UNKNOWN), not a malformed message.
            self.number = int(value) if is_number(value, _STATUS_DIGITS) else NO_NUMBER
        elif kind == GRPC_TIMEOUT:
            self.timeout = grpc_timeout(value)
        elif kind == TE and value != b"trailers":
            return "te is other than trailers"
        elif kind == CONNECTION_SPECIFIC:
            return "connection-specific field " + self.name.decode("ascii")
        return ""


def kind_of(name: bytes) -> i64:
    return _KINDS.get(name, OTHER_PSEUDO if name.startswith(b":") else ORDINARY)


def is_number(value: bytes, most_digits: int) -> bool:
    return 0 < len(value) <= most_digits and not value.translate(None, _DIGITS)


def timeout_unit(octet: i64) -> float:
    """A unit of grpc-timeout in seconds; -1.0 if it is none."""
    if octet == 0x6D:  # m
        return 1e-3
    if octet == 0x75:  # u
        return 1e-6
    if octet == 0x6E:  # n
        return 1e-9
    if octet == 0x53:  # S
        return 1.0
    if octet == 0x4D:  # M
        return 60.0
    return 3600.0 if octet == 0x48 else -1.0  # H


def grpc_timeout(value: bytes) -> float:
    """Seconds, or -1.0 if the value is not of the specification's form (the server answers that)."""
    return timeout_in(value, 0, len(value))


def timeout_in(raw: bytes, start: i64, end: i64) -> float:
    """The same of `raw[start:end]`."""
    last = end - 1
    if not 0 < last - start <= MAX_TIMEOUT_DIGITS:
        return -1.0
    number: i64 = 0
    at = start
    while at < last:
        digit: i64 = raw[at]
        digit -= 0x30
        if not 0 <= digit <= 9:
            return -1.0
        number = number * 10 + digit
        at += 1
    unit = timeout_unit(raw[last])
    return float(number) * unit if unit > 0.0 else -1.0


def name_fault(name: bytes) -> str:
    bare = name[1:] if name.startswith(b":") else name
    if not bare:
        return "empty field name"
    if bare.translate(None, _NAME_OCTETS):
        return "illegal octet in a field name"
    return ""


def value_fault(value: bytes) -> str:
    if value_size(value, 0, len(value)) >= 0:
        return ""
    if value[0] in WHITE_SPACE or value[-1] in WHITE_SPACE:
        return "field value starts or ends with white space"
    return "illegal octet in a field value"


def value_size(raw: bytes, start: i64, end: i64) -> i64:
    """The length of the value that is `raw[start:end]`; BAD_VALUE if RFC 9110 section 5.5 forbids it."""
    if start == end:
        return 0
    first: i64 = raw[start]
    last: i64 = raw[end - 1]
    if first == 0x20 or first == 0x09 or last == 0x20 or last == 0x09:
        return BAD_VALUE
    at: i64 = start
    while at < end:
        octet: i64 = raw[at]
        if (octet < 0x20 and octet != 0x09) or octet == 0x7F:
            return BAD_VALUE
        at += 1
    return end - start


STATIC: Final[list[Field]] = [Field(name, value) for name, value in HeaderTable.STATIC_TABLE]
"""RFC 7541 appendix A; index 1 stands at 0."""
STATIC_NAMES: Final[list[bytes]] = [name for name, _ in HeaderTable.STATIC_TABLE]
STATIC_SIZE: Final[i64] = 61
