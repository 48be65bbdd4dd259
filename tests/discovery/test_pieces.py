"""The small pure pieces: frames, lines, tokens, waiting times, and the choice of the source."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
from hyperframe.frame import DataFrame, GoAwayFrame, PingFrame, SettingsFrame
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.values import source
from sidecar.discovery.backoff import FIRST_SECONDS, MAX_SECONDS, Backoff
from sidecar.discovery.factory import make_source
from sidecar.discovery.file import FileSource
from sidecar.discovery.frames import MAX_FRAME_BYTES, Frames, Goaway, NotHttp2Error
from sidecar.discovery.ladder import Ladder
from sidecar.discovery.text import Lines, TooLargeError, message_of, quote
from sidecar.discovery.token import REREAD_SECONDS, TokenError, TokenFile


def cuts(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted({p % (len(data) + 1) for p in places}), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


FRAMES = st.lists(
    st.one_of(
        st.binary(max_size=40).map(lambda data: DataFrame(1, data).serialize()),
        st.just(PingFrame(0, b"12345678").serialize()),
        st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 13)).map(
            lambda pair: GoAwayFrame(0, pair[0], pair[1], b"why").serialize()
        ),
    ),
    max_size=8,
)


@given(FRAMES, st.lists(st.integers(0, 1000), max_size=8))
@settings(max_examples=300, deadline=None)
def test_frames_pass_whole_and_goaways_are_taken_out_in_their_place(
    frames: list[bytes], places: list[int]
) -> None:
    frames = [SettingsFrame(0).serialize(), *frames]
    gate = Frames()
    found: list[bytes | Goaway] = []
    for piece in cuts(b"".join(frames), places):
        found += gate.feed(piece)
    expected: list[bytes | Goaway] = []
    for frame in frames:
        if frame[3] == 7:
            expected.append(Goaway(int.from_bytes(frame[9:13], "big"), int.from_bytes(frame[13:17], "big")))
        elif expected and isinstance(expected[-1], bytes):
            expected[-1] += frame
        else:
            expected.append(frame)
    merged: list[bytes | Goaway] = []
    for item in found:
        if merged and isinstance(item, bytes) and isinstance(merged[-1], bytes):
            merged[-1] += item
        else:
            merged.append(item)
    assert merged == expected


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 400 Bad Request",
        SettingsFrame(0).serialize() + (MAX_FRAME_BYTES + 1).to_bytes(3, "big") + b"\0" * 6,
        SettingsFrame(0).serialize() + b"\0\0\4\7\0" + b"\0" * 8,
    ],
)
def test_what_is_no_http2_is_refused_as_soon_as_it_shows(data: bytes) -> None:
    with pytest.raises(NotHttp2Error):
        Frames().feed(data)


@given(st.lists(st.binary(max_size=30), max_size=8), st.lists(st.integers(0, 300), max_size=8))
def test_lines_are_the_same_however_the_bytes_are_cut(parts: list[bytes], places: list[int]) -> None:
    data = b"\n".join(parts) + b"\n"
    lines = Lines(1000)
    found = [line for piece in cuts(data, places) for line in lines.feed(piece)]
    assert found == [line for line in data.split(b"\n") if line.strip()]


def test_a_line_is_bounded_and_many_lines_are_not() -> None:
    lines = Lines(10)
    assert len(lines.feed(b"0123456789\n" * 1000)) == 1000
    lines.feed(b"01234")
    with pytest.raises(TooLargeError, match="more than 10 bytes"):
        lines.feed(b"567890")


def test_queries_are_quoted() -> None:
    assert quote("kubernetes.io/service-name=a&b c") == "kubernetes.io%2Fservice-name%3Da%26b%20c"
    assert quote("gr\u00fc\udcff") == "gr%C3%BC%3F"


def test_a_message_is_one_bounded_line() -> None:
    assert message_of(b'{"message":"no\\n  way"}') == "no way"
    assert message_of(b"<html>\n" * 1000) == ("<html> " * 1000)[:300].rstrip()
    assert message_of(b'{"message":') == '{"message":'
    assert message_of(b"[]") == "[]"


def test_waiting_times_are_spread_from_zero_to_a_ceiling_that_doubles() -> None:
    seen: list[list[float]] = [[] for _ in range(12)]
    for seed in range(300):
        waiting = Backoff(random.Random(seed))
        for attempt in seen:
            attempt.append(waiting.next())
    for attempt, times in enumerate(seen):
        ceiling = min(MAX_SECONDS, FIRST_SECONDS * 2**attempt)
        assert max(times) <= ceiling
        assert min(times) < ceiling * 0.05
        assert max(times) > ceiling * 0.95
    waiting.reset()
    assert waiting.next(at_least=7) <= 7 + FIRST_SECONDS
    assert waiting.next(at_least=7) >= 7
    for _ in range(10_000):
        assert waiting.next() <= MAX_SECONDS


def test_a_token_is_read_again_in_time_or_when_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("one\n")
    token = TokenFile(str(path))
    assert token.read(0.0) == "one"
    path.write_text("two")
    assert token.read(REREAD_SECONDS - 1) == "one"
    assert token.read(REREAD_SECONDS) == "two"
    path.write_text("three")
    token.reject()
    assert token.read(REREAD_SECONDS + 1) == "three"
    path.unlink()
    token.reject()
    assert token.read(REREAD_SECONDS + 2) == "three"
    with pytest.raises(TokenError, match="No such file"):
        TokenFile(str(path)).read(0.0)


def test_a_directory_in_a_tokens_place_leaves_no_file_open(tmp_path: Path) -> None:
    """It is tried with every connection, and there is a file for each such mistake."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        with pytest.raises(TokenError, match="Is a directory"):
            TokenFile(str(tmp_path)).read(0.0)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_the_setting_names_the_source(tmp_path: Path) -> None:
    def dial(*_: object) -> None:
        raise AssertionError("nothing is dialled before something is wanted")

    def made(text: str, environ: dict[str, str]) -> object:
        return make_source(
            source(text),
            dial=dial,
            now=0.0,
            random=random.Random(1),
            environ=environ,
            namespace="shop",  # type: ignore[arg-type]
        )

    assert isinstance(made(f"file:{tmp_path}/endpoints.json", {}), FileSource)
    pod = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    assert isinstance(made("kubernetes", pod), Ladder)
    with pytest.raises(ValueError, match="source kubernetes"):
        made("kubernetes", {})
