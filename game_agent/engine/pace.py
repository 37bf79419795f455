"""How fast prompts are computed: a bound on how soon one can be."""

from __future__ import annotations

from collections import deque

WINDOW = 64
MIN_TOKENS = 64
"""Steps of fewer tokens tell what a step costs, not what its tokens do."""


class Pace:
    """The best pace of the latest steps, in seconds a token."""

    def __init__(self) -> None:
        self._latest: deque[float] = deque(maxlen=WINDOW)

    def record(self, num_tokens: int, seconds: float) -> None:
        """A step of so many new tokens took so long."""
        if num_tokens >= MIN_TOKENS:
            self._latest.append(seconds / num_tokens)

    def at_least_s(self, num_tokens: int) -> float:
        """How long ``num_tokens`` take at the very least; 0 while nothing is known."""
        return num_tokens * min(self._latest, default=0.0)
