"""What the server tells of its requests, to be written down before they are answered."""

from __future__ import annotations

from typing import Protocol

from game_agent.protocol import messages
from game_agent.server.state import SavedReply


class Journal(Protocol):
    """What the server tells of its requests. Used by one thread."""

    def record(self, request: messages.Request) -> None:
        """``request`` was carried out."""

    def touch(self, agent: str) -> None:
        """The memory of an agent may have changed."""

    def answer(self, reply: SavedReply, now_s: float) -> None:
        """A request that changed something gets this reply."""

    def commit(self) -> None:
        """Replies are about to be sent: all that was told must be durable."""

    def replies(self, now_s: float) -> list[SavedReply]:
        """Those that were given before the start, oldest first. Called once."""

    def close(self) -> None:
        """Nothing more is to come."""


class NoJournal:
    """Of a server without a state folder."""

    def record(self, request: messages.Request) -> None:
        pass

    def touch(self, agent: str) -> None:
        pass

    def answer(self, reply: SavedReply, now_s: float) -> None:
        pass

    def commit(self) -> None:
        pass

    def replies(self, now_s: float) -> list[SavedReply]:
        return []

    def close(self) -> None:
        pass
