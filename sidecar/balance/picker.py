"""Least open streams, counted for each method, in constant time.

Why for each method: a long-lived stream and a short call are not the same burden. Counted together, a pod
that has just joined would be given every short call until it had as many long streams as the others,
which may never come. Counted by method, long streams go to the pod that has fewest of *them*, while short
calls go round all pods evenly at the same time. docs/adr/0003 tells more.

Members with equally many open streams stand in a queue: the one that waited longest is picked. So calls
made one after another go round in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, final

from mypy_extensions import i64

from sidecar.balance.endpoints import Endpoint

# Methods counted on their own; with the next one idle ones are forgotten, and if none is idle it shares one count.
MAX_METHODS: Final = 128
# Bounds the memory of counts: about 100 octets each.
MAX_SLOTS: Final = 32_768
SHARED_METHOD: Final = b""


class Member:
    """An endpoint as a balancer sees it. The splice layer adds its connections in a subclass."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.open_streams: i64 = 0
        self.picked: i64 = 0  # ever
        self.in_rotation: bool = False


@final
class Slot:
    """One member's open streams of one method, linked into the queue of members that have as many."""

    def __init__(self, member: Member | None, method: MethodCount | None) -> None:
        self.member: Final = member
        self.method: Final = method
        self.open: i64 = 0
        self.linked: bool = False
        self.before: Slot = self
        self.after: Slot = self

    def unlink(self) -> None:
        self.before.after = self.after
        self.after.before = self.before
        self.before = self
        self.after = self
        self.linked = False

    def link_before(self, mark: Slot) -> None:
        self.before = mark.before
        self.after = mark
        mark.before.after = self
        mark.before = self
        self.linked = True


@final
class MethodCount:
    """The open streams of one method over all members: a queue for each count, and the lowest count in use."""

    def __init__(self, name: bytes) -> None:
        self.name: Final = name
        self.slots: dict[Member, Slot] = {}
        self.open: i64 = 0
        self._queues: list[Slot] = []  # sentinels; the index is the count
        self._lowest: i64 = 0
        self._linked: i64 = 0

    def add(self, member: Member) -> None:
        """Put a member into rotation, behind the others with as many streams."""
        slot = self.slots.get(member)
        if slot is None:
            slot = Slot(member, self)
            self.slots[member] = slot
        if not slot.linked:
            self._linked += 1
            self._enqueue(slot)

    def suspend(self, member: Member) -> None:
        """Take a member out of rotation; its open streams stay counted."""
        slot = self.slots.get(member)
        if slot is not None and slot.linked:
            slot.unlink()
            self._linked -= 1

    def forget(self, member: Member) -> None:
        """The member is gone. Streams it still has stay counted, should it come back before they end."""
        self.suspend(member)
        slot = self.slots.get(member)
        if slot is not None and slot.open == 0:
            del self.slots[member]

    def pick(self) -> Slot | None:
        """The member with the fewest, already counted with one more; None if there is none in rotation."""
        if self._linked == 0:
            return None
        queues = self._queues
        while True:
            mark = queues[self._lowest]
            if mark.after is not mark:
                break
            self._lowest += 1
        slot = mark.after
        self.opened(slot)
        member = slot.member
        if member is not None:
            member.picked += 1
        return slot

    def opened(self, slot: Slot) -> None:
        slot.open += 1
        self.open += 1
        member = slot.member
        if member is not None:
            member.open_streams += 1
        self._requeue(slot)

    def closed(self, slot: Slot) -> None:
        slot.open -= 1
        self.open -= 1
        member = slot.member
        if member is not None:
            member.open_streams -= 1
            if slot.open == 0 and not slot.linked:
                self.slots.pop(member, None)
        self._requeue(slot)

    def clear(self) -> None:
        """Nothing is open and nobody in rotation."""
        for slot in self.slots.values():
            slot.unlink()
            slot.open = 0
        self.slots.clear()
        self.open = 0
        self._queues = []
        self._lowest = 0
        self._linked = 0

    def recounted(self, slot: Slot, member: Member) -> None:
        """One more is open on the slot; before anybody is in rotation."""
        self.slots[member] = slot
        slot.open += 1
        self.open += 1
        member.open_streams += 1

    def _requeue(self, slot: Slot) -> None:
        if slot.linked:
            slot.unlink()
            self._enqueue(slot)

    def _enqueue(self, slot: Slot) -> None:
        count = slot.open
        queues = self._queues
        while count >= len(queues):
            queues.append(Slot(None, None))
        slot.link_before(queues[count])
        if count < self._lowest:
            self._lowest = count


