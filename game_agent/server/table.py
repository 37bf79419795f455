"""All sessions: which connection belongs to which client, and who has gone. No I/O."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Iterator

from game_agent.clock import Clock
from game_agent.errors import InvalidInput, Overloaded, Unauthorized
from game_agent.protocol.replies import Id
from game_agent.server.former import FormerPeers
from game_agent.server.session import Outbox, Peer, Session
from game_agent.server.settings import ServerSettings


def new_token() -> str:
    """A session's name, which nobody can guess."""
    return secrets.token_hex(16)


class SessionTable:
    """Sessions by connection and by token. Used by one thread.

    ``refused`` counts what was refused, by reason: ``foreign_session``, a session of another key;
    ``foreign_name``, a connection that calls itself as one with another key did.
    """

    def __init__(
        self,
        settings: ServerSettings,
        clock: Clock,
        new_token: Callable[[], str] = new_token,
    ) -> None:
        self.refused: Counter[str] = Counter(foreign_session=0, foreign_name=0)
        self._settings = settings
        self._clock = clock
        self._new_token = new_token
        self._by_token: dict[str, Session] = {}
        self._by_peer: dict[bytes, Session] = {}
        self._former = FormerPeers()
        self._outbox: Outbox = {}

    def __len__(self) -> int:
        return len(self._by_token)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._by_token.values()))

    def take_outbox(self) -> list[Session]:
        """The sessions that have had something to send since this was last called."""
        out = [session for session in self._outbox if session.num_queued]
        self._outbox.clear()
        return out

    def of_peer(self, peer: Peer, wanted: str | None = None) -> Session:
        """The session of a connection, opened if it has none.

        What still arrives on a connection that was lost or replaced belongs to the session that it
        had, so that nothing is done twice; the replies go to the connection that replaced it.
        ``wanted`` is the token of a session that it is about to ``resume``.
        Raises ``Overloaded`` if there are ``max_sessions`` already.
        """
        former = self._former.get(peer.routing_id)
        if former is not None and former.owner == peer.user:
            if former.peer is not None:
                return former
            # Nobody has replaced it, and a client that named itself may be back.
            self._former.drop(peer.routing_id)
            self._by_peer[peer.routing_id] = former
        session = self._by_peer.get(peer.routing_id)
        if session is not None and session.owner != peer.user:
            # Somebody took the name of a connection that is gone.
            self.refused["foreign_name"] += 1
            self.disconnect(session)
            session = None
        if session is None:
            session = self._open(peer, wanted)
        session.peer = peer
        session.last_seen_s = self._clock.now_s()
        return session

    def restore(self, token: str, owner: str, request_id: Id, frame: bytes) -> None:
        """Take up a reply of an earlier run, and its session, which waits to be resumed."""
        session = self._by_token.get(token)
        if session is None:
            if len(self._by_token) >= self._settings.limits.max_sessions:
                return
            session = self._make(token, Peer(b"", user=owner))
            session.peer = None
        session.restore(request_id, frame, self._clock.now_s())

    def resume(self, token: str, peer: Peer) -> tuple[Session, bool]:
        """Give a connection the session named ``token``; (its own, False) if there is no such.

        Raises ``InvalidInput`` if the connection has pending requests of its own, ``Unauthorized``
        if the session was opened with another key, ``Overloaded`` as ``of_peer`` does.
        """
        current = self._by_peer.get(peer.routing_id)
        wanted = self._by_token.get(token)
        if wanted is not None and wanted.owner != peer.user:
            self.refused["foreign_session"] += 1
            raise Unauthorized("this session belongs to another client", where="session")
        if wanted is None:
            return self.of_peer(peer), False
        wanted.renew(self._clock.now_s())
        if wanted is current:
            return self.of_peer(peer), True
        if current is not None:
            if current.num_pending or current.num_queued:
                raise InvalidInput(
                    "resume a session before any other request of the connection", where="session"
                )
            self.close(current)
        self.disconnect(wanted)
        self._former.drop(peer.routing_id)
        self._by_peer[peer.routing_id] = wanted
        self._outbox[wanted] = None
        return self.of_peer(peer), True

    def anew(self, peer: Peer) -> Session:
        """A new session for a connection whose client begins anew; the one it had is closed.

        A client that gives its socket a name has the same connection after it was restarted, and
        uses the same ids again.
        """
        if (session := self._by_peer.get(peer.routing_id)) is not None:
            self.close(session)
        return self.of_peer(peer)

    def disconnect(self, session: Session) -> None:
        """The session's connection is gone; the session stays, to be resumed until it expires.

        Requests may still lie unread in a connection to which nothing can be sent any more.
        """
        if session.peer is not None:
            self._by_peer.pop(session.peer.routing_id, None)
            self._former.add(session.peer.routing_id, session)
            session.peer = None

    def close(self, session: Session) -> None:
        """Forget a session: its requests are cancelled, its queues freed."""
        self.disconnect(session)
        self._by_token.pop(session.token, None)
        self._former.forget(session)
        session.close()

    def excuse(self, seconds: float) -> None:
        """Nobody was listened to for so long: it does not count as silence."""
        for session in self:
            session.last_seen_s += seconds

    def expire(self) -> int:
        """Close the sessions that were silent for ``expiry_ms``; return how many.

        One whose ask has a deadline is not: it waits, in silence, for something that will come.
        """
        now_s = self._clock.now_s()
        num_closed = 0
        for session in self:
            is_silent = now_s - session.last_seen_s > self._settings.expiry_ms / 1000
            if is_silent and not session.has_deadline:
                self.close(session)
                num_closed += 1
        return num_closed

    def _open(self, peer: Peer, wanted: str | None) -> Session:
        settings = self._settings
        resumed = self._by_token.get(wanted or "")
        # It is closed again when the connection gets the session that it wants.
        is_passing = resumed is not None and resumed.owner == peer.user
        if len(self._by_token) >= settings.limits.max_sessions and not is_passing:
            raise Overloaded("too many clients are connected", retry_after_ms=settings.expiry_ms)
        session = self._make(self._new_token(), peer)
        self._by_peer[peer.routing_id] = session
        return session

    def _make(self, token: str, peer: Peer) -> Session:
        settings = self._settings
        now_s = self._clock.now_s()
        session = Session(
            token, peer, settings.limits, settings.replay_s, now_s=now_s, outbox=self._outbox
        )
        self._by_token[token] = session
        return session
