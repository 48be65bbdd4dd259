"""Writers of frames, read back by the playbook's parser of its own and by struct."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from librt.strings import BytesWriter
from rawhttp2 import CONTINUATION, END_HEADERS, END_STREAM, HEADERS

from sidecar.wire import frames

STREAMS = st.integers(1, 2**31 - 1)


def written(write: Callable[[BytesWriter], None]) -> list[tuple[int, int, int, bytes]]:
    """(type, flags, stream, payload) of each frame."""
    out = BytesWriter()
    write(out)
    octets, found = out.getvalue(), []
    while octets:
        length = int.from_bytes(octets[:3], "big")
        kind, flags, stream = struct.unpack(">BBI", octets[3:9])
        assert len(octets) >= 9 + length
        found.append((kind, flags, stream, octets[9 : 9 + length]))
        octets = octets[9 + length :]
    return found


@given(st.integers(0, 16384), st.integers(0, 255), st.integers(0, 255), st.integers(0, 2**31 - 1))
def test_a_header(length: int, kind: int, flags: int, stream: int) -> None:
    out = BytesWriter()
    frames.write_header(out, length, kind, flags, stream)
    assert out.getvalue() == struct.pack(">I", length)[1:] + struct.pack(">BBI", kind, flags, stream)


@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize("size", [0, 1, 16383, 16384, 16385, 32768, 32769, 131072])
def test_a_block_and_its_continuations(size: int, end: bool) -> None:
    block = bytes(at * 31 % 251 for at in range(size))
    found = written(lambda out: frames.write_block(out, 5, block, end))
    assert b"".join(payload for *_, payload in found) == block
    assert len(found) == max(1, -(-size // 16384))
    assert [kind for kind, *_ in found] == [HEADERS] + [CONTINUATION] * (len(found) - 1)
    assert {stream for _, _, stream, _ in found} == {5}
    assert [bool(flags & END_HEADERS) for _, flags, *_ in found] == [False] * (len(found) - 1) + [True]
    assert [bool(flags & END_STREAM) for _, flags, *_ in found] == [end] + [False] * (len(found) - 1)
    assert all(len(payload) == 16384 for *_, payload in found[:-1])


@given(STREAMS, st.integers(0, 2**32 - 1))
def test_a_reset_carries_any_code(stream: int, code: int) -> None:
    assert written(lambda out: frames.write_rst_stream(out, stream, code)) == [
        (3, 0, stream, struct.pack(">I", code))
    ]


@given(STREAMS, st.integers(0, 2**32 - 1), st.binary(max_size=100))
def test_a_goaway(last: int, code: int, debug: bytes) -> None:
    found = written(lambda out: frames.write_goaway(out, last, code, debug))
    assert found == [(7, 0, 0, struct.pack(">II", last, code) + debug)]


@given(STREAMS, st.integers(1, 2**31 - 1))
def test_a_window_update(stream: int, increment: int) -> None:
    found = written(lambda out: frames.write_window_update(out, stream, increment))
    assert found == [(8, 0, stream, struct.pack(">I", increment))]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 2**32 - 1)), max_size=6))
def test_settings(values: list[tuple[int, int]]) -> None:
    found = written(lambda out: frames.write_settings(out, values))
    assert found == [(4, 0, 0, b"".join(struct.pack(">HI", *each) for each in values))]


def test_acknowledgements() -> None:
    assert written(frames.write_settings_ack) == [(4, 1, 0, b"")]
    assert written(lambda out: frames.write_ping(out, b"12345678", True)) == [(6, 1, 0, b"12345678")]
    assert written(lambda out: frames.write_ping(out, b"12345678", False)) == [(6, 0, 0, b"12345678")]


def test_codes_have_their_names() -> None:
    assert [frames.error_name(code) for code in (0, 1, 0xB, 0xD)] == [
        "NO_ERROR", "PROTOCOL_ERROR", "ENHANCE_YOUR_CALM", "HTTP_1_1_REQUIRED",
    ]  # fmt: skip
    assert frames.error_name(0xE) == "0xe"
    assert frames.error_name(0xFFFFFFFF) == "0xffffffff"
