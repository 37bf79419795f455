"""Replies on disk, so that a request repeated after a restart is not carried out twice."""

from __future__ import annotations

from collections import deque

from game_agent.protocol import messages
from game_agent.server.state import SavedReply, StateStore

CHANGES_NOTHING = (
    messages.Ping,
    messages.WorldGet,
    messages.AgentGet,
    messages.AgentHistory,
    messages.AgentInspect,
    messages.AgentWarm,
    messages.Cancel,
    messages.Save,
    messages.Stats,
)
"""Requests that may as well be carried out again."""


class ReplyLog:
    """Replies to requests that changed something, for ``replay_s`` seconds.

    Written with the change in one commit: after a crash either both are there or neither is.
    """

    def __init__(self, store: StateStore, replay_s: float) -> None:
        self._store = store
        self._replay_s = replay_s
        self._ages: deque[tuple[float, int]] = deque()

    def restore(self, now_s: float) -> list[SavedReply]:
        """All that are there, oldest first. How old they are is forgotten: they are kept anew."""
        replies = self._store.replies()
        self._ages.extend((now_s, number) for number, _ in replies)
        return [reply for _, reply in replies]

    def keep(self, reply: SavedReply, now_s: float) -> None:
        """Write one, and drop those that are too old."""
        self._ages.append((now_s, self._store.add_reply(reply)))
        last = 0
        while self._ages and now_s - self._ages[0][0] > self._replay_s:
            _, last = self._ages.popleft()
        if last:
            self._store.delete_replies(last)
