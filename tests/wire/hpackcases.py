"""What random blocks are made of, a judge of requests and responses written from the RFCs a second time, and what
our reader and the `hpack` library must agree on."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Final

from hpackwriter import Choose, Header, read_without_state

from sidecar.wire.blocks import MAX_PATH_KEPT, Block
from sidecar.wire.headers import HeaderReader
from sidecar.wire.primitives import CompressionError
from sidecar.wire.table import HeaderListTooLargeError

NAMES: Final = (
    b":method", b":scheme", b":path", b":authority", b":status", b"content-type", b"te", b"user-agent", b"grpc-timeout",
    b"grpc-encoding", b"grpc-status", b"grpc-message", b"content-length", b"authorization", b"x-request-id",
    b"traceparent", b"x-bin", b"cookie", b"date", b"n" * 40, b"host",
)  # fmt: skip
VALUES: Final = (
    b"", b"POST", b"http", b"/greeter.Greeter/SayHello", b"200", b"application/grpc", b"trailers", b"0", b"1S",
    b"a" * 70, b"*", b"OPTIONS", b"CONNECT", b"GET", b"/", b"https",
    b"\xc3\xbc\xff", b"with, spaces; and more", b"x" * 300,
)  # fmt: skip
# A judge's faults: names, values and whole fields that make a message malformed.
ILLEGAL_NAMES: Final = (
    b"",
    b":",
    b"Upper",
    b"with space",
    b"new\nline",
    b"nul\0",
    b"col:on",
    b"del\x7f",
    b"\xc3\xbc",
    b":other",
)
ILLEGAL_VALUES: Final = (
    b"nul\0",
    b"cr\r",
    b"lf\n",
    b"a\x01b",
    b"del\x7f",
    b"\r\nx: y",
)
# Legal for gRPC, not for HTTP/2, and so taken off, of fields that nobody here looks at.
SPACED_VALUES: Final = (b" leading", b"trailing ", b"\ttab", b" \t both \t", b" ", b"x" * 130 + b" ")
ILLEGAL_FIELDS: Final = (
    (b"connection", b"close"), (b"te", b"gzip"), (b"transfer-encoding", b"chunked"), (b"keep-alive", b"1"),
    (b"upgrade", b"h2c"), (b"proxy-connection", b"x"), (b"content-length", b"x"), (b":path", b"relative"),
    (b":status", b"20"),
)  # fmt: skip
POST: Final = (
    (b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/greeter.Greeter/SayHello"), (b":authority", b"greeter"),
    (b"content-type", b"application/grpc"), (b"te", b"trailers"),
)  # fmt: skip
ANSWER: Final = ((b":status", b"200"), (b"content-type", b"application/grpc"))
TRAILERS: Final = ((b"grpc-status", b"0"), (b"grpc-message", b""))


def some_headers(choose: Choose) -> list[Header]:
    """A list of a call's, mostly: often whole, sometimes with something wrong in it."""
    start = (POST, ANSWER, TRAILERS, ())[choose(4)]
    headers = [Header(name, value, choose(8) == 7) for name, value in start]
    for _ in range(choose(6)):
        headers.append(_one(choose))
    if headers and choose(6) == 5:
        headers.pop(choose(len(headers)))
    if len(headers) > 1 and choose(6) == 5:
        headers.insert(choose(len(headers)), headers.pop(choose(len(headers))))
    return headers


def _one(choose: Choose) -> Header:
    never = choose(5) == 4
    way = choose(12)
    if way == 11:
        return Header(*ILLEGAL_FIELDS[choose(len(ILLEGAL_FIELDS))], never)
    name = ILLEGAL_NAMES[choose(len(ILLEGAL_NAMES))] if way == 10 else NAMES[choose(len(NAMES))]
    if way == 9:
        values = (*ILLEGAL_VALUES, *SPACED_VALUES)
        value = values[choose(len(values))]
    elif way < 4:
        value = b"%x" % (choose(1 << 16) * 40503)
    else:
        value = VALUES[choose(len(VALUES))]
    return Header(name, value, never)


def seeded(seed: int) -> Choose:
    rng = random.Random(seed)
    return lambda n: rng.randrange(n)


# --- the judge ---------------------------------------------------------------------------------------