@final
class LeastOpenStreams:
    """Picks among the members of one Service port. `shuffle` puts a list into random order, in place.

    Each method starts its round with the endpoints that were picked least so far, and by chance among equals,
    so that neither the methods of one application nor the sidecars of many pods begin with the same endpoint.
    """

    def __init__(self, shuffle: Callable[[list[Member]], None]) -> None:
        self._shuffle = shuffle
        self.in_rotation: i64 = 0  # members
        self._members: list[Member] = []
        self._methods: dict[bytes, MethodCount] = {}

    def update(self, members: Iterable[Member]) -> None:
        """These members and no others. New ones come in rotation; those gone keep no count."""
        wanted = list(members)
        kept = set(wanted)
        known = set(self._members)
        for member in self._members:
            if member not in kept:
                if member.in_rotation:
                    member.in_rotation = False
                    self.in_rotation -= 1
                for method in self._methods.values():
                    method.forget(member)
        self._members = wanted
        for member in wanted:
            if member not in known:
                self.resume(member)

    def suspend(self, member: Member) -> None:
        """No new streams for it until `resume`."""
        if member.in_rotation:
            member.in_rotation = False
            self.in_rotation -= 1
            for method in self._methods.values():
                method.suspend(member)

    def resume(self, member: Member) -> None:
        if not member.in_rotation:
            member.in_rotation = True
            self.in_rotation += 1
            for method in self._methods.values():
                method.add(member)

    def pick(self, method: bytes) -> Slot | None:
        """The slot of the member that should have a new stream of `method`, counted; None if none may.

        Give it back with `release` when the stream has ended.
        """
        count = self._methods.get(method)
        if count is None:
            count = self._new_method(method)
        return count.pick()

    def release(self, slot: Slot) -> None:
        method = slot.method
        if method is not None:
            method.closed(slot)

    def recount(self, open_slots: Iterable[Slot]) -> None:
        """Count anew: these slots are held, each by one stream (so one may come several times), and no others."""
        held = list(open_slots)
        for slot in held:
            slot.unlink()
            slot.open = 0
            if slot.method is not None:
                slot.method.open = 0
            if slot.member is not None:
                slot.member.open_streams = 0
        for member in self._members:
            member.open_streams = 0
        for method in self._methods.values():
            method.clear()
        for slot in held:
            if slot.method is not None and slot.member is not None:
                slot.method.recounted(slot, slot.member)
        for method in self._methods.values():
            for member in self._members:
                if member.in_rotation:
                    method.add(member)

    def _new_method(self, name: bytes) -> MethodCount:
        most = min(MAX_METHODS, MAX_SLOTS // max(1, len(self._members)))
        if len(self._methods) >= most:
            for known in [m for m in self._methods.values() if m.open == 0]:
                del self._methods[known.name]
            if len(self._methods) >= most:
                name = SHARED_METHOD
                shared = self._methods.get(name)
                if shared is not None:
                    return shared
        count = MethodCount(name)
        order = [member for member in self._members if member.in_rotation]
        self._shuffle(order)
        order.sort(key=_times_picked)
        for member in order:
            count.add(member)
        self._methods[name] = count
        return count


def _times_picked(member: Member) -> int:
    return int(member.picked)
