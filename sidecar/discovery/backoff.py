"""How long to wait before the next attempt. Pure: randomness is an argument."""

from __future__ import annotations

import random as random_module
from typing import Final

# The first wait is at most this. Short: most faults are one restart of one API server behind a balancer.
FIRST_SECONDS: Final = 0.5
# No wait is longer. With the 10 s of a dial that began a moment too early (apiconnection.py), a sidecar is back
# in touch within 35 s of the API server, and sidecars that wait this long come back spread over as much.
MAX_SECONDS: Final = 24.0


class Backoff:
    """Exponential with full jitter ("Exponential Backoff And Jitter", AWS 2015): clients that fail together
    do not come back together."""

    def __init__(self, random: random_module.Random) -> None:
        self._random = random
        self.attempts = 0

    def next(self, at_least: float = 0.0) -> float:
        """Seconds to wait now; each call counts as a failure. `at_least`: what the server asked for."""
        ceiling = min(MAX_SECONDS, FIRST_SECONDS * 2 ** min(self.attempts, 16))
        self.attempts += 1
        return min(MAX_SECONDS, at_least) + self._random.uniform(0.0, ceiling)

    def reset(self) -> None:
        self.attempts = 0