_NAME = re.compile(rb"[!-9;-@\[-~]+")  # RFC 9113 section 8.2.1: no controls, no capitals, no colon
_VALUE = re.compile(rb"([!-~\x80-\xff]([\t -~\x80-\xff]*[!-~\x80-\xff])?)?")  # RFC 9110 section 5.5
_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token: RFC 9110 section 5.6.2
_SCHEME = re.compile(rb"[A-Za-z0-9+.-]+")
_PATH = re.compile(rb"/[^ \t]*", re.DOTALL)
_FORBIDDEN = {b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"}
_LOOKED_AT = {b"content-type", b"content-length", b"grpc-status", b"grpc-timeout", b"te", *_FORBIDDEN}
_REQUEST = {b":method", b":scheme", b":path"}


def field_is_legal(name: bytes, value: bytes) -> bool:
    bare = name[1:] if name.startswith(b":") else name
    if not _NAME.fullmatch(bare) or not _VALUE.fullmatch(value) or name in _FORBIDDEN:
        return False
    if name == b"te":
        return value == b"trailers"
    if name == b"content-length":
        return re.fullmatch(rb"[0-9]{1,18}", value) is not None
    if name == b":path":
        return value == b"*" or _PATH.fullmatch(value) is not None
    if name in (b":method", b":scheme"):
        return (_METHOD if name == b":method" else _SCHEME).fullmatch(value) is not None
    if name == b":status":
        return re.fullmatch(rb"[1-9][0-9][0-9]", value) is not None
    return True


def _pseudo(headers: Sequence[Header]) -> list[tuple[bytes, bytes]] | None:
    """The pseudo-headers of a list whose fields are legal and in order; None if it is malformed whatever it is for."""
    if not all(field_is_legal(name, value) for name, value, _ in headers):
        return None
    found = [(name, value) for name, value, _ in headers if name.startswith(b":")]
    if any(name.startswith(b":") for name, _, _ in headers[len(found) :]):
        return None
    lengths = {int(value) for name, value, _ in headers if name == b"content-length"}
    if len(lengths) > 1 or len(dict(found)) != len(found):
        return None
    return found


def request_is_legal(headers: Sequence[Header]) -> bool:
    found = _pseudo(headers)
    if found is None:
        return False
    pseudo = dict(found)
    if pseudo.get(b":method") == b"CONNECT":
        return set(pseudo) == {b":method", b":authority"}
    if pseudo.get(b":path") == b"*" and pseudo.get(b":method") != b"OPTIONS":
        return False
    return set(pseudo) - {b":authority"} == _REQUEST


def response_is_legal(headers: Sequence[Header]) -> bool:
    found = _pseudo(headers)
    return found is not None and [name for name, _ in found] == [b":status"]


def trailers_are_legal(headers: Sequence[Header]) -> bool:
    return _pseudo(headers) == []


# --- our reader beside the library -------------------------------------------------------------------

# Where ours is stricter than the library, it says one of these.
OURS_ALONE: Final = ("an integer of more octets than it needs", "more than two table size updates")


def _bare(header: Header) -> Header:
    """Without white space at the ends of a value that nobody here looks at."""
    if header.name.startswith(b":") or header.name in _LOOKED_AT:
        return header
    return header._replace(value=header.value.strip(b" \t"))


def agree(block: Block, read_by_library: list[Header]) -> None:
    """The block says what the library read, needs no table, and is judged as the RFCs would."""
    expected = [_bare(header) for header in read_by_library]
    assert read_without_state(block.raw) == expected
    assert (block.request_fault() == "") == request_is_legal(expected), (block.request_fault(), expected)
    assert (block.response_fault() == "") == response_is_legal(expected), (block.response_fault(), expected)
    assert (block.trailers_fault() == "") == trailers_are_legal(expected), (block.trailers_fault(), expected)
    values = {name: value for name, value, _ in expected}
    path = values.get(b":path", b"")
    assert block.path == (path if len(path) <= MAX_PATH_KEPT else b"")
    if b"grpc-status" in values and values[b"grpc-status"].isdigit() and len(values[b"grpc-status"]) < 4:
        assert block.grpc_status == int(values[b"grpc-status"])
    assert block.is_grpc == (
        values.get(b"content-type", b"").startswith((b"application/grpc+", b"application/grpc;"))
        or values.get(b"content-type") == b"application/grpc"
    )
    assert block.shape is not None or block.list_size == sum(
        len(name) + len(value) + 32 for name, value, _ in expected
    )


def read(reader: HeaderReader, block: bytes) -> tuple[Block | None, str]:
    """What it says, or why it is refused."""
    try:
        return reader.read(block), ""
    except CompressionError as error:
        return None, str(error) or "refused"
    except HeaderListTooLargeError:
        return None, "the list is too large"
