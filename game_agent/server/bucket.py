"""A token bucket: so many requests at once, so many per second in the long run. No I/O."""

from __future__ import annotations

import math

ROUNDING = 1e-6


class TokenBucket:
    """Full at first; fills with ``rate_per_s`` up to ``capacity``."""

    def __init__(self, rate_per_s: float, capacity: float, now_s: float) -> None:
        self._rate_per_s = rate_per_s
        self._capacity = capacity
        self._level = capacity
        self._filled_s = now_s

    def take(self, now_s: float) -> int:
        """Take one token and return 0, or take none and return in how many ms there is one."""
        gained = max(0.0, now_s - self._filled_s) * self._rate_per_s
        self._level = min(self._capacity, self._level + gained)
        self._filled_s = now_s
        # What was to be filled in exactly the time that was told may miss a token by rounding.
        if self._level < 1 - ROUNDING:
            return math.ceil((1 - self._level) / self._rate_per_s * 1e3)
        self._level -= 1
        return 0
