"""The open streams of one connection by number, cheaper than a dict of boxed integers.

Numbers rise and most streams are short, so the low bits of a number nearly always find a place of their own in a
list. A stream that meets an older one there goes into a dict; when many do, the list grows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, final

from mypy_extensions import i64

from sidecar.splice.stream import Stream

# Places to begin with: a connection of 4 x 32 calls never needs more, and an idle one costs 512 octets.
FIRST_PLACES: Final[i64] = 64
# Beyond, the dict takes what does not fit: more streams than MAX_CONCURRENT_STREAMS is ever set to.
MOST_PLACES: Final[i64] = 16_384


@final
class StreamTable:
    """`is_server`: streams are found by the client's number (`down_id`), else by ours (`up_id`)."""

    def __init__(self, is_server: bool) -> None:
        self._is_server: Final = is_server
        self._places: list[Stream | None] = [None] * int(FIRST_PLACES)
        self._mask: i64 = FIRST_PLACES - 1
        self._others: dict[int, Stream] = {}  # whose place was taken
        self._count: i64 = 0

    def __len__(self) -> int:
        return int(self._count)

    def __iter__(self) -> Iterator[int]:
        """The numbers, rising."""
        return iter(sorted(int(self._number(stream)) for stream in self.values()))

    def __contains__(self, number: int) -> bool:
        return self.find(number) is not None

    def count(self) -> i64:
        return self._count

    def _number(self, stream: Stream) -> i64:
        return stream.down_id if self._is_server else stream.up_id

    def find(self, number: i64) -> Stream | None:
        found = self._places[(number >> 1) & self._mask]
        if found is not None and (found.down_id if self._is_server else found.up_id) == number:
            return found
        return self._others.get(number) if self._others else None

    def add(self, number: i64, stream: Stream) -> None:
        """`stream` has this number already, and no other open stream has."""
        at = (number >> 1) & self._mask
        self._count += 1
        if self._places[at] is None:
            self._places[at] = stream
            return
        self._others[number] = stream
        if len(self._others) > self._mask >> 2 and self._mask < MOST_PLACES - 1:
            self._grow()

    def remove(self, number: i64) -> bool:
        """False: there is no such stream."""
        at = (number >> 1) & self._mask
        found = self._places[at]
        if found is not None and (found.down_id if self._is_server else found.up_id) == number:
            self._places[at] = None
        elif number in self._others:
            del self._others[number]
        else:
            return False
        self._count -= 1
        return True

    def values(self) -> list[Stream]:
        """All of them, in no order."""
        found = [stream for stream in self._places if stream is not None]
        found.extend(self._others.values())
        return found

    def take_all(self) -> list[Stream]:
        """All of them; the table is empty afterwards."""
        found = self.values()
        self._places = [None] * int(self._mask + 1)
        self._others = {}
        self._count = 0
        return found

    def recount(self) -> None:
        """Count what is there, after an error of ours."""
        self._count = len(self.values())

    def _grow(self) -> None:
        streams = self.values()
        self._mask = self._mask * 2 + 1
        self._places = [None] * int(self._mask + 1)
        self._others = {}
        self._count = 0
        for stream in streams:
            self.add(self._number(stream), stream)
