"""The event loop: one thread, epoll, level-triggered.

A turn is: wait; hand each ready socket to its watcher; let the owner look after what is not routine; flush what
the turn touched. Everything the sidecar does runs here, so that nothing needs a lock (docs/adr/0001).
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from typing import Final

from mypy_extensions import i64

from sidecar.splice.context import NEVER
from sidecar.splice.internal import InternalErrors

READ: Final[i64] = select.EPOLLIN
WRITE: Final[i64] = select.EPOLLOUT
BROKEN: Final[i64] = select.EPOLLERR | select.EPOLLHUP
# Longest sleep: signals and file polls are not kept waiting, and an idle sidecar still wakes only so often.
MAX_WAIT: Final = 5.0
# What a closing connection is given to take our last words and close too.
LINGER: Final = 2.0
# What a listener waits that has met the limit on files, and anything that an error of ours might call for again at
# once: soon enough for a client, seldom enough to cost nothing.
REST: Final = 0.1
# Events taken in one turn; more only lengthens the time to the flush.
MAX_EVENTS: Final = 256


class Watcher:
    """Somebody who owns a socket in the loop."""

    def ready(self, events: i64, now: float) -> None:
        raise NotImplementedError

    def routine(self) -> bool:
        """Whether its events concern the data plane alone, so that the owner of the loop need not look."""
        return False

    def expire(self) -> None:
        """The time given to `Loop.linger` or `Loop.rest` is over."""

    def failed(self, error: Exception, now: float) -> None:
        """A bug of ours: `ready` raised this, which is noted already. End what cannot go on."""


class Plane:
    """What is served at the end of every turn."""

    def turn_end(self, now: float) -> float:
        """Do what the turn left to do; answer when to be called again at the latest (monotonic seconds)."""
        raise NotImplementedError


class Delay:
    """Watchers in the order in which the same time runs out for each."""

    def __init__(self, seconds: float) -> None:
        self._seconds: Final = seconds
        self._until: dict[Watcher, float] = {}
        self.due: float = NEVER  # when the first one's time is over

    def add(self, watcher: Watcher) -> None:
        self._until[watcher] = time.monotonic() + self._seconds
        self._find_first()

    def discard(self, watcher: Watcher) -> None:
        self._until.pop(watcher, None)
        self._find_first()

    def expire(self, now: float) -> None:
        """Call those whose time is over."""
        while self.due <= now:
            watcher = next(iter(self._until))
            self.discard(watcher)
            watcher.expire()

    def _find_first(self) -> None:
        self.due = self._until[next(iter(self._until))] if self._until else NEVER


class Loop:
    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watchers: dict[int, Watcher] = {}
        self._running: bool = False
        self.attentive: bool = False  # the owner has a look after every turn
        self.errors: InternalErrors = InternalErrors()  # where exceptions go
        self._lingering = Delay(LINGER)
        self._resting = Delay(REST)

    def now(self) -> float:
        return time.monotonic()

    def watch(self, sock: socket.socket, watcher: Watcher, events: int) -> None:
        fd = sock.fileno()
        self._watchers[fd] = watcher
        self._epoll.register(fd, events)

    def change(self, sock: socket.socket, events: int) -> None:
        self._epoll.modify(sock.fileno(), events)

    def forget(self, sock: socket.socket) -> None:
        """Before the socket is closed. Unknown sockets are ignored."""
        fd = sock.fileno()
        if fd in self._watchers:
            del self._watchers[fd]
            self._epoll.unregister(fd)

    def linger(self, watcher: Watcher) -> None:
        """Have `watcher.expire` called when LINGER has passed, unless it has left by then."""
        self._lingering.add(watcher)

    def rest(self, watcher: Watcher) -> None:
        """The same with REST."""
        self._resting.add(watcher)

    def leave(self, watcher: Watcher) -> None:
        """It is closed: nothing here need remember it."""
        self._lingering.discard(watcher)
        self._resting.discard(watcher)

    def run(self, plane: Plane, turn: Callable[[float], float]) -> None:
        """Turn after turn until `stop`.

        `turn` is the owner's: called first, after each turn in which a watcher that is not routine was ready, and
        when the time comes that it answered with (monotonic seconds). `plane` has the end of every turn.
        """
        self._running = True
        epoll = self._epoll
        watchers = self._watchers
        clock = time.monotonic
        now: float = clock()
        owner_due: float = now
        plane_due: float = now
        while self._running:
            wait = (owner_due if owner_due < plane_due else plane_due) - now
            if wait > MAX_WAIT:
                wait = MAX_WAIT
            elif wait < 0.0:
                wait = 0.0
            events = epoll.poll(wait, MAX_EVENTS)
            now = clock()
            stirred = False
            for fd, mask in events:
                watcher = watchers.get(fd)
                # A watcher closed by one before it in the same turn is gone; its number may be another's by
                # now only if that one was opened in this turn too, and then a spurious call does no harm.
                if watcher is not None:
                    try:
                        watcher.ready(mask, now)
                    except Exception as error:
                        self._failed(watcher, error, now)
                    if not watcher.routine():
                        stirred = True
            if stirred or owner_due <= now:
                owner_due = self._owner_turn(turn, now)
            plane_due = self._turn_end(plane, now)
            if self.attentive:
                owner_due = self._owner_turn(turn, now)
                plane_due = self._turn_end(plane, now)

    def _owner_turn(self, turn: Callable[[float], float], now: float) -> float:
        try:
            return turn(now)
        except Exception as error:
            self.errors.note("turn", error, now)
            return now + REST

    def _turn_end(self, plane: Plane, now: float) -> float:
        try:
            self._lingering.expire(now)
            self._resting.expire(now)
            due = plane.turn_end(now)
        except Exception as error:
            self.errors.note("turn", error, now)
            return now + REST
        if self._lingering.due < due:
            due = self._lingering.due
        return self._resting.due if self._resting.due < due else due

    def _failed(self, watcher: Watcher, error: Exception, now: float) -> None:
        """Nothing but the watcher itself is to end of it, and it is asked to only once."""
        self.errors.note("socket", error, now)
        try:
            watcher.failed(error, now)
        except Exception as again:
            self.errors.note("recovery", again, now)

    def stop(self) -> None:
        self._running = False

    def close(self) -> None:
        self._epoll.close()
