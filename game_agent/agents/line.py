"""Questions to one agent: those that it will remember come one after another."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from game_agent.agents.ask import Ask
from game_agent.errors import GameAgentError

Failed = list[tuple[Ask, GameAgentError]]


class AskLine:
    """Open questions, and whose turn it is. Used under its agent's lock.

    ``start`` hands a question to the engine, and raises :class:`GameAgentError` if it cannot.
    """

    def __init__(self, start: Callable[[Ask], None]) -> None:
        self._start = start
        self._waiting: deque[Ask] = deque()
        self._current: Ask | None = None
        self._others: set[Ask] = set()

    def add(self, ask: Ask) -> bool:
        """Begin a question, or (False) let it wait for those before it. Raises as ``start``."""
        if not ask.options.remember:
            self._start(ask)
            self._others.add(ask)
        elif self._current is None:
            self._start(ask)
            self._current = ask
        else:
            self._waiting.append(ask)
            return False
        return True

    def open(self) -> list[Ask]:
        """Questions that have not ended, as a copy: to cancel one changes them."""
        current = [] if self._current is None else [self._current]
        return [*self._waiting, *self._others, *current]

    def leave(self, ask: Ask) -> None:
        """A question that waits will not be asked."""
        self._waiting.remove(ask)

    def end(self, ask: Ask) -> Failed:
        """``ask`` has ended: begin the one that waited for it. Returns those that could not."""
        self._others.discard(ask)
        failed: Failed = []
        if ask is self._current:
            self._current = None
            while self._waiting and self._current is None:
                following = self._waiting.popleft()
                try:
                    self._start(following)
                    self._current = following
                except GameAgentError as error:
                    failed.append((following, error))
        return failed


def report(failed: Failed) -> None:
    """Tell the listeners of questions that could not begin, outside any lock."""
    for ask, error in failed:
        ask.listener.on_error(error)
