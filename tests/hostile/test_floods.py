"""Clients that flood, against the real process: cut off within their bound while another client's calls go on."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterable

import pytest
from hostile_mesh import ECHO, GRPC_CALL, Attack, request_to, until
from hostile_peers import Attacker
from rawhttp2 import (
    CONTINUATION,
    ENHANCE_YOUR_CALM,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    INSERT_LARGE,
    NEWEST,
    PRIORITY,
    REFUSED_STREAM,
    SETTINGS,
    Data,
    Headers,
    Reset,
    data,
    frame,
    goaway,
    headers,
    literal,
    ping,
    rst,
    settings,
    string,
    window,
)

pytestmark = pytest.mark.once  # the bounds are the same in both builds, and the playbook holds them in both

HANG = request_to("Hang")
LARGE = request_to("Large")
SWALLOW = request_to("Swallow")
BLOCK = literal(HANG)
TEN_MEGABYTES = b"\0" + struct.pack(">I", 3) + b"160"  # messages of 64 KiB
# 40 octets that stand for 120 KB.
BOMB = literal(HANG) + NEWEST * 40


def odd() -> Iterable[int]:
    return itertools.count(1, 2)


def flood(
    attack: Attack, frames: Iterable[bytes], most: int, before: bytes = b"", code: int = ENHANCE_YOUR_CALM
) -> None:
    """Send until the sidecar has had enough: it says so, and the rest is not acted on."""
    attacker = Attacker(attack.port)
    attacker.send(before)
    for batch in batches(frames, most * 4):
        if not attacker.send(batch):
            break
        attacker.read_some(0.001)
        if attacker.ended:
            break
    attacker.read_to_the_end()
    told = attacker.goaway()
    assert told is not None, "no GOAWAY came"
    assert told.code == code, told
    attacker.close()
    attack.is_survived()


def batches(frames: Iterable[bytes], most: int) -> Iterable[bytes]:
    """So many frames, a hundred in a write."""
    source = iter(itertools.islice(frames, most))
    while batch := b"".join(itertools.islice(source, 100)):
        yield batch


# --- resets ----------------------------------------------------------------------------------------------


def test_rapid_reset(attack: Attack) -> None:
    flood(attack, (headers(s, BLOCK) + rst(s) for s in odd()), 1100)


MADE_YOU_RESET: dict[str, Callable[[int], bytes]] = {
    "WINDOW_UPDATE of 0": lambda s: headers(s, BLOCK) + window(s, 0),
    "a window too large": lambda s: headers(s, BLOCK) + window(s, 2**31 - 1),
    "DATA after END_STREAM": lambda s: headers(s, BLOCK, end=True) + data(s, b"x"),
    "PRIORITY of 4 octets": lambda s: headers(s, BLOCK) + frame(PRIORITY, 0, s, bytes(4)),
    "a malformed request": lambda s: headers(s, BLOCK + literal((("Upper", "x"),))),
}


@pytest.mark.parametrize("way", MADE_YOU_RESET)
def test_made_you_reset(attack: Attack, way: str) -> None:
    flood(attack, (MADE_YOU_RESET[way](s) for s in odd()), 200)


# --- frames that move nothing ----------------------------------------------------------------------------


NUISANCES = {
    "PING": ping(),
    "SETTINGS": settings(),
    "SETTINGS full of changes": frame(SETTINGS, 0, 0, struct.pack(">HIHI", 4, 0, 4, 65535) * 200),
    "acknowledgements": settings(ack=True),
    "PRIORITY": frame(PRIORITY, 0, 1, bytes(5)),
    "WINDOW_UPDATE of a stream": window(1, 1),
    "WINDOW_UPDATE of the connection": window(0, 1),
    "empty DATA": data(1, b""),
    "DATA of padding only": data(1, b"", pad=20),
    "unknown frames": frame(0x77, 0, 0, b"x"),
    "GOAWAY": goaway(0),
}


@pytest.mark.parametrize("kind", NUISANCES)
def test_a_flood_of_frames_that_move_nothing(attack: Attack, kind: str) -> None:
    flood(attack, itertools.repeat(NUISANCES[kind]), 1100, before=headers(1, BLOCK))


def test_a_flood_of_frames_that_move_next_to_nothing(attack: Attack) -> None:
    """An octet of DATA with each PING keeps the connection, and costs no more than its octets."""
    attacker = Attacker(attack.port)
    attacker.send(headers(1, literal(SWALLOW)))
    for _ in range(100):
        attacker.send((data(1, b"x") + ping() * 2) * 100)
        attacker.read_some(0.001)
    attack.is_survived()
    attacker.close()


# --- header blocks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 1000, 16384])
def test_a_flood_of_continuations(attack: Attack, size: int) -> None:
    before = frame(HEADERS, 0, 1, b"\x00")
    flood(attack, itertools.repeat(frame(CONTINUATION, 0, 1, bytes(size))), (256 << 10) // size, before)


def test_a_flood_of_empty_continuations(attack: Attack) -> None:
    flood(attack, itertools.repeat(frame(CONTINUATION, 0, 1)), 100, frame(HEADERS, 0, 1, b""))


def test_an_hpack_bomb(attack: Attack) -> None:
    flood(attack, [headers(3, literal(HANG) + NEWEST * 2000)], 1, headers(1, literal(HANG) + INSERT_LARGE))


def test_hpack_bombs_just_below_the_limit(attack: Attack) -> None:
    """120 KB of header list from 200 octets, on stream after stream."""
    before = headers(1, literal(HANG) + INSERT_LARGE)
    flood(attack, (headers(s, BOMB) for s in itertools.count(3, 2)), 1000, before)


def test_hpack_bombs_as_trailers(attack: Attack) -> None:
    attacker = Attacker(attack.port)
    attacker.send(headers(1, literal(SWALLOW) + INSERT_LARGE))
    streams = range(3, 603, 2)
    attacker.send(*[headers(s, literal(SWALLOW)) for s in streams])
    attacker.send(*[headers(s, NEWEST * 40, end=True) for s in streams])
    attacker.read_until(lambda: attacker.answered() + attacker.count(Reset) >= 100, "they are over", 60)
    attack.is_survived()
    attacker.close()


@pytest.mark.parametrize("unique", ["values", "names", "blocks"])
def test_headers_that_never_repeat(attack: Attack, unique: str) -> None:
    """What is remembered of them is bounded."""
    attacker = Attacker(attack.port)
    plain = literal(ECHO)
    for first in range(1, 12_001, 50):
        for s in range(first, first + 50, 2):
            fields = {
                "values": [(f"k{n}", "v" * 180 + str(s)) for n in range(10)],
                "names": [(f"k{s}-{n}" + "n" * 100, "v" * 100) for n in range(10)],
                "blocks": [("k", "v" * 700 + str(s))],
            }[unique]
            attacker.send(headers(s, plain + literal(fields)) + data(s, GRPC_CALL, True))
        attacker.send(window(0, 1000))
        attacker.read_until(lambda: attacker.answered() >= 25, "answers")
        attacker.events.clear()
    attack.is_survived()
    attacker.close()


@pytest.mark.parametrize("at_once", [1, 25], ids=["one after another", "at once"])
def test_methods_of_endless_names(attack: Attack, at_once: int) -> None:
    """Streams are counted by method, so their names are remembered: not these."""
    attacker = Attacker(attack.port)
    for first in range(1, 401, 2 * at_once):
        for s in range(first, first + 2 * at_once, 2):
            attacker.send(headers(s, request_to(f"{s:0100000}")), data(s, GRPC_CALL, True))
        attacker.read_until(lambda: attacker.answered() >= at_once, "answers")
        attacker.events.clear()
    attack.is_survived()
    attacker.close()


def test_a_table_that_is_never_given_up(attack: Attack) -> None:
    """A peer that never honours our table size of 0 is decoded for ever, and costs its own time only."""
    attacker = Attacker(attack.port)
    inserts = b"".join(b"\x40\x02" + b"%02d" % n + string(b"y" * 50) for n in range(20))
    for first in range(1, 2001, 50):
        for s in range(first, first + 50, 2):
            attacker.send(headers(s, literal(ECHO) + inserts) + data(s, GRPC_CALL, True))
        attacker.send(window(0, 1000))
        attacker.read_until(lambda: attacker.answered() >= 25, "answers")
        attacker.events.clear()
    attack.is_survived()
    attacker.close()


# --- streams ---------------------------------------------------------------------------------------------


def test_too_many_streams(attack_elsewhere: Attack) -> None:
    """Minimal headers, as many streams as there may be and more."""
    flood(attack_elsewhere, (headers(s, BLOCK) for s in odd()), 5300)


def test_uploads_that_never_end(attack: Attack) -> None:
    """Each takes its first window and stays."""
    attacker = Attacker(attack.port)
    streams = range(1, 61, 2)
    attacker.send(*[headers(s, literal(HANG)) for s in streams])
    for s in streams:
        attacker.send(data(s, b"\0" + struct.pack(">I", 65_530) + bytes(65_530)))
    attack.is_survived()
    attacker.close()


# --- readers ---------------------------------------------------------------------------------------------


def asks_for_much(attack: Attack, streams: range, connection: int = 1 << 30) -> Attacker:
    attacker = Attacker(attack.port)
    attacker.send(settings({INITIAL_WINDOW_SIZE: 10 << 20}), window(0, connection))
    attacker.send(*[headers(s, literal(LARGE)) + data(s, TEN_MEGABYTES, True) for s in streams])
    return attacker


def test_a_reader_that_stops(attack: Attack) -> None:
    """30 streams of 10 MB each, granted in full and never read from the socket."""
    attacker = asks_for_much(attack, range(1, 61, 2))
    for _ in range(5):
        attack.caller.goes_on()
    attack.is_survived()
    attacker.close()


def test_many_readers_that_stop(attack: Attack) -> None:
    """90 connections with one such stream each, and next to nothing that a kernel could take for them."""
    attackers = [Attacker(attack.port, receive_buffer=4096) for _ in range(90)]
    for attacker in attackers:
        attacker.send(settings({INITIAL_WINDOW_SIZE: 10 << 20}), window(0, 10 << 20))
        attacker.send(headers(1, literal(LARGE)) + data(1, TEN_MEGABYTES, True))

    def held() -> int:
        return int(attack.mesh.status()["engine"]["held_bytes"])

    until(lambda: held() >= 1 << 20, "the readers hold something up")
    before = 0
    while (now := held()) > before:  # the kernel's buffers grow for a while
        before = now
        attack.caller.goes_on()
    attack.is_survived()
    for attacker in attackers:
        attacker.close()


def test_a_reader_that_keeps_its_connections_window_shut(attack: Attack) -> None:
    """It reads, but grants the connection nothing more: 30 streams of 10 MB are held up behind 64 KiB."""
    attacker = asks_for_much(attack, range(1, 61, 2), connection=1)
    for _ in range(10):
        attacker.read_some(0.1)
    attack.is_survived()
    attacker.close()


def test_a_reader_that_dribbles(attack: Attack) -> None:
    """An octet of window at a time (CVE-2019-9511)."""
    attacker = Attacker(attack.port)
    attacker.send(settings({INITIAL_WINDOW_SIZE: 0}))
    attacker.send(*[headers(s, literal(LARGE)) + data(s, TEN_MEGABYTES, True) for s in range(1, 41, 2)])
    attacker.read_until(lambda: attacker.count(Headers) >= 20, "answers")
    for _ in range(50):
        attacker.send(*[window(s, 1) * 5 for s in range(1, 41, 2)])
        attacker.read_some(0.01)
    attacker.read_until(lambda: attacker.count(Data) >= 1000, "octets")
    attack.is_survived()
    attacker.close()


def test_settings_that_change_all_streams_at_once(attack_elsewhere: Attack) -> None:
    """4,000 streams, and frames with hundreds of changes each."""
    attack = attack_elsewhere
    changes = frame(SETTINGS, 0, 0, struct.pack(">HIHI", 4, 0, 4, 65535) * 1300)
    attacker = Attacker(attack.port)
    attacker.send(*[headers(s, BLOCK) for s in range(1, 8001, 2)])
    for _ in range(300):
        if not attacker.send(changes):
            break
        attacker.read_some(0.001)
    attacker.read_to_the_end()
    told = attacker.goaway()
    assert told is not None
    assert told.code == ENHANCE_YOUR_CALM
    assert not [e for e in attacker.events if isinstance(e, Reset) and e.code == REFUSED_STREAM]
    attack.is_survived()
