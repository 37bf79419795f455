"""The server without its sockets: frames of peers in, replies into their sessions."""

from __future__ import annotations

import logging

from game_agent.clock import Clock
from game_agent.errors import (
    GameAgentError,
    InvalidInput,
    Overloaded,
    ProtocolError,
    Unavailable,
)
from game_agent.protocol import messages, replies
from game_agent.protocol.codec import Decoded, Map, decode, encode
from game_agent.protocol.messages import parse, read_id
from game_agent.protocol.replies import Id
from game_agent.server.asks import Asks, Post
from game_agent.server.backend import Backend
from game_agent.server.journal import Journal, NoJournal
from game_agent.server.ledger import Ledger
from game_agent.server.operations import (
    Operations,
    paths_from,
)
from game_agent.server.replay import CHANGES_NOTHING
from game_agent.server.session import Peer, Session
from game_agent.server.settings import ServerSettings
from game_agent.server.table import SessionTable
from game_agent.server.ticks import Ticks
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
        self._operations = Operations(runtime, settings.limits)
        self._ledger = Ledger(journal or NoJournal(), clock)
        self._asks = Asks(runtime, self._ledger, clock, post)
        self._ticks = Ticks(self._operations, self._asks, self._ledger)
        self._transfers = Transfers(runtime, settings.limits)
        self._num_requests = 0

    def receive(self, peer: Peer, frames: list[bytes]) -> bytes | None:
        """Take one message of a peer (without its routing id and REQ delimiter).

        Returns a frame to send to a peer that got no session, because there are too many.
        """
        message = self._read(frames)
        try:
            session = self._sessions.of_peer(peer, _wanted_session(message))
        except Overloaded as error:
            return encode(replies.error(_id_of(message), error))
        if session.is_flooded:
            logger.warning("a client asks without reading its replies; its session is closed")
            self._sessions.close(session)
        elif isinstance(message, GameAgentError):
            session.tell(encode(replies.error(None, message)))
        else:
            self._accept(session, peer, message)
        return None

    def _read(self, frames: list[bytes]) -> Decoded | GameAgentError:
        if len(frames) != 1:
            return ProtocolError(f"a message is one frame, this one had {len(frames)}")
        try:
            return decode(frames[0], self._settings.limits)
        except GameAgentError as error:
            return error

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
            self._ticks.run(session, peer, request_id, fields, lambda: self._parse(decoded))
        else:
            self._ledger.carry_out(
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
            if not resumed and session.is_used:
                session = self._sessions.anew(peer)
            fields = welcome(self._runtime, self._settings, session.token, resumed=resumed)
            session.tell(encode(replies.ok(request_id, fields)), first=True)
        except GameAgentError as error:
            session.tell(encode(replies.error(request_id, error)))

    def _run(self, session: Session, peer: Peer, request: messages.Request) -> None:
        fields: Map
        match request:
            case messages.Ask():
                if peer.has_delimiter and request.stream:
                    raise InvalidInput("a REQ socket cannot stream, use DEALER", where="stream")
                self._asks.start(session, request)
                return
            case messages.Ping():
                fields = {}
            case messages.AgentHeard():
                self._asks.heard(session, request)
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
        self._ledger.record(request)
        is_lasting = not isinstance(request, CHANGES_NOTHING)
        self._ledger.succeed(session, request.id, fields, is_lasting=is_lasting)

    def _load(self, session: Session, request: messages.Load) -> Map:
        with paths_from("data"):
            snapshot = self._transfers.load(session, request)
        if snapshot is None:
            return {"part": request.part, "parts": request.parts}
        before = set(self._runtime.agents)
        with paths_from("data"):
            world = self._runtime.restore(snapshot)
        for name in before - self._runtime.agents.keys():
            self._ledger.record(messages.AgentDelete(v=1, id=request.id, agent=name))
        names = [agent.persona.name for agent in snapshot.agents]
        agents = [self._runtime.get_agent(name) for name in names]
        for made in requests_that_make(world, agents):
            self._ledger.record(made)
        return {"world": world.name, "agents": names}

    def _parse(self, decoded: Decoded) -> messages.Request:
        if decoded.error is not None:
            raise decoded.error
        request = parse(decoded.fields)
        if self.is_draining and decoded.fields["op"] not in WHILE_DRAINING:
            raise Unavailable("the server is stopping")
        return request

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


def _id_of(message: Decoded | GameAgentError) -> Id | None:
    return read_id(message.fields) if isinstance(message, Decoded) else None


def _wanted_session(message: Decoded | GameAgentError) -> str | None:
    if not isinstance(message, Decoded) or message.fields.get("op") != "hello":
        return None
    wanted = message.fields.get("session")
    return wanted if isinstance(wanted, str) else None
