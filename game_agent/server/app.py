"""The server without its sockets: frames of peers in, replies into their sessions."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from game_agent.clock import Clock
from game_agent.errors import (
    GameAgentError,
    InvalidInput,
    NotFound,
    Overloaded,
    ProtocolError,
    Unavailable,
)
from game_agent.protocol import messages, replies
from game_agent.protocol.codec import Decoded, Map, decode, encode
from game_agent.protocol.messages import parse, parse_ask, read_id
from game_agent.protocol.replies import Id
from game_agent.server.asks import AskReplies, Post, fail, internal_error
from game_agent.server.backend import Backend
from game_agent.server.journal import Journal, NoJournal
from game_agent.server.operations import (
    DEFAULT_SPEAKER,
    Operations,
    ask_options,
    ask_question,
    paths_from,
    read_event,
)
from game_agent.server.replay import CHANGES_NOTHING
from game_agent.server.session import Peer, Session
from game_agent.server.settings import ServerSettings
from game_agent.server.state import SavedReply
from game_agent.server.table import SessionTable
from game_agent.server.transfers import Transfers, requests_that_make
from game_agent.server.welcome import check_protocol, welcome

logger = logging.getLogger(__name__)
WHILE_DRAINING = frozenset({"hello", "ping", "cancel"})


class App:
    """Answers requests. Everything here runs in one thread; ``post`` brings other threads' calls.

    runtime:  worlds, agents, engine
    sessions: who is connected
    journal:  told of every change before its reply is queued; the caller commits it before replies
              are sent
    """

    def __init__(
        self,
        runtime: Backend,
        sessions: SessionTable,
        settings: ServerSettings,
        clock: Clock,
        post: Post,
        journal: Journal | None = None,
    ) -> None:
        self.is_draining = False
        self._runtime = runtime
        self._sessions = sessions
        self._settings = settings
        self._clock = clock
        self._post = post
        self._journal = journal or NoJournal()
        self._operations = Operations(runtime, settings.limits)
        self._transfers = Transfers(runtime, settings.limits)
        self._num_requests = 0

    def receive(self, peer: Peer, frames: list[bytes]) -> bytes | None:
        """Take one message of a peer (without its routing id and REQ delimiter).

        Returns a frame to send to a peer that got no session, because there are too many.
        """
        try:
            session = self._sessions.of_peer(peer)
        except Overloaded as error:
            return encode(replies.error(_id_of(frames, self._settings), error))
        if session.is_flooded:
            logger.warning("a client asks without reading its replies; its session is closed")
            self._sessions.close(session)
            return None
        try:
            if len(frames) != 1:
                raise ProtocolError(f"a message is one frame, this one had {len(frames)}")
            decoded = decode(frames[0], self._settings.limits)
        except GameAgentError as error:
            session.tell(encode(replies.error(None, error)))
            return None
        self._accept(session, peer, decoded)
        return None

    def _accept(self, session: Session, peer: Peer, decoded: Decoded) -> None:
        fields = decoded.fields
        request_id = read_id(fields)
        self._num_requests += 1
        if request_id is None:
            problem = decoded.error or InvalidInput(
                "a request needs an id: an integer or a string of at most "
                f"{messages.MAX_ID_CHARS} characters",
                where="id",
            )
            session.tell(encode(replies.error(None, problem)))
        elif fields.get("op") == "hello":
            self._hello(session, peer, request_id, decoded)
        elif fields.get("op") == "tick":
            self._tick(session, peer, request_id, decoded)
        elif self._begin(session, request_id):
            self._answer(
                session, request_id, lambda: self._run(session, peer, self._parse(decoded))
            )

    def _hello(self, session: Session, peer: Peer, request_id: Id, decoded: Decoded) -> None:
        """Open or resume a session.

        It is never kept for a repeated request: its id may have been used in the session resumed.
        """
        try:
            hello = self._parse(decoded)
            assert isinstance(hello, messages.Hello)
            check_protocol(hello)
            resumed = False
            if hello.session is not None:
                session, resumed = self._sessions.resume(hello.session, peer)
            fields = welcome(self._runtime, self._settings, session.token, resumed=resumed)
            session.tell(encode(replies.ok(request_id, fields)), first=True)
        except GameAgentError as error:
            session.tell(encode(replies.error(request_id, error)))

    def _tick(self, session: Session, peer: Peer, request_id: Id, decoded: Decoded) -> None:
        """Apply a change, then start its asks. If the change fails, so does every ask.

        A repeated tick applies nothing; of its asks those are started that are not known.
        """
        try:
            is_new = session.begin(request_id, self._clock.now_s())
        except Overloaded as error:
            session.tell(encode(replies.error(request_id, error)))
            self._fail_asks(session, decoded.fields, error)
            return
        try:
            tick = self._parse(decoded)
            assert isinstance(tick, messages.Tick)
            _check_asks(tick, peer)
            if is_new:
                fields = self._operations.tick(tick)
                self._journal.record(tick)
                self._succeed(session, request_id, fields, is_lasting=True)
        except GameAgentError as error:
            self._fail_tick(session, request_id, decoded.fields, error)
        except Exception:
            logger.exception("a tick failed")
            self._fail_tick(session, request_id, decoded.fields, internal_error())
        else:
            for index, ask in enumerate(tick.asks):
                self._tick_ask(session, ask, f"asks.{index}")

    def _tick_ask(self, session: Session, fields: Any, where: str) -> None:
        request_id = read_id(fields)
        if request_id is None:
            error = InvalidInput("an ask needs an id of its own", where=f"{where}.id")
            session.tell(encode(replies.error(None, error)))
        elif self._begin(session, request_id):
            self._answer(
                session,
                request_id,
                lambda: self._ask(session, parse_ask(fields, where), where),
            )

    def _fail_tick(
        self, session: Session, request_id: Id, fields: Map, error: GameAgentError
    ) -> None:
        fail(session, request_id, error, self._clock)
        self._fail_asks(session, fields, error)

    def _fail_asks(self, session: Session, fields: Map, error: GameAgentError) -> None:
        asks = fields.get("asks")
        for ask in asks if isinstance(asks, list) else ():
            ask_id = read_id(ask)
            if ask_id is not None and self._begin(session, ask_id):
                fail(session, ask_id, error, self._clock)

    def _run(self, session: Session, peer: Peer, request: messages.Request) -> None:
        fields: Map
        match request:
            case messages.Ask():
                if peer.has_delimiter and request.stream:
                    raise InvalidInput("a REQ socket cannot stream, use DEALER", where="stream")
                self._ask(session, request)
                return
            case messages.Ping():
                fields = {}
            case messages.AgentHeard():
                ask = session.find_ask(request.ask)
                if ask is None:
                    message = f"no ask {request.ask!r} of this session is known (any more)"
                    raise NotFound(message, where="ask")
                ask.heard(request.chars)
                fields = {}
            case messages.Save():
                fields = self._transfers.save(session, request)
            case messages.Load():
                fields = self._load(session, request)
            case messages.Cancel():
                fields = {"found": session.cancel(request.target)}
            case messages.Stats():
                fields = self.stats()
            case _:
                fields = self._operations.run(request)
        self._journal.record(request)
        is_lasting = not isinstance(request, CHANGES_NOTHING)
        self._succeed(session, request.id, fields, is_lasting=is_lasting)

    def _load(self, session: Session, request: messages.Load) -> Map:
        with paths_from("data"):
            snapshot = self._transfers.load(session, request)
        if snapshot is None:
            return {"part": request.part, "parts": request.parts}
        before = set(self._runtime.agents)
        with paths_from("data"):
            world = self._runtime.restore(snapshot)
        for name in before - self._runtime.agents.keys():
            self._journal.record(messages.AgentDelete(v=1, id=request.id, agent=name))
        names = [agent.persona.name for agent in snapshot.agents]
        agents = [self._runtime.get_agent(name) for name in names]
        for made in requests_that_make(world, agents):
            self._journal.record(made)
        return {"world": world.name, "agents": names}

    def _ask(self, session: Session, request: messages.Ask, where: str | None = None) -> None:
        """Start an ask. ``where`` is its path in a tick."""
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
                at_end=partial(self._ask_ends, session, request),
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
            fail(session, request.id, error, self._clock, where)
        else:
            session.attach(request.id, ask, has_deadline=request.deadline_ms is not None)

    def _begin(self, session: Session, request_id: Id) -> bool:
        """Whether the request is new and has room; if it has none, it is told so."""
        try:
            return session.begin(request_id, self._clock.now_s())
        except Overloaded as error:
            session.tell(encode(replies.error(request_id, error)))
            return False

    def _parse(self, decoded: Decoded) -> messages.Request:
        if decoded.error is not None:
            raise decoded.error
        request = parse(decoded.fields)
        if self.is_draining and decoded.fields["op"] not in WHILE_DRAINING:
            raise Unavailable("the server is stopping")
        return request

    def _ask_ends(self, session: Session, request: messages.Ask, frame: bytes | None) -> None:
        self._journal.touch(request.agent)
        if request.remember and frame is not None:
            self._note(session, request.id, frame)

    def _succeed(self, session: Session, request_id: Id, fields: Map, *, is_lasting: bool) -> None:
        frame = encode(replies.ok(request_id, fields))
        if is_lasting:
            self._note(session, request_id, frame)
        session.finish(request_id, frame, self._clock.now_s())

    def _note(self, session: Session, request_id: Id, frame: bytes) -> None:
        """A reply that a repeated request must get again, even after a restart."""
        reply = SavedReply(session.token, session.owner, request_id, frame)
        self._journal.answer(reply, self._clock.now_s())

    def _answer(self, session: Session, request_id: Id, work: Callable[[], None]) -> None:
        """Do what a begun request needs; an error is its reply."""
        try:
            work()
        except GameAgentError as error:
            fail(session, request_id, error, self._clock)
        except Exception:
            logger.exception("a request failed")
            fail(session, request_id, internal_error(), self._clock)

    def stats(self) -> Map:
        """What the ``stats`` operation tells. From any thread; figures may differ by a moment."""
        sessions = list(self._sessions)
        server = {
            "num_sessions": len(sessions),
            "num_requests": self._num_requests,
            "num_pending": sum(session.num_pending for session in sessions),
            "num_queued": sum(session.num_queued for session in sessions),
            "refused": dict(self._sessions.refused),
        }
        return {**self._runtime.stats(), "server": server}


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


def _id_of(frames: list[bytes], settings: ServerSettings) -> Id | None:
    try:
        return read_id(decode(frames[0], settings.limits).fields)
    except GameAgentError:
        return None
