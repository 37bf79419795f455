"""Ticks: a change of a world, and asks about it, in one message."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from game_agent.errors import GameAgentError, InvalidInput, Overloaded
from game_agent.protocol import messages, replies
from game_agent.protocol.codec import Map, encode
from game_agent.protocol.messages import parse_ask, read_id
from game_agent.protocol.replies import Id
from game_agent.server.asks import Asks
from game_agent.server.ledger import Ledger, internal_error
from game_agent.server.operations import Operations
from game_agent.server.session import Peer, Session

logger = logging.getLogger(__name__)


class Ticks:
    """Applies the change of a tick, then starts its asks. If the change fails, so does every ask.

    A repeated tick applies nothing; of its asks those are started that are not known.
    """

    def __init__(self, operations: Operations, asks: Asks, ledger: Ledger) -> None:
        self._operations = operations
        self._asks = asks
        self._ledger = ledger

    def run(
        self,
        session: Session,
        peer: Peer,
        request_id: Id,
        fields: Map,
        parse: Callable[[], messages.Request],
    ) -> None:
        """Answer a tick of these ``fields``; ``parse`` makes it a request, or raises."""
        try:
            is_new = self._ledger.begin(session, request_id)
        except Overloaded as error:
            session.tell(encode(replies.error(request_id, error)))
            self._fail_asks(session, fields, error)
            return
        try:
            tick = parse()
            assert isinstance(tick, messages.Tick)
            _check_asks(tick, peer)
            if is_new:
                tick = _without_change_if_applied(tick, session)
                told = self._operations.tick(tick)
                self._ledger.record(tick)
                self._ledger.succeed(session, request_id, told, is_lasting=True)
        except GameAgentError as error:
            self._fail(session, request_id, fields, error)
        except Exception:
            logger.exception("a tick failed")
            self._fail(session, request_id, fields, internal_error())
        else:
            for index, ask in enumerate(tick.asks):
                self._ask(session, ask, f"asks.{index}")

    def _ask(self, session: Session, fields: Any, where: str) -> None:
        request_id = read_id(fields)
        if request_id is None:
            error = InvalidInput("an ask needs an id of its own", where=f"{where}.id")
            session.tell(encode(replies.error(None, error)))
            return
        self._ledger.carry_out(
            session,
            request_id,
            lambda: self._asks.start(session, parse_ask(fields, where), where),
        )

    def _fail(self, session: Session, request_id: Id, fields: Map, error: GameAgentError) -> None:
        self._ledger.fail(session, request_id, error)
        self._fail_asks(session, fields, error)

    def _fail_asks(self, session: Session, fields: Map, error: GameAgentError) -> None:
        asks = fields.get("asks")
        for ask in asks if isinstance(asks, list) else ():
            if (ask_id := read_id(ask)) is not None:
                answer = partial(self._ledger.fail, session, ask_id, error)
                self._ledger.carry_out(session, ask_id, answer)


def _without_change_if_applied(tick: messages.Tick, session: Session) -> messages.Tick:
    """A tick with an ask that was started before has been applied, however long ago.

    Its own reply comes first and so is forgotten first, while its asks may run on for minutes.
    """
    ids = (read_id(ask) for ask in tick.asks)
    if any(ask_id is not None and session.find_ask(ask_id) is not None for ask_id in ids):
        return msgspec.structs.replace(tick, seq=None, patch=None, merge=None)
    return tick


def _check_asks(tick: messages.Tick, peer: Peer) -> None:
    """The asks' ids must tell them apart, from each other and from the tick."""
    if tick.asks and peer.has_delimiter:
        raise InvalidInput("a REQ socket cannot tick with asks, use DEALER", where="asks")
    seen: set[Id | None] = {tick.id}
    for index, ask in enumerate(tick.asks):
        ask_id = read_id(ask)
        if ask_id is not None and ask_id in seen:
            raise InvalidInput(f"the id {ask_id!r} appears twice", where=f"asks.{index}.id")
        seen.add(ask_id)
