"""One field: which bytes RFC 9113 section 8.2 and the names' own rules allow, and what is read from them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.wire import fields
from sidecar.wire.fields import Field, grpc_timeout

# Written out a second time, from the RFCs, as sets.
TOKEN = set(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")  # RFC 9110 section 5.6.2, lower case
NAMES = set(range(0x21, 0x7F)) - set(range(0x41, 0x5B)) - {0x3A}  # RFC 9113 section 8.2.1
VALUES = {0x09, *range(0x20, 0x7F), *range(0x80, 0x100)}  # RFC 9110 section 5.5


def test_every_octet_in_a_name() -> None:
    assert TOKEN < NAMES
    for octet in range(256):
        for name in (bytes([octet]), b"a" + bytes([octet]), b"a" + bytes([octet]) + b"b"):
            legal = octet in NAMES or (octet == 0x3A and name == b":" and False)
            assert (Field(name, b"v").fault == "") == legal, name
            if not legal and octet != 0x3A:
                assert "illegal octet in a field name" in Field(name, b"v").fault


def test_every_octet_in_a_value() -> None:
    for octet in range(256):
        assert (Field(b"a", b"x" + bytes([octet]) + b"y").fault == "") == (octet in VALUES), octet
        for value in (b"x" + bytes([octet]), bytes([octet]) + b"x", bytes([octet])):
            assert (Field(b"a", value).fault == "") == (octet in VALUES)
            assert Field(b"a", value).is_spaced == (octet in b" \t")
            if octet in b" \t":
                assert Field(b"content-type", value).fault == "field value starts or ends with white space"


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_names_and_values_against_sets(name: bytes, value: bytes) -> None:
    field = Field(name, value)
    legal = bool(name) and set(name) <= NAMES and set(value) <= VALUES
    is_spaced = value != value.strip(b" \t")
    if field.kind == fields.ORDINARY:
        assert (field.fault == "") == legal
        assert field.is_spaced == is_spaced
    elif (is_spaced or not legal) and not name.startswith(b":"):
        assert field.fault
    assert (field.name, field.value) == (name, value)
    assert field.size == len(name) + len(value) + 32


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        (b"", b"v", "empty field name"),
        (b":", b"v", "empty field name"),
        (b":path", b"", ":path does not start with a slash"),
        (b":path", b"greeter/SayHello", ":path does not start with a slash"),
        (b":path", b"http://greeter/x", ":path does not start with a slash"),
        (b":path", b"/", ""),
        (b":path", b"*", ""),  # of OPTIONS: the block knows
        (b":path", b"**", ":path does not start with a slash"),
        (b":method", b"", "empty :method"),
        (b":scheme", b"", "empty :scheme"),
        (b":authority", b"", ""),
        (b":status", b"200", ""),
        (b":status", b"", ":status is not three digits"),
        (b":status", b"20", ":status is not three digits"),
        (b":status", b"2000", ":status is not three digits"),
        (b":status", b"2x0", ":status is not three digits"),
        (b":status", b"000", ":status is not three digits from 100 on"),
        (b":status", b"099", ":status is not three digits from 100 on"),
        (b":status", b"100", ""),
        (b":status", b"999", ""),
        (b"content-length", b"0", ""),
        (b"content-length", b"007", ""),
        (b"content-length", b"9" * 18, ""),
        (b"content-length", b"9" * 19, "content-length is not a number"),
        (b"content-length", b"", "content-length is not a number"),
        (b"content-length", b"-1", "content-length is not a number"),
        (b"content-length", b"+1", "content-length is not a number"),
        (b"content-length", b"1,1", "content-length is not a number"),
        (b"content-length", b"1_0", "content-length is not a number"),
        (b"content-length", b"0x1", "content-length is not a number"),
        (b"content-length", "٣".encode(), "content-length is not a number"),
        (b"te", b"trailers", ""),
        (b"te", b"Trailers", "te is other than trailers"),
        (b"te", b"trailers, deflate", "te is other than trailers"),
        (b"te", b"", "te is other than trailers"),
        (b"connection", b"close", "connection-specific field connection"),
        (b"proxy-connection", b"close", "connection-specific field proxy-connection"),
        (b"keep-alive", b"1", "connection-specific field keep-alive"),
        (b"transfer-encoding", b"chunked", "connection-specific field transfer-encoding"),
        (b"upgrade", b"h2c", "connection-specific field upgrade"),
        (b"Connection", b"close", "illegal octet in a field name"),
        (b"grpc-status", b"many", ""),
        (b"grpc-timeout", b"soon", ""),
    ],
)
def test_the_rules_of_names(name: bytes, value: bytes, fault: str) -> None:
    found = Field(name, value).fault
    assert found.startswith(fault) if fault else found == ""


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1H", 3600.0), (b"2M", 120.0), (b"3S", 3.0), (b"4m", 0.004), (b"5u", 5e-6), (b"6n", 6e-9),
        (b"99999999S", 99_999_999.0), (b"00000001S", 1.0), (b"0S", 0.0),
        (b"", -1.0), (b"S", -1.0), (b"1", -1.0), (b"1s", -1.0), (b"1h", -1.0), (b"123456789S", -1.0), (b"-1S", -1.0),
        (b"1.5S", -1.0), (b" 1S", -1.0), (b"1S ", -1.0), (b"1_0S", -1.0), (b"1\xb2S", -1.0), (b"1SS", -1.0),
    ],
)  # fmt: skip
def test_a_timeout(value: bytes, seconds: float) -> None:
    assert grpc_timeout(value) == pytest.approx(seconds)


def test_the_static_table_is_the_rfcs() -> None:
    """RFC 7541 appendix A: first, last, and how many."""
    assert len(fields.STATIC) == 61
    assert (fields.STATIC[0].name, fields.STATIC[0].value) == (b":authority", b"")
    assert (fields.STATIC[1].name, fields.STATIC[1].value) == (b":method", b"GET")
    assert (fields.STATIC[60].name, fields.STATIC[60].value) == (b"www-authenticate", b"")
    faulty = {f.name for f in fields.STATIC if f.fault}
    # Legal as names of literals; as they stand, without a value, these may not be used.
    assert faulty == {b"content-length", b"transfer-encoding"}
