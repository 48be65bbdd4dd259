"""Blocks that differ only in values which never repeat: recognised by the octets around those values.

A shape is a block seen before, cut where such a value stood. Another block has it if all the rest is the same, octet
for octet, and what stands in the gaps is string literals that may stand there. Then it says the same as the first.
"""

from __future__ import annotations

from typing import Final, final

from librt.strings import read_i32_be, read_i64_be
from mypy_extensions import i64

from sidecar.wire import fields, primitives, values
from sidecar.wire.blocks import Block
from sidecar.wire.primitives import HUFFMAN

# Bounds. Blocks of one method differ in which metadata they carry; an application calls some dozens of methods.
MAX_SHAPES: Final[i64] = 256
MAX_SHAPED: Final = 2048  # octets of a block
MAX_SHAPES_PER_START: Final = 8
MAX_SHAPE_OCTETS: Final[i64] = 131_072
_PATH: Final[i64] = 4  # of the two entries of the static table with this name, the first


@final
class Varying:
    """Where a value that never repeats stands in a block: a string literal."""

    def __init__(self, start: i64, end: i64, is_timeout: bool) -> None:
        self.start: Final[i64] = start
        self.end: Final[i64] = end
        self.is_timeout: Final = is_timeout


@final
class _Gap:
    def __init__(self, is_timeout: bool, after: bytes) -> None:
        self.is_timeout: Final = is_timeout
        self.after: Final = after  # up to the next gap


@final
class Shape:
    def __init__(self, block: Block, varying: list[Varying]) -> None:
        raw = block.raw
        self._model: Final = block
        self._head: Final = raw[: varying[0].start]  # a block's start, up to the first gap
        self._gaps: list[_Gap] = []
        for at, value in enumerate(varying):
            after = varying[at + 1].start if at + 1 < len(varying) else i64(len(raw))
            self._gaps.append(_Gap(value.is_timeout, raw[value.end : after]))

    @property
    def inserts(self) -> bool:
        return self._model.inserts

    def match(self, raw: bytes) -> Block | None:
        """What the block says if it has this shape for certain."""
        head = self._head
        if not raw.startswith(head):
            return None
        end: i64 = len(raw)
        at: i64 = len(head)
        seconds = self._model.timeout
        for gap in self._gaps:
            if at >= end:
                return None
            first: i64 = raw[at]
            start = at + 1
            size = first & 0x7F
            if size == 0x7F:
                size = primitives.integer(raw, start, end, 0x7F)
                start = primitives.integer_end(raw, start, end)
            at = start + size
            after = gap.after
            if at + i64(len(after)) > end:
                return None
            if gap.is_timeout:
                if first >= HUFFMAN:
                    seconds = values.timeout_coded(raw, start, at)
                else:
                    seconds = fields.timeout_in(raw, start, at)
                if seconds < 0.0:
                    return None
            elif first >= HUFFMAN:
                if not values.printable_coded(raw, start, at):
                    return None
            elif not values.printable(raw, start, at):
                return None
            if not _stands_at(raw, at, after):
                return None
            at += i64(len(after))
        if at != end:
            return None
        block = self._model.like(raw, seconds)
        block.shape = self
        return block


@final
class Shapes:
    """All shapes of a process, by how their blocks start."""

    def __init__(self) -> None:
        self._by_start: dict[bytes, list[Shape]] = {}
        self._octets: i64 = 0
        self.count: i64 = 0

    def find(self, raw: bytes) -> Block | None:
        known = self._by_start.get(_start(raw))
        if known is not None:
            for shape in known:
                block = shape.match(raw)
                if block is not None:
                    return block
        return None

    def add(self, block: Block, varying: list[Varying]) -> None:
        """Remember the shape of a block, if blocks like it can be told by it. At a bound all are forgotten."""
        shape = Shape(block, varying)
        if shape.match(block.raw) is None:
            return
        start = _start(block.raw)
        if i64(len(start)) > varying[0].start:
            return  # a value that never repeats ahead of :path: no legal block has that
        block.shape = shape
        size: i64 = len(block.raw)
        if self.count >= MAX_SHAPES or self._octets + size > MAX_SHAPE_OCTETS:
            self._by_start = {}
            self._octets = 0
            self.count = 0
        known = self._by_start.get(start)
        if known is None:
            self._by_start[start] = [shape]
            self.count += 1
        else:
            known.insert(0, shape)
            if len(known) > MAX_SHAPES_PER_START:
                known.pop()
            else:
                self.count += 1
        self._octets += size


def _start(raw: bytes) -> bytes:
    """A block up to its :path, which tells methods apart, or its first octet where it has none.

    May raise CompressionError of a block that cannot be read.
    """
    end: i64 = len(raw)
    at: i64 = 0
    while at < end:
        first: i64 = raw[at]
        if 0x20 <= first < 0x40:
            break  # a size update, which may not stand here
        index = first & 0x7F
        at += 1
        if first < 0x80:
            index = first & (0x3F if first >= 0x40 else 0x0F)
            if index == 0:
                at = primitives.string_end(raw, at, end)
            elif (index == 0x0F and first < 0x40) or index == 0x3F:
                at = primitives.integer_end(raw, at, end)
            at = primitives.string_end(raw, at, end)
        if index == _PATH or index == _PATH + 1:
            return raw[:at]
    return raw[:1]


def _stands_at(raw: bytes, at: i64, part: bytes) -> bool:
    """Whether `part` stands in `raw` at `at`, where it fits."""
    size: i64 = len(part)
    done: i64 = 0
    while done + 8 <= size:
        if read_i64_be(raw, at + done) != read_i64_be(part, done):
            return False
        done += 8
    if done + 4 <= size:
        if read_i32_be(raw, at + done) != read_i32_be(part, done):
            return False
        done += 4
    while done < size:
        if raw[at + done] != part[done]:
            return False
        done += 1
    return True
