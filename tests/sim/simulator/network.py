"""TCP as programs see it: bytes in order, late and in pieces, bounded buffers, FIN, RST, and peers that vanish."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from simulator.clock import Clock

# What a kernel that is told so (sidecar/net/sockets.py) needs to find a vanished peer: with something unacknowledged,
# and with nothing in flight.
USER_TIMEOUT = 15.0
# From a packet that gets lost to the moments when Linux sends it again: 200 ms, and then twice as long each time.
SENT_AGAIN_AT = (0.2, 0.6, 1.4, 3.0, 6.2, 12.6)
KEEPALIVE = 25.0
# Small pieces cost an event each; what is left of a write after so many arrives as one.
MAX_PIECES = 12


class Weather(NamedTuple):
    """How a link is."""

    latency: float = 0.0005  # seconds, one way
    jitter: float = 0.0  # seconds more, at most
    pieces: str = "whole"  # how writes arrive: whole, halves or crumbs
    capacity: int = 262_144  # octets that both kernels together keep for one direction


class End:
    """One socket. `owner` is called whenever something has changed: input, the end, an error, room for output."""

    def __init__(self, link: Link, name: str) -> None:
        self.link = link
        self.name = name
        self.owner: Callable[[End], None] | None = None
        self.connected = False
        self.closed = False  # by its program
        self.inbox = bytearray()  # arrived, not yet read
        self.ended = False  # the other side's FIN has arrived
        self.error = ""
        self.wants_room = False
        self.other: End = self
        self._flying = 0
        self._flying_since = 0.0
        self._last = 0.0
        self._fin = False

    # --- the program's side ----------------------------------------------------------------------

    def write(self, data: bytes | bytearray) -> int:
        """How many octets the kernel took. A broken socket takes all; that it is broken shows as `error`."""
        if self.closed or self._fin or self.error:
            return len(data)
        room = self.link.weather.capacity - self._flying - len(self.other.inbox)
        taken = bytes(data) if len(data) <= room else bytes(data[: max(0, room)])
        if len(taken) < len(data):
            self.wants_room = True
        if taken:
            if not self._flying:
                self._flying_since = self.link.network.clock.now
            self._flying += len(taken)
            self.link.carry(self, taken)
        return len(taken)

    def read(self, most: int) -> bytes:
        data = bytes(self.inbox[:most])
        del self.inbox[:most]
        other = self.other
        if data and other.wants_room:
            other.wants_room = False
            self.link.soon(other.wake)
        return data

    def sent_again(self) -> int:
        """How often in a row what is in flight was sent again (TCP_INFO); -1 if nothing is in flight."""
        if not self._flying:
            return -1
        now = self.link.network.clock.now
        if not self.link.vanished and now >= self.link.held_until:
            return 0
        waited = now - max(self._flying_since, self.link.held_since)
        return sum(1 for when in SENT_AGAIN_AT if waited >= when)

    def close(self) -> None:
        """FIN after what was written. What still arrives is read and thrown away."""
        if not self.closed and not self._fin:
            self._fin = True
            self.closed = True
            self.owner = None
            self.inbox.clear()
            self.link.carry_end(self)

    def abort(self) -> None:
        """RST."""
        if not self.closed:
            self.closed = True
            self.owner = None
            self.inbox.clear()
            self.link.carry_reset(self)

    # --- the network's side ----------------------------------------------------------------------

    def wake(self) -> None:
        if self.owner is not None:
            self.owner(self)

    def arrive(self, data: bytes) -> None:
        sender = self.other
        sender._flying -= len(data)
        if self.error:
            return
        if self.closed:
            if sender.wants_room:
                sender.wants_room = False
                sender.wake()
            return
        self.inbox += data
        self.wake()

    def arrive_end(self) -> None:
        if not self.error and not self.ended:
            self.ended = True
            self.wake()
        self.link.forget_if_over()

    def fail(self, why: str) -> None:
        if not self.closed and not self.error:
            self.error = why
            self.wake()
        self.link.forget_if_over()


class Link:
    """Two ends and the way between them."""

    def __init__(self, network: Network, name: str, host: str, weather: Weather) -> None:
        self.network = network
        self.name = name
        self.host = host  # whom it was dialled to
        self.weather = weather
        self.random = random.Random(f"{network.seed}/{name}")
        self.near = End(self, name + " near")
        self.far = End(self, name + " far")
        self.near.other, self.far.other = self.far, self.near
        self.cut = False  # reset or vanished: nothing arrives any more
        self.vanished = False
        self.held_until = 0.0  # nothing arrives before
        self.held_since = 0.0

    def soon(self, act: Callable[[], None]) -> None:
        self.network.clock.after(self.weather.latency, act)

    def _arrival(self, end: End) -> float:
        weather = self.weather
        when = self.network.clock.now + weather.latency
        if weather.jitter:
            when += self.random.random() * weather.jitter
        when = max(when, end._last, self.held_until)
        end._last = when
        return when

    def carry(self, end: End, data: bytes) -> None:
        if self.vanished:
            self.network.lost_on.setdefault(self, self.network.clock.now)
            self.network.clock.after(USER_TIMEOUT, lambda: end.fail("did not answer in time"))
        if self.cut:
            return
        target = end.other
        for piece in self._pieces(data):
            self.network.clock.at(self._arrival(end), lambda piece=piece: self._deliver(target, piece))  # type: ignore[misc]

    def _deliver(self, target: End, piece: bytes) -> None:
        if not self.cut:
            target.arrive(piece)

    def _pieces(self, data: bytes) -> list[bytes]:
        manner = self.weather.pieces
        if manner == "whole" or len(data) < 2:
            return [data]
        if manner == "halves":
            at = self.random.randrange(1, len(data))
            return [data[:at], data[at:]]
        pieces = []
        while data and len(pieces) < MAX_PIECES:
            size = self.random.randint(1, 12)
            pieces.append(data[:size])
            data = data[size:]
        return [*pieces, data] if data else pieces

    def carry_end(self, end: End) -> None:
        target = end.other
        if not self.cut:
            self.network.clock.at(self._arrival(end), target.arrive_end)

    def carry_reset(self, end: End) -> None:
        """It overtakes what is on its way, half the time."""
        target = end.other
        if self.cut:
            return
        if self.random.random() < 0.5:
            self.cut = True
        self.network.clock.at(
            self._arrival(end) if not self.cut else self.network.clock.now + self.weather.latency,
            lambda: self._was_reset(target),
        )

    def _was_reset(self, target: End) -> None:
        self.cut = True
        target.fail("reset the connection")

    def reset(self) -> None:
        """Something on the way sends RST to both."""
        self.cut = True
        for end in (self.near, self.far):
            self.soon(lambda end=end: end.fail("reset the connection"))  # type: ignore[misc]

    def vanish(self) -> None:
        """Nothing arrives any more, and nobody is told."""
        if self.vanished:
            return
        self.cut = self.vanished = True
        self.held_since = self.network.clock.now
        for end in (self.near, self.far):
            after = USER_TIMEOUT if end._flying else KEEPALIVE
            self.network.clock.after(after, lambda end=end: end.fail("did not answer in time"))  # type: ignore[misc]

    def hold(self, until: float) -> None:
        """What is written from now on arrives late, as after lost packets."""
        if self.held_until < self.network.clock.now:
            self.held_since = self.network.clock.now
        self.held_until = max(self.held_until, until)

    def forget_if_over(self) -> None:
        if all(end.closed or end.error for end in (self.near, self.far)):
            self.network.links.pop(self, None)


class Network:
    def __init__(self, clock: Clock, seed: str) -> None:
        self.clock = clock
        self.seed = seed
        self.links: dict[Link, None] = {}
        self.listeners: dict[str, Callable[[End], None]] = {}
        self.absent: dict[str, None] = {}  # hosts that no packet reaches
        self.lost_on: dict[
            Link, float
        ] = {}  # where the other end has vanished: when first something was sent
        self._dialled: dict[str, int] = {}

    def dial(self, source: str, host: str, weather: Weather) -> End:
        """A socket on its way to `host`: `connected` or `error` follows, or neither if the host is absent."""
        number = self._dialled[source + host] = self._dialled.get(source + host, 0) + 1
        link = Link(self, f"{source}>{host}#{number}", host, weather)
        self.links[link] = None
        if host in self.absent:
            link.cut = link.vanished = True
            return link.near
        link.soon(lambda: self._answer(link, host))
        return link.near

    def _answer(self, link: Link, host: str) -> None:
        near, far = link.near, link.far
        if link.cut or near.closed:
            return
        accept = self.listeners.get(host)
        if accept is None:
            far.closed = True
            link.soon(lambda: near.fail("refused the connection"))
            return
        far.connected = True
        link.soon(lambda: self._established(near))
        accept(far)

    def _established(self, near: End) -> None:
        if not near.closed and not near.error:
            near.connected = True
            near._last = max(near._last, self.clock.now)
            near.wake()

    def first_lost(self, source: str, host: str, since: float) -> float:
        """When something was first sent to a host that had vanished then; infinity if nothing was."""
        return min(
            (
                at
                for link, at in self.lost_on.items()
                if link.name.startswith(source + ">") and link.host == host and at >= since
            ),
            default=float("inf"),
        )

    def between(self, source: str, host: str = "") -> list[Link]:
        """Links still open that begin with `source` and lead to `host`, in the order they were made."""
        return [
            link
            for link in self.links
            if link.name.startswith(source) and (not host or link.host == host) and not link.cut
        ]
