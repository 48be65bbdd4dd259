"""Frames: octets as they come from a client, and as they come from a backend, in reads of any size."""

from __future__ import annotations

from fuzzengine import check_bounds, ends
from fuzzinput import Input
from rawhttp2 import POST, PREFACE, frame, headers, settings
from transcript import Party, ready

MOST_READS = 40


def one(octets: bytes) -> None:
    """Mode, then reads: each a number of octets and the octets, or a frame with a payload of them."""
    given = Input(octets)
    mode = given.choose(4)
    world = ready(1, 2)
    bystander = world.client()
    bystander.opens()
    party: Party
    if mode == 0:
        party = world.raw_client()
    elif mode == 1:
        party = world.raw_client()
        party.sends(PREFACE)
    elif mode == 2:
        party = world.client()
        party.sends(headers(1, POST), headers(3, POST, end=True))
    else:
        world.client().sends(headers(1, POST), headers(3, POST, end=True))
        party = world.backend(1)
        party.sends(settings(ack=True))
    for _ in range(MOST_READS):
        if not given.left:
            break
        way = given.choose(3)
        if way == 0:
            party.sends(given.take(255))
        else:
            kind, flags, stream = given.choose(12), given.octet(), given.choose(8)
            out = frame(kind, flags, stream, given.take(255))
            cut = given.choose(len(out)) if way == 2 else 0
            party.sends(out[:cut])
            party.sends(out[cut:])
        check_bounds(world)
    if party is not world.backend(1) or not party.closed:
        assert not bystander.closed, "what one peer sent ended another's connection"
    ends(world)
