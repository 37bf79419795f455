"""Time as something that is passed in, so that tests need no sleep."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """A clock that never goes back; its zero means nothing."""

    def now_s(self) -> float:
        """Seconds since some fixed moment."""


class SystemClock:
    """The computer's monotonic clock."""

    def now_s(self) -> float:
        return time.monotonic()


class FakeClock:
    """A clock that stands still until a test moves it."""

    def __init__(self, now_s: float = 0.0) -> None:
        self._now_s = now_s

    def now_s(self) -> float:
        return self._now_s

    def advance(self, seconds: float) -> None:
        """Move on by ``seconds``. Raises ``ValueError`` if they are negative."""
        if seconds < 0:
            raise ValueError(f"a clock does not go back, got {seconds} s")
        self._now_s += seconds
