"""Small files that others write: read whole, up to a bound, without trusting what stands at the path."""

from __future__ import annotations

import os
from typing import Final

# A FIFO put there by mistake must not stop the only thread.
_FLAGS: Final = os.O_NONBLOCK | os.O_CLOEXEC


def read_up_to(path: str, most: int, flags: int = 0) -> bytes:
    """Its first `most` + 1 octets: with one more than `most` it is too large. Raises OSError, a directory's too.

    `flags`: further ones for open(2).
    """

    def opener(name: str, mode: int) -> int:
        return os.open(name, mode | _FLAGS | flags)

    # Through `opener` the file is closed when it turns out to be a directory; os.fdopen would leave it open.
    with open(path, "rb", opener=opener) as file:
        return file.read(most + 1) or b""
