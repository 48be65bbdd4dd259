"""What is to be written to one peer: frames, in pieces, so that large payloads are not copied."""

from __future__ import annotations

from typing import Final

from librt.strings import BytesWriter
from mypy_extensions import i64

from sidecar.wire import frames
from sidecar.wire.allowance import Allowance
from sidecar.wire.headers import SIZE_UPDATE_TO_ZERO

# From here on a payload goes to the socket as it is rather than being copied behind its header: about where
# one more entry in a gathering write is cheaper than two copies.
LARGE_PAYLOAD: Final[i64] = 4096


class Output:
    def __init__(self) -> None:
        self.out = BytesWriter()
        self.allowance = Allowance()
        self._pieces: list[bytes] = []  # ahead of `out`: large payloads as they came
        self._pieces_size: i64 = 0
        self._update_owed: bool = True  # a size update of 0 goes ahead of our first block

    def write_headers(self, stream_id: i64, block: bytes, end_stream: bool) -> None:
        """`block` carries no state; the size update a first block owes is put in front."""
        if self._update_owed:
            self._update_owed = False
            block = SIZE_UPDATE_TO_ZERO + block
        frames.write_block(self.out, stream_id, block, end_stream)
        self.allowance.earn()

    def write_data(self, stream_id: i64, payload: bytes, end_stream: bool) -> None:
        """The caller has taken the payload (at most a frame) from both windows."""
        size: i64 = len(payload)
        frames.write_header(self.out, size, frames.DATA, frames.END_STREAM if end_stream else 0, stream_id)
        if size >= LARGE_PAYLOAD:
            ahead = self.out.getvalue()
            self.out.truncate(0)
            self._pieces.append(ahead)
            self._pieces.append(payload)
            self._pieces_size += len(ahead) + size
        elif size:
            self.out.write(payload)
        self.allowance.sent_data(size)

    def output_size(self) -> i64:
        """Octets that `take_output` would give."""
        return self._pieces_size + i64(len(self.out))

    def take_output(self) -> list[bytes]:
        """What is to be written, once, in pieces; empty if there is nothing."""
        pieces = self._pieces
        if len(self.out):
            pieces.append(self.out.getvalue())
            self.out.truncate(0)
        if pieces:
            self._pieces = []
            self._pieces_size = 0
        return pieces
