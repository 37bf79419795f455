"""How requests of sessions begin and end: each is carried out once and has one reply."""

from __future__ import annotations

import logging
from collections.abc import Callable

from game_agent.clock import Clock
from game_agent.errors import GameAgentError, Overloaded, Unavailable
from game_agent.protocol import messages, replies
from game_agent.protocol.codec import Map, encode
from game_agent.protocol.replies import Id
from game_agent.server.journal import Journal
from game_agent.server.session import Session
from game_agent.server.state import SavedReply

logger = logging.getLogger(__name__)


class Ledger:
    """Begins and ends requests, and tells the journal what must outlive the process."""

    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock

    def begin(self, session: Session, request_id: Id) -> bool:
        """Whether the request is new. Raises ``Overloaded`` if there is no room for it."""
        return session.begin(request_id, self._clock.now_s())

    def carry_out(self, session: Session, request_id: Id, work: Callable[[], None]) -> None:
        """Do ``work`` if the request is new; what goes wrong is its reply."""
        try:
            is_new = self.begin(session, request_id)
        except Overloaded as error:
            session.tell(encode(replies.error(request_id, error)))
            return
        if not is_new:
            return
        try:
            work()
        except GameAgentError as error:
            self.fail(session, request_id, error)
        except Exception:
            logger.exception("a request failed")
            self.fail(session, request_id, internal_error())

    def record(self, request: messages.Request) -> None:
        """It was carried out."""
        self._journal.record(request)

    def touch(self, agent: str) -> None:
        """What an agent remembers may have changed."""
        self._journal.touch(agent)

    def succeed(self, session: Session, request_id: Id, fields: Map, *, is_lasting: bool) -> None:
        """Answer a begun request; ``is_lasting``: again, if it is repeated after a restart."""
        frame = encode(replies.ok(request_id, fields))
        if is_lasting:
            self._note(session, request_id, frame)
        session.finish(request_id, frame, self._clock.now_s())

    def ask_ends(self, session: Session, request: messages.Ask, frame: bytes | None) -> None:
        """An agent has answered with ``frame``, or (None) failed; what it remembers may differ."""
        self._journal.touch(request.agent)
        if request.remember and frame is not None:
            self._note(session, request.id, frame)

    def fail(
        self, session: Session, request_id: Id, error: GameAgentError, where: str | None = None
    ) -> None:
        """Answer a begun request with an error; ``where`` is the path of the ask in its tick."""
        fail(session, request_id, error, self._clock, where)

    def _note(self, session: Session, request_id: Id, frame: bytes) -> None:
        if not session.is_pending(request_id):
            return  # the session has ended: after a restart one reply would bring it back, alone
        reply = SavedReply(session.token, session.owner, request_id, frame)
        self._journal.answer(reply, self._clock.now_s())


def internal_error() -> GameAgentError:
    """What a client is told of our own faults."""
    return GameAgentError("the server failed at this request; its log says why")


def fail(
    session: Session, request_id: Id, error: GameAgentError, clock: Clock, where: str | None = None
) -> None:
    """Answer a begun request with an error.

    ``where`` is the path of the ask in its tick. An error that says "not now" is not kept for a
    repeated request, which may find better times.
    """
    if where is not None and error.where:
        where = f"{where}.{error.where}"
    frame = encode(replies.error(request_id, error, where))
    session.finish(request_id, frame, clock.now_s(), keep=not isinstance(error, Unavailable))
