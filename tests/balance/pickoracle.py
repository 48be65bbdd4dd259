"""The picker's promises, done naively: scan everything, sort, count. Slow, and short enough to be seen to be right."""

from __future__ import annotations

from collections.abc import Sequence

from sidecar.balance.endpoints import Endpoint
from sidecar.balance.picker import MAX_METHODS, MAX_SLOTS, LeastOpenStreams, Member, Slot

SHARED = b""


def members(number: int) -> list[Member]:
    return [Member(Endpoint(f"10.0.{at // 250}.{at % 250 + 1}", 50051)) for at in range(number)]


def in_order(order: list[Member]) -> None:
    """A shuffle that leaves things as they are."""


class Oracle:
    """Which member should have the next stream of a method, by the rules in docs/adr/0003.

    Each method keeps, for each member in rotation, the moment it last came to its present count; among those with
    the fewest open streams the one that waited longest is next.
    """

    def __init__(self) -> None:
        self.members: list[Member] = []
        self.rotation: list[Member] = []
        self.methods: dict[bytes, dict[Member, int]] = {}  # open streams, of members here or gone
        self.since: dict[bytes, dict[Member, int]] = {}
        self.picked: dict[Member, int] = {}
        self.clock = 0

    def _tick(self) -> int:
        self.clock += 1
        return self.clock

    def update(self, wanted: Sequence[Member]) -> None:
        for member in self.members:
            if member not in wanted:
                self.suspend(member)
        known, self.members = self.members, list(wanted)
        for member in wanted:
            if member not in known:
                self.resume(member)

    def suspend(self, member: Member) -> None:
        if member in self.rotation:
            self.rotation.remove(member)
            for since in self.since.values():
                since.pop(member, None)

    def resume(self, member: Member) -> None:
        if member not in self.rotation:
            self.rotation.append(member)
            for since in self.since.values():
                since[member] = self._tick()

    def known(self, method: bytes) -> bytes:
        """The name its streams are counted under; makes room as the picker does."""
        if method in self.methods:
            return method
        most = min(MAX_METHODS, MAX_SLOTS // max(1, len(self.members)))
        if len(self.methods) >= most:
            for name in [name for name, counts in self.methods.items() if not any(counts.values())]:
                del self.methods[name], self.since[name]
            if len(self.methods) >= most:
                method = SHARED
                if method in self.methods:
                    return method
        self.methods[method] = {}
        self.since[method] = {}
        rotation = [member for member in self.members if member in self.rotation]
        for member in sorted(rotation, key=lambda each: self.picked.get(each, 0)):
            self.since[method][member] = self._tick()
        return method

    def pick(self, method: bytes) -> tuple[Member, bytes] | None:
        method = self.known(method)
        if not self.rotation:
            return None
        counts, since = self.methods[method], self.since[method]
        chosen = min(self.rotation, key=lambda each: (counts.get(each, 0), since[each]))
        self.picked[chosen] = self.picked.get(chosen, 0) + 1
        self._change(chosen, method, 1)
        return chosen, method

    def release(self, member: Member, method: bytes) -> None:
        if method in self.methods:
            self._change(member, method, -1)

    def _change(self, member: Member, method: bytes, by: int) -> None:
        counts = self.methods[method]
        counts[member] = counts.get(member, 0) + by
        if member in self.rotation:
            self.since[method][member] = self._tick()


class Pair:
    """The picker and the oracle side by side; every pick is compared."""

    def __init__(self, number: int) -> None:
        self.all = members(number)
        self.picker = LeastOpenStreams(in_order)
        self.oracle = Oracle()
        self.open: list[tuple[Slot, Member, bytes]] = []

    def update(self, wanted: Sequence[Member]) -> None:
        self.picker.update(wanted)
        self.oracle.update(wanted)
        self.check()

    def suspend(self, member: Member) -> None:
        self.picker.suspend(member)
        self.oracle.suspend(member)
        self.check()

    def resume(self, member: Member) -> None:
        self.picker.resume(member)
        self.oracle.resume(member)
        self.check()

    def pick(self, method: bytes) -> Member | None:
        slot, expected = self.picker.pick(method), self.oracle.pick(method)
        if slot is None or expected is None:
            assert slot is None
            assert expected is None
            return None
        assert slot.member is expected[0]
        self.open.append((slot, *expected))
        self.check()
        return expected[0]

    def release(self, at: int) -> None:
        slot, member, method = self.open.pop(at)
        self.picker.release(slot)
        self.oracle.release(member, method)
        self.check()

    def check(self) -> None:
        """Counts are those of the streams that are open, and rotation is what was asked for."""
        counts = dict.fromkeys(self.all, 0)
        for _, member, _ in self.open:
            counts[member] += 1
        for member in self.all:
            assert member.open_streams == counts[member]
            assert member.in_rotation == (member in self.oracle.rotation)
