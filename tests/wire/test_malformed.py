"""Malformed messages end here, in every encoding HPACK offers; forwarding by the octet is no way round.

Each case is written as literals, Huffman coded, inserted, by reference to an entry that another message put into the
table, and again once the memo knows its octets. Nothing of it reaches the other side, and nobody else is disturbed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import pytest
from hpackcases import ILLEGAL_NAMES, ILLEGAL_VALUES, SPACED_VALUES
from hpackwriter import INDEXING, NEVER, WITHOUT, indexed, literal, size_update, static_index
from rawhttp2 import (
    OK,
    POST,
    PROTOCOL_ERROR,
    TRAILERS,
    Data,
    Goaway,
    Headers,
    Reset,
    data,
    headers,
    request,
    response,
    split_headers,
)
from transcript import Client, ready

from sidecar.wire.memo import MAX_VALUES_PER_NAME

Pairs = tuple[tuple[bytes, bytes], ...]


def octets(fields: Sequence[tuple[str | bytes, str | bytes]]) -> Pairs:
    return tuple((as_bytes(name), as_bytes(value)) for name, value in fields)


def as_bytes(text: str | bytes) -> bytes:
    return text.encode("latin-1") if isinstance(text, str) else text


PLAIN: Final = octets(POST)
ANSWER: Final = octets(OK)
END: Final = octets(TRAILERS)


def without(fields: Pairs, *names: bytes) -> Pairs:
    return tuple(each for each in fields if each[0] not in names)


def instead(fields: Pairs, name: bytes, value: bytes) -> Pairs:
    return tuple((n, value if n == name else v) for n, v in fields)


# --- the cases ---------------------------------------------------------------------------------------

# What makes any message malformed (RFC 9113 section 8.2), as one more field behind the others.
FIELDS: Final[dict[str, tuple[bytes, bytes]]] = {
    **{f"name {name!r}": (name, b"v") for name in ILLEGAL_NAMES if not name.startswith(b":")},
    **{f"value {value!r}": (b"x-some", value) for value in ILLEGAL_VALUES},
    # What is checked but not remembered must be checked all the same.
    **{f"request id {value!r}": (b"x-request-id", value) for value in ILLEGAL_VALUES},
    **{f"timeout {value!r}": (b"grpc-timeout", value) for value in (*ILLEGAL_VALUES, *SPACED_VALUES)},
    **{f"path-like {value!r}": (b"user-agent", value) for value in ILLEGAL_VALUES},
    "connection": (b"connection", b"close"),
    "proxy-connection": (b"proxy-connection", b"close"),
    "keep-alive": (b"keep-alive", b"timeout=1"),
    "transfer-encoding": (b"transfer-encoding", b"chunked"),
    "transfer-encoding, static entry": (b"transfer-encoding", b""),
    "upgrade": (b"upgrade", b"h2c"),
    "te": (b"te", b"gzip"),
    "content-length that is no number": (b"content-length", b"1e3"),
    "content-length, static entry": (b"content-length", b""),
    "a pseudo-header behind a field": (b":authority", b"greeter"),
    "an unknown pseudo-header": (b":protocol", b"websocket"),
    "a pseudo-header without a name": (b":", b"v"),
}

# What makes a request malformed (section 8.3.1).
REQUESTS: Final[dict[str, Pairs]] = {
    **{what: (*without(PLAIN, b"te"), field) for what, field in FIELDS.items()},
    "nothing": (),
    "no :method": without(PLAIN, b":method"),
    "no :scheme": without(PLAIN, b":scheme"),
    "no :path": without(PLAIN, b":path"),
    "no pseudo-header": without(PLAIN, b":method", b":scheme", b":path", b":authority"),
    ":method twice": (PLAIN[0], *PLAIN),
    ":scheme twice": (PLAIN[1], *PLAIN),
    ":path twice": (PLAIN[2], *PLAIN),
    ":authority twice": (PLAIN[3], *PLAIN),
    ":path twice, another": ((b":path", b"/"), *PLAIN),
    ":path behind a field": (*without(PLAIN, b":path"), (b":path", b"/x")),
    ":method behind a field": (*without(PLAIN, b":method"), (b":method", b"POST")),
    "empty :path": instead(PLAIN, b":path", b""),
    ":path without a slash": instead(PLAIN, b":path", b"greeter.Greeter/SayHello"),
    ":path that is a URI": instead(PLAIN, b":path", b"http://greeter/"),
    ":path * for POST": instead(PLAIN, b":path", b"*"),
    ":path with a NUL": instead(PLAIN, b":path", b"/\0"),
    ":path with CR LF": instead(PLAIN, b":path", b"/ HTTP/1.1\r\nhost: x"),
    ":path with a space behind it": instead(PLAIN, b":path", b"/ "),
    "empty :method": instead(PLAIN, b":method", b""),
    ":method with LF": instead(PLAIN, b":method", b"POST\n"),
    "empty :scheme": instead(PLAIN, b":scheme", b""),
    ":authority with CR": instead(PLAIN, b":authority", b"greeter\r"),
    ":status in a request": ((b":status", b"200"), *PLAIN),
    ":protocol in front": ((b":protocol", b"websocket"), *PLAIN),
    "CONNECT with a path": instead(PLAIN, b":method", b"CONNECT"),
    "CONNECT without :authority": ((b":method", b"CONNECT"),),
    "two content-lengths": (*PLAIN, (b"content-length", b"7"), (b"content-length", b"8")),
}
RESPONSES: Final[dict[str, Pairs]] = {
    **{what: (*ANSWER, field) for what, field in FIELDS.items()},
    "nothing": (),
    "no :status": without(ANSWER, b":status"),
    ":status twice": (ANSWER[0], *ANSWER),
    ":status behind a field": (*without(ANSWER, b":status"), ANSWER[0]),
    ":path in a response": (*ANSWER[:1], (b":path", b"/"), *ANSWER[1:]),
    "status 20": instead(ANSWER, b":status", b"20"),
    "status 2000": instead(ANSWER, b":status", b"2000"),
    "status 2x0": instead(ANSWER, b":status", b"2x0"),
    "status 099": instead(ANSWER, b":status", b"099"),
    "status 101": instead(ANSWER, b":status", b"101"),
    "two content-lengths": (*ANSWER, (b"content-length", b"7"), (b"content-length", b"8")),
}
TRAILER_SECTIONS: Final[dict[str, Pairs]] = {
    **{what: (*END, field) for what, field in FIELDS.items()},
    ":status": ((b":status", b"200"), *END),
    ":path": ((b":path", b"/"), *END),
    ":unknown": ((b":unknown", b"x"), *END),
}

# --- the encodings -----------------------------------------------------------------------------------


class Encoding(NamedTuple):
    """`before`: blocks that go ahead on streams of their own, whatever becomes of them; then the block."""

    before: list[bytes]
    block: bytes


def _write(fields: Pairs, form: tuple[int, int], coded: bool, static_names: bool = False) -> bytes:
    out = b""
    for name, value in fields:
        known = static_index(name) if static_names else 0
        out += literal(known or name, value, form, coded_name=coded, coded=coded)
    return out


def _by_static_entries(fields: Pairs) -> Encoding:
    out = b""
    for name, value in fields:
        index = static_index(name, value)
        out += indexed(index) if index else literal(static_index(name) or name, value)
    return Encoding([], out)


def _by_reference(fields: Pairs) -> Encoding:
    """All fields were put into the table by an earlier block (malformed or not, its state counts)."""
    return Encoding(
        [_write(fields, INDEXING, True)],
        b"".join(indexed(61 + len(fields) - at) for at in range(len(fields))),
    )


def _by_names_in_the_table(fields: Pairs) -> Encoding:
    names = tuple((name, b"-") for name, _ in fields)
    block = b"".join(
        literal(61 + len(fields) - at, value, WITHOUT, coded=True) for at, (_, value) in enumerate(fields)
    )
    return Encoding([_write(names, INDEXING, False)], block)


ENCODINGS: Final[dict[str, Callable[[Pairs], Encoding]]] = {
    "literals": lambda fields: Encoding([], _write(fields, WITHOUT, False)),
    "Huffman": lambda fields: Encoding([], _write(fields, WITHOUT, True)),
    "static names": lambda fields: Encoding([], _write(fields, WITHOUT, True, True)),
    "static entries": _by_static_entries,
    "never indexed": lambda fields: Encoding([], _write(fields, NEVER, False)),
    "inserting": lambda fields: Encoding([], _write(fields, INDEXING, True, True)),
    "references": _by_reference,
    "names in the table": _by_names_in_the_table,
    "no state": lambda fields: Encoding([], size_update(0) + _write(fields, WITHOUT, True, True)),
    "no state, inserting": lambda fields: Encoding(
        [], size_update(0) + _write(fields, INDEXING, False, True)
    ),
    "remembered": lambda fields: Encoding([_write(fields, WITHOUT, True)] * 2, _write(fields, WITHOUT, True)),
}
# Of these it matters whether the process has seen much like them before.
MEMOISED: Final = ("literals", "Huffman", "references", "remembered", "no state")


def cases(found: dict[str, Pairs]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("fields", found.values(), ids=found)


class Scene:
    """A client, a backend, and a call of another client that must live on."""

    def __init__(self, warm: bool) -> None:
        self.world = ready(1)
        self.bystander = self.world.client()
        self.bystander.calls(end=False)
        self.backend = self.world.backend(1)
        if warm:
            self._warm(self.world.client(), PLAIN)
            self._warm(self.world.client(), without(PLAIN, b"te"))
        self.client = self.world.client()
        self.backend.take()

    def _warm(self, client: Client, fields: Pairs) -> None:
        """Names whose values never repeat are noticed: from then on their values are not remembered."""
        for at in range(int(MAX_VALUES_PER_NAME) + 3):
            varied = ((b"x-request-id", b"id-%d" % at), (b"grpc-timeout", b"%dm" % (100 + at)))
            stream = client.opens((*fields, *varied), end=True)
            answer, end = (*ANSWER, *varied), (*END, *varied)
            number = self.backend.streams_open()[-1]
            self.backend.sends(headers(number, answer), headers(number, end, end=True))
            client.receives(response(stream, answer), response(stream, end, True))

    def ends_well(self) -> None:
        self.client.still_works()
        self.backend.still_works()
        self.backend.take()
        self.bystander.sends(data(1, b"more", end=True))
        self.backend.receives(Data(1, b"more", True))
        self.backend.answers(1)
        self.bystander.receives(response(1, OK), Data(1, b"response"), response(1, TRAILERS, True))
        self.world.nothing_is_left()


def scenes(fields: Pairs) -> Iterator[tuple[Scene, list[bytes], bytes]]:
    """Each encoding in a process that has seen nothing, and some again in one that has seen a lot."""
    for encoding in ENCODINGS.values():
        scene = Scene(False)
        yield scene, *encoding(fields)
        scene.ends_well()
    scene = Scene(True)
    for name in MEMOISED:
        scene.client = scene.world.client()
        yield scene, *ENCODINGS[name](fields)
    scene.ends_well()


@cases(REQUESTS)
def test_a_request(fields: Pairs) -> None:
    for scene, before, block in scenes(fields):
        _fill_table_by_requests(scene, before)
        stream = scene.client.opens(block, end=True)
        scene.client.receives(Reset(stream, PROTOCOL_ERROR))
        scene.backend.receives_nothing()


def _fill_table_by_requests(scene: Scene, blocks: list[bytes]) -> None:
    """Requests for the sake of their table entries, malformed or not."""
    for block in blocks:
        scene.client.opens(block, end=True)
    for stream in scene.backend.streams_open()[1:]:  # the first is the bystander's
        scene.backend.answers(stream)
    scene.client.take()
    scene.backend.take()


@pytest.mark.parametrize("cut", [3, 9, 40])
def test_a_request_in_pieces(cut: int) -> None:
    scene = Scene(False)
    client, backend = scene.client, scene.backend
    block = _write(REQUESTS["value b'nul\\x00'"], WITHOUT, True)
    client.sends(split_headers(1, block, list(range(cut, len(block), cut)), True))
    client.receives(Reset(1, PROTOCOL_ERROR))
    backend.receives_nothing()
    scene.ends_well()


@cases(TRAILER_SECTIONS)
def test_trailers_of_a_request(fields: Pairs) -> None:
    for scene, before, block in scenes(fields):
        _fill_table_by_requests(scene, before)
        stream = scene.client.opens()
        scene.backend.take()
        scene.client.sends(headers(stream, block, end=True))
        scene.client.receives(Reset(stream, PROTOCOL_ERROR))
        (reset,) = scene.backend.take()
        assert isinstance(reset, Reset)


@cases(RESPONSES)
def test_a_response(fields: Pairs) -> None:
    """The client gets an answer of ours, the backend a reset; nothing of the block passes."""
    for scene, before, block in scenes(fields):
        _fill_table_by_trailers(scene, before)
        stream = scene.client.opens(end=True)
        number = scene.backend.streams_open()[-1]
        scene.backend.take()
        scene.backend.sends(headers(number, block))
        scene.backend.receives(Reset(number, PROTOCOL_ERROR))
        _is_answered_here(scene.client, stream)


@cases(TRAILER_SECTIONS)
def test_trailers_of_a_response(fields: Pairs) -> None:
    for scene, before, block in scenes(fields):
        _fill_table_by_trailers(scene, before)
        stream = scene.client.opens(end=True)
        number = scene.backend.streams_open()[-1]
        scene.backend.sends(headers(number, OK), data(number, b"body"))
        scene.client.receives(response(stream, OK), Data(stream, b"body"))
        scene.backend.take()
        scene.backend.sends(headers(number, block, end=True))
        scene.backend.receives(Reset(number, PROTOCOL_ERROR))
        _is_answered_here(scene.client, stream)


def _fill_table_by_trailers(scene: Scene, blocks: list[bytes]) -> None:
    """Trailers for the sake of their table entries, malformed or not."""
    for block in blocks:
        scene.client.opens(end=True)
        number = scene.backend.streams_open()[-1]
        scene.backend.sends(headers(number, OK), headers(number, block, end=True))
    scene.client.take()
    scene.backend.take()


def _is_answered_here(client: Client, stream: int) -> None:
    (answer,) = client.take()
    assert isinstance(answer, Headers)
    fields = dict(answer.fields)
    assert (answer.stream, answer.end, fields["grpc-status"]) == (stream, True, "14")
    assert "broke HTTP/2" in fields["grpc-message"]
    client.still_works()


# --- content-length ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "bodies"),
    [(5, []), (5, [b"1234"]), (5, [b"123456"]), (5, [b"123", b"456"]), (0, [b"1"]), (5, [b"12345", b"6"])],
)
def test_a_content_length_that_does_not_add_up(length: int, bodies: list[bytes]) -> None:
    """Section 8.1.1. DATA that fits may have been passed on; the message never ends as if it were whole."""
    for trailers in (False, True):
        world = ready(1)
        client = world.client()
        fields = (*PLAIN, (b"content-length", b"%d" % length))
        if not bodies and not trailers:
            client.sends(headers(1, fields, end=True))
        else:
            client.sends(headers(1, fields))
            for at, body in enumerate(bodies):
                client.sends(data(1, body, end=not trailers and at == len(bodies) - 1))
            if trailers:
                client.sends(headers(1, END, end=True))
        assert Reset(1, PROTOCOL_ERROR) in client.take()
        for event in world.backend(1).take():
            assert not getattr(event, "end", False)
        client.still_works()
        world.nothing_is_left()


@pytest.mark.parametrize("bodies", [[b"12345"], [b"123", b"45"], [b"", b"12345", b""]])
def test_a_content_length_that_adds_up(bodies: list[bytes]) -> None:
    world = ready(1)
    client = world.client()
    fields = (*PLAIN, (b"content-length", b"5"), (b"content-length", b"5"))
    client.sends(headers(1, fields), *(data(1, body) for body in bodies), data(1, b"", end=True))
    first, *rest = world.backend(1).take()
    assert first == request(1, fields)
    assert b"".join(event.payload for event in rest if isinstance(event, Data)) == b"12345"
    assert not any(isinstance(event, Reset | Goaway) for event in client.take())


@pytest.mark.parametrize(
    "fields", [(*PLAIN, (b"te", b"trailers")), instead(PLAIN, b":path", b"/\xc3\xbc"), PLAIN[:3]]
)
def test_what_is_legal_passes(fields: Pairs) -> None:
    """Also in the encodings that malformed messages are stopped in."""
    for encoding in ENCODINGS.values():
        world = ready(1)
        client = world.client()
        before, block = encoding(fields)
        for each in before:
            client.opens(each, end=True)
        world.backend(1).take()
        client.opens(block, end=True)
        (event,) = world.backend(1).take()
        assert isinstance(event, Headers)
        assert octets(event.fields) == fields


def test_options_may_ask_for_everything() -> None:
    world = ready(1)
    client = world.client()
    fields = ((b":method", b"OPTIONS"), (b":scheme", b"http"), (b":path", b"*"), (b":authority", b"x"))
    client.opens(fields, end=True)
    world.backend(1).receives(request(1, fields, True))
