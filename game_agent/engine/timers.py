"""Calls that are to be made at a time. No thread and no clock of its own."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count


@dataclass(order=True, slots=True)
class Timer:
    """One call; ``cancel`` it when it is not wanted any more. Too late is no error."""

    when_s: float
    number: int
    call: Callable[[], None] | None = field(compare=False)

    def cancel(self) -> None:
        self.call = None


class Timers:
    """Timers in order of time. Its owner guards it against use by several threads at once."""

    def __init__(self) -> None:
        self._heap: list[Timer] = []
        self._numbers = count()

    def add(self, when_s: float, call: Callable[[], None]) -> Timer:
        timer = Timer(when_s, next(self._numbers), call)
        heapq.heappush(self._heap, timer)
        return timer

    def next_s(self) -> float | None:
        """When the first call is due; None if there is none."""
        while self._heap and self._heap[0].call is None:
            heapq.heappop(self._heap)
        return self._heap[0].when_s if self._heap else None

    def take_due(self, now_s: float) -> list[Callable[[], None]]:
        """Remove the calls that are due and return them, in order of time."""
        due: list[Callable[[], None]] = []
        while (when_s := self.next_s()) is not None and when_s <= now_s:
            call = heapq.heappop(self._heap).call
            assert call is not None
            due.append(call)
        return due
