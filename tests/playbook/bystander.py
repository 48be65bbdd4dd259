"""What attacks need: another client of the same backend, which must not notice, and how a flood ends."""

from __future__ import annotations

from collections.abc import Iterator

from rawhttp2 import ENHANCE_YOUR_CALM, OK, TRAILERS, Data, data, response, window
from transcript import Party, World

ODD = range(1, 1 << 20, 2)


class Bystander:
    """Another client of the same backend, with one stream open from before the attack to after it."""

    def __init__(self, world: World) -> None:
        self.client = world.client()
        self.stream = self.client.opens()
        self.backend = world.backend(1)
        self.backend.sends(window(0, 1 << 30))  # it reads what it gets
        self.number = max(self.backend.streams_open())
        self.client.take()

    def check(self) -> None:
        self.client.sends(data(self.stream, b"still here", end=True))
        assert not self.backend.closed
        assert Data(self.number, b"still here", True) in self.backend.take()
        self.backend.answers(self.number)
        self.client.receives(
            response(self.stream, OK), Data(self.stream, b"response"), response(self.stream, TRAILERS, True)
        )
        late = self.client.calls()
        self.backend.answers(max(self.backend.streams_open()))
        assert self.client.outcome(late) == ("0", "")


def flood(
    party: Party, frames: Iterator[bytes] | list[bytes], most: int, code: int = ENHANCE_YOUR_CALM
) -> int:
    """Send one after the other; the party is to be told after at most `most`. How many it took."""
    sent = 0
    for each in frames:
        party.sends(each)
        if party.closed:
            break
        sent += 1
        assert sent <= most, "not cut off"
    party.is_told(code)
    return sent
