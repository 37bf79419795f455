"""All sessions: which connection belongs to which client, and who has gone. No I/O."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator

from game_agent.clock import Clock
from game_agent.errors import InvalidInput, Overloaded
from game_agent.server.session import Peer, Session
from game_agent.server.settings import ServerSettings


def new_token() -> str:
    """A session's name, which nobody can guess."""
    return secrets.token_hex(16)


class SessionTable:
    """Sessions by connection and by token. Used by one thread."""

    def __init__(
        self,
        settings: ServerSettings,
        clock: Clock,
        new_token: Callable[[], str] = new_token,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._new_token = new_token
        self._by_token: dict[str, Session] = {}
        self._by_peer: dict[bytes, Session] = {}

    def __len__(self) -> int:
        return len(self._by_token)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._by_token.values()))

    def of_peer(self, peer: Peer) -> Session:
        """The session of a connection, opened if it has none.

        Raises ``Overloaded`` if there are ``max_sessions`` already.
        """
        session = self._by_peer.get(peer.routing_id)
        if session is None:
            session = self._open(peer)
        session.peer = peer
        session.last_seen_s = self._clock.now_s()
        return session

    def resume(self, token: str, peer: Peer) -> tuple[Session, bool]:
        """Give a connection the session named ``token``; (its own, False) if there is no such.

        Raises ``InvalidInput`` if the connection has pending requests of its own, ``Overloaded`` as
        ``of_peer`` does.
        """
        current = self._by_peer.get(peer.routing_id)
        wanted = self._by_token.get(token)
        if wanted is None or wanted is current:
            return self.of_peer(peer), wanted is not None
        if current is not None:
            if current.num_pending or current.num_queued:
                raise InvalidInput(
                    "resume a session before any other request of the connection", where="session"
                )
            self.close(current)
        self.disconnect(wanted)
        self._by_peer[peer.routing_id] = wanted
        return self.of_peer(peer), True

    def disconnect(self, session: Session) -> None:
        """The session's connection is gone; the session stays, to be resumed until it expires."""
        if session.peer is not None:
            self._by_peer.pop(session.peer.routing_id, None)
            session.peer = None

    def close(self, session: Session) -> None:
        """Forget a session: its requests are cancelled, its queues freed."""
        self.disconnect(session)
        self._by_token.pop(session.token, None)
        session.close()

    def expire(self) -> int:
        """Close the sessions that were silent for ``expiry_ms``; return how many.

        One whose ask has a deadline is not: it waits, in silence, for something that will come.
        """
        now_s = self._clock.now_s()
        num_closed = 0
        for session in self:
            session.forget(now_s)
            is_silent = now_s - session.last_seen_s > self._settings.expiry_ms / 1000
            if is_silent and not session.has_deadline:
                self.close(session)
                num_closed += 1
        return num_closed

    def _open(self, peer: Peer) -> Session:
        settings = self._settings
        if len(self._by_token) >= settings.limits.max_sessions:
            raise Overloaded("too many clients are connected", retry_after_ms=settings.expiry_ms)
        token = self._new_token()
        session = Session(
            token, peer, settings.limits, settings.replay_s, now_s=self._clock.now_s()
        )
        self._by_token[token] = session
        self._by_peer[peer.routing_id] = session
        return session
