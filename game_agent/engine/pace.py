"""How fast passes are: a bound on how soon a prompt can be computed; what a short one takes."""

from __future__ import annotations

from collections import deque

WINDOW = 64
MIN_TOKENS = 64
"""Steps of fewer tokens tell what a step costs, not what its tokens do."""


class Pace:
    """The best pace of the latest steps, in seconds a token.

    ``pass_s`` is the time of the latest short step; 0 before the first.
    """

    def __init__(self) -> None:
        self._latest: deque[float] = deque(maxlen=WINDOW)
        self.pass_s = 0.0

    def record(self, num_tokens: int, seconds: float) -> None:
        """A step of so many new tokens took so long."""
        if num_tokens >= MIN_TOKENS:
            self._latest.append(seconds / num_tokens)
        else:
            self.pass_s = seconds

    def at_least_s(self, num_tokens: int) -> float:
        """How long ``num_tokens`` take at the very least; 0 while nothing is known."""
        return num_tokens * min(self._latest, default=0.0)
