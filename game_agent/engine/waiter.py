"""A listener for callers who want to wait."""

from __future__ import annotations

import threading

from game_agent.engine.request import Completion
from game_agent.errors import GameAgentError


class Waiter:
    """A listener that lets another thread wait for the end."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._completion: Completion | None = None
        self._error: GameAgentError | None = None

    def on_text(self, index: int, text: str) -> None:
        """Pieces are in the completion's text as well."""

    def on_done(self, completion: Completion) -> None:
        self._completion = completion
        self._ended.set()

    def on_error(self, error: GameAgentError) -> None:
        self._error = error
        self._ended.set()

    def wait(self) -> Completion:
        """The completion; raises the request's error."""
        self._ended.wait()
        if self._error is not None:
            raise self._error
        assert self._completion is not None
        return self._completion
