"""A submitted request, as its owner sees it."""

from __future__ import annotations

from collections.abc import Callable

from game_agent.engine.request import FinishReason


class Handle:
    """Ends a request early. ``end`` asks the engine to, at its next step."""

    def __init__(self, end: Callable[[FinishReason], None]) -> None:
        self._end = end

    def cancel(self, reason: FinishReason = "cancelled") -> None:
        """End the request at the next step with what it has; too late is no error."""
        self._end(reason)
