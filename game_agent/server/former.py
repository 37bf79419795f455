"""Connections that sessions had before: what was sent over them may still lie unread."""

from __future__ import annotations

from game_agent.server.session import Session

MAX_FORMER_PEERS = 1024
"""Of a session. A client that finds its server silent comes again every three seconds, so this is
most of an hour in which the server reads nothing."""


class FormerPeers:
    """Routing ids of connections that were lost or replaced, and whose they were. No I/O."""

    def __init__(self) -> None:
        self._session_of: dict[bytes, Session] = {}
        self._ids_of: dict[Session, dict[bytes, None]] = {}

    def get(self, routing_id: bytes) -> Session | None:
        return self._session_of.get(routing_id)

    def add(self, routing_id: bytes, session: Session) -> None:
        """The latest of a session's former connections; the oldest of too many is forgotten."""
        self.drop(routing_id)
        ids = self._ids_of.setdefault(session, {})
        if len(ids) >= MAX_FORMER_PEERS:
            self.drop(next(iter(ids)))
        self._session_of[routing_id] = session
        ids[routing_id] = None

    def drop(self, routing_id: bytes) -> None:
        """It is nobody's former connection (any more)."""
        session = self._session_of.pop(routing_id, None)
        if session is not None:
            del self._ids_of[session][routing_id]

    def forget(self, session: Session) -> None:
        """The session has ended."""
        for routing_id in self._ids_of.pop(session, ()):
            del self._session_of[routing_id]
