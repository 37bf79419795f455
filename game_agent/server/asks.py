"""Asks: the way to the agent, and the way back from the engine's thread to the session."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, is_dataclass
from functools import partial
from typing import Any

from game_agent.clock import Clock
from game_agent.errors import GameAgentError, NotFound
from game_agent.protocol import replies
from game_agent.protocol.codec import Map, encode
from game_agent.protocol.messages import AgentHeard, Ask, Kind
from game_agent.protocol.replies import Id
from game_agent.server.backend import Answer, Backend
from game_agent.server.backend import Ask as RuntimeAsk
from game_agent.server.ledger import Ledger, fail, internal_error
from game_agent.server.operations import DEFAULT_SPEAKER, ask_options, ask_question, read_event
from game_agent.server.sentences import SentenceSplitter
from game_agent.server.session import Session

logger = logging.getLogger(__name__)

Post = Callable[[Callable[[], None]], None]
"""Hands a call over to the thread that owns the sessions."""


@dataclass(frozen=True)
class StartedAsk:
    """An ask of the runtime, and the agent whose memory it changes."""

    agent: str
    ask: RuntimeAsk

    def cancel(self) -> None:
        self.ask.cancel()

    def heard(self, num_chars: int) -> None:
        self.ask.heard(num_chars)


class Asks:
    """Puts questions to agents."""

    def __init__(self, runtime: Backend, ledger: Ledger, clock: Clock, post: Post) -> None:
        self._runtime = runtime
        self._ledger = ledger
        self._clock = clock
        self._post = post

    def start(self, session: Session, request: Ask, where: str | None = None) -> None:
        """Start a begun ask. ``where`` is its path in a tick."""
        try:
            options = ask_options(request, self._runtime.modes)
            question = ask_question(request)
            heard = read_event(request.event)
            listener = AskReplies(
                session,
                request.id,
                kind=request.kind,
                stream=request.stream,
                clock=self._clock,
                post=self._post,
                at_end=partial(self._ledger.ask_ends, session, request),
                where=where,
            )
            ask = self._runtime.get_agent(request.agent).ask(
                heard.text,
                options,
                speaker=heard.speaker or DEFAULT_SPEAKER,
                peer=session.owner or session.token,
                listener=listener,
                question=question,
            )
        except GameAgentError as error:
            self._ledger.fail(session, request.id, error, where)
        else:
            started = StartedAsk(request.agent, ask)
            session.attach(request.id, started, has_deadline=request.deadline_ms is not None)

    def heard(self, session: Session, request: AgentHeard) -> None:
        """Cut an answer to what was heard of it. Raises ``NotFound`` or ``InvalidInput``."""
        started = session.find_ask(request.ask)
        if started is None:
            message = f"no ask {request.ask!r} of this session is known (any more)"
            raise NotFound(message, where="ask")
        assert isinstance(started, StartedAsk)
        started.heard(request.chars)
        self._ledger.touch(started.agent)


class AskReplies:
    """Listens to one ask and answers its request.

    The ``on_*`` methods may be called from any thread; they only ``post``. ``at_end`` is called
    before the terminal reply with its frame, or with None if that is an error. A request whose
    session is gone is not answered.
    """

    def __init__(
        self,
        session: Session,
        request_id: Id,
        *,
        kind: Kind,
        stream: bool | str,
        clock: Clock,
        post: Post,
        at_end: Callable[[bytes | None], None],
        where: str | None = None,
    ) -> None:
        self._session = session
        self._id = request_id
        self._kind = kind
        self._is_streamed = bool(stream)
        self._splitter = SentenceSplitter() if stream == "sentence" else None
        self._clock = clock
        self._post = post
        self._at_end = at_end
        self._where = where

    def on_text(self, index: int, text: str) -> None:
        if self._is_streamed and text:
            self._post(lambda: self._stream(text))

    def on_done(self, answer: Answer) -> None:
        self._post(lambda: self._finish(answer))

    def on_error(self, error: GameAgentError) -> None:
        self._post(lambda: self._fail(error))

    def _stream(self, text: str) -> None:
        if self._splitter is None:
            self._session.stream(self._id, "token", text)
            return
        self._stream_sentences(self._splitter.feed(text))

    def _stream_sentences(self, sentences: list[str]) -> None:
        for sentence in sentences:
            self._session.stream(self._id, "sentence", sentence)

    def _fail(self, error: GameAgentError) -> None:
        self._at_end(None)
        fail(self._session, self._id, error, self._clock, self._where)

    def _finish(self, answer: Answer) -> None:
        if self._splitter is not None:
            self._stream_sentences(self._splitter.flush())
        try:
            frame = encode(replies.done(self._id, answer_fields(answer, self._kind)))
        except GameAgentError:
            logger.exception("an answer could not be sent")
            self._at_end(None)
            fail(self._session, self._id, internal_error(), self._clock)
        else:
            self._at_end(frame)
            self._session.finish(self._id, frame, self._clock.now_s())


def answer_fields(answer: Answer, kind: Kind) -> Map:
    """What ``done`` tells."""
    usage: Any = answer.usage
    result: Map = {}
    if kind == "act":
        result = {"action": answer.action}
    elif kind == "choose":
        result = {"choice": None if answer.choice is None else asdict(answer.choice)}
    return {
        **result,
        "text": answer.text,
        "seq": answer.seq,
        "finish_reason": answer.finish_reason,
        "usage": asdict(usage) if is_dataclass(usage) and not isinstance(usage, type) else usage,
    }
