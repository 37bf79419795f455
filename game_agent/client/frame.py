"""A client for a game loop: nothing in it waits."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, Unpack

import zmq

from game_agent.client import calls
from game_agent.client.calls import AskFields, Call
from game_agent.client.core import DEFAULT_ENDPOINT, Answer, Core, Outgoing
from game_agent.client.pending import Pending, PendingTick
from game_agent.client.socket import CurveKeys, configure
from game_agent.clock import Clock, SystemClock
from game_agent.errors import GameAgentError, Overloaded, TooLarge, Unavailable
from game_agent.protocol.codec import Map

T = TypeVar("T")
SILENCE_S = 3.0
PINGS_PER_SILENCE = 3
MAX_MESSAGES_PER_POLL = 64
MAX_UNSENT = 1024
RETRY_AFTER_MS = 1000


class FrameClient:
    """Talks to one server from a game loop; used by one thread. Call ``poll`` once a frame.

    A connection that is lost is replaced, and its session resumed, inside ``poll``: requests that
    have no reply are sent again under their ids, so that each is carried out once. So it is after a
    silence of the game itself (a loading screen), in which the server may have forgotten the
    session. Before there is a server, requests wait. A context manager.

    name:      what the server should call this client
    keys:      for a server that asks for them
    silence_s: a connection on which nothing came for so long, though something should have, is
               lost; a third of it is how often a silent client gives a sign of life
    """

    def __init__(
        self,
        endpoint: str = DEFAULT_ENDPOINT,
        *,
        name: str | None = None,
        keys: CurveKeys | None = None,
        silence_s: float = SILENCE_S,
        clock: Clock | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.is_connected = False
        self.server: Map | None = None
        """What ``hello`` told: version, model, limits."""
        self._name = name
        self._keys = keys
        self._silence_s = silence_s
        self._clock = clock or SystemClock()
        self._core = Core()
        self._pending: dict[int, Pending[Any]] = {}
        self._again: deque[Outgoing] = deque()
        self._unsent: deque[Outgoing] = deque()
        self._owed_since_s: float | None = None
        self._expiry_s = math.inf
        self._ended: list[Pending[Any]] = []
        self._context = zmq.Context()
        self._connect()

    def close(self) -> None:
        self._context.destroy(linger=0)

    def __enter__(self) -> FrameClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, call: Call[T]) -> Pending[T]:
        """Send a request, one of ``game_agent.client.calls``.

        Raises ``InvalidInput`` or ``TooLarge`` for values that cannot be sent, ``Overloaded`` if
        too many requests wait for a connection. Before there is a connection nothing is known to be
        too large; the request then ends with that error.
        """
        self._check_room()
        sent = self._core.request(call.op, call.fields)
        pending = Pending(sent.id, call)
        self._begin(sent, pending)
        return pending

    def ask(
        self,
        agent: str,
        event: str,
        *,
        by: Literal["token", "sentence"] = "token",
        **options: Unpack[AskFields],
    ) -> Pending[Answer]:
        """Say something to an agent. ``text`` of what is returned grows from frame to frame."""
        return self.start(calls.ask(agent, event, options, True if by == "token" else "sentence"))

    def tick(
        self,
        world: str,
        tick: float | str,
        *,
        patch: Sequence[Map] | None = None,
        merge: Mapping[str, Any] | None = None,
        seq: int | None = None,
        asks: Sequence[Mapping[str, Any]] = (),
    ) -> PendingTick:
        """Change a world and ask agents about it, in one message. Raises as ``start`` does.

        Each of ``asks`` is a map of ``agent``, ``event`` and options of an ask, as on the wire.
        """
        self._check_room()
        call = calls.tick(world, tick, patch, merge, seq)
        sent, ask_ids = self._core.tick(call.fields, asks)
        read_ask = Call("ask", {}, Answer.of_reply)
        answers = [Pending(ask_id, read_ask) for ask_id in ask_ids]
        change = Pending(sent.id, call)
        self._begin(sent, change, *answers)
        return PendingTick(change, answers)

    def cancel(self, ask: Pending[Answer]) -> Pending[bool]:
        """End an answer early, with the text it has."""
        return self.start(calls.cancel(ask.id))

    def poll(self, max_messages: int = MAX_MESSAGES_PER_POLL) -> list[Pending[Any]]:
        """Take in what has arrived, send what waits; return the requests that ended.

        Never waits. Raises ``ServerError`` if the server refuses the client, ``ProtocolError`` if
        it sends something that is no reply; what had ended is then returned by the next call.
        """
        for _ in range(max_messages):
            try:
                frame = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                break
            self._owed_since_s = None
            self._ended += self._take(frame)
        self._keep_alive()
        self._flush()
        ended, self._ended = self._ended, []
        return ended

    def _connect(self) -> None:
        """Take a fresh socket and say hello; nothing else is sent before that is answered."""
        self.is_connected = False
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        configure(self._socket, self._keys)
        # A connection that came back by itself would be a new session to the server.
        self._socket.setsockopt(zmq.RECONNECT_IVL, -1)
        self._socket.connect(self.endpoint)
        call = calls.hello(self._name, self._core.session)
        self._hello = self._core.request(call.op, call.fields)
        self._is_hello_sent = False
        self._spoke_s = self._clock.now_s()
        self._owed_since_s = self._spoke_s

    def _keep_alive(self) -> None:
        now_s = self._clock.now_s()
        is_lost = self._owed_since_s is not None and now_s - self._owed_since_s > self._silence_s
        if is_lost or self._has_slept():
            self._reconnect()
        elif self.is_connected and now_s - self._spoke_s > self._silence_s / PINGS_PER_SILENCE:
            ping = self._core.request("ping", {})
            self._core.forget(ping.id)
            self._send(ping.frame)

    def _has_slept(self) -> bool:
        """Whether the game was silent for so long that the server may have forgotten the session.

        On the same connection that would not show: it would be a new session.
        """
        return self.is_connected and self._clock.now_s() - self._spoke_s > self._expiry_s / 2

    def _reconnect(self) -> None:
        self._core.forget(self._hello.id)
        self._socket.close(linger=0)
        self._connect()

    def _take(self, frame: bytes) -> list[Pending[Any]]:
        """The requests that a frame ends."""
        request_id = self._core.feed(frame)
        if request_id is None:
            return []
        if request_id == self._hello.id:
            return self._welcome(request_id)
        pending = self._pending[request_id]
        try:
            reply = self._core.take(request_id)
        except GameAgentError as error:
            pending.fail(error)
        else:
            assert reply is not None
            pending.take(reply)
        if not pending.is_done:
            return []
        del self._pending[request_id]
        return [pending]

    def _welcome(self, request_id: int) -> list[Pending[Any]]:
        """The session is there. What it owes is sent again, or given up if it is a new one."""
        try:
            reply = self._core.take(request_id)
        except GameAgentError:
            # Tried again in a while, as a new client.
            self._core.session = None
            self._owed_since_s = self._clock.now_s()
            raise
        assert reply is not None
        self._core.welcome(reply)
        self.server = reply
        self._expiry_s = reply["expiry_ms"] / 1000
        self.is_connected = True
        refused = self._refuse_too_large()
        fresh = {sent.frame for sent in self._unsent}
        owed = [sent for sent in self._core.unanswered() if sent.frame not in fresh]
        if reply["resumed"]:
            self._again = deque({sent.frame: sent for sent in owed}.values())
            return refused
        self._again.clear()
        lost = Unavailable("the server lost the session; the request may have been carried out")
        return refused + [self._give_up(sent.id, lost) for sent in owed]

    def _refuse_too_large(self) -> list[Pending[Any]]:
        """End what waited for a connection and would close it: only now is the limit known."""
        ended = []
        for sent in self._core.unanswered():
            try:
                self._core.check_size(sent.frame)
            except TooLarge as error:
                ended.append(self._give_up(sent.id, error))
                self._unsent = deque(each for each in self._unsent if each.frame != sent.frame)
        return ended

    def _give_up(self, request_id: int, error: GameAgentError) -> Pending[Any]:
        self._core.forget(request_id)
        pending = self._pending.pop(request_id)
        pending.fail(error)
        return pending

    def _check_room(self) -> None:
        if len(self._unsent) >= MAX_UNSENT:
            raise Overloaded("no connection to the server", retry_after_ms=RETRY_AFTER_MS)

    def _begin(self, sent: Outgoing, *pending: Pending[Any]) -> None:
        self._pending.update({each.id: each for each in pending})
        self._unsent.append(sent)
        if self._has_slept():
            self._reconnect()
        # At once, not with the next poll: a frame of the game is worth 16 ms.
        self._flush()

    def _flush(self) -> None:
        if not self._is_hello_sent:
            self._is_hello_sent = self._send(self._hello.frame)
        while self.is_connected and (waiting := self._again or self._unsent):
            if not self._send(waiting[0].frame):
                break
            waiting.popleft()

    def _send(self, frame: bytes) -> bool:
        if self._owed_since_s is None:
            self._owed_since_s = self._clock.now_s()
        try:
            self._socket.send(frame, zmq.NOBLOCK)
        except zmq.Again:
            return False
        self._spoke_s = self._clock.now_s()
        return True
