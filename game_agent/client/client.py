"""A blocking client."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, Unpack

import zmq

from game_agent.client import calls
from game_agent.client.calls import AskFields, Call
from game_agent.client.core import DEFAULT_ENDPOINT, DEFAULT_TIMEOUT_S, Answer, Core
from game_agent.client.socket import CurveKeys, configure, timeout_error
from game_agent.client.stream import Stream, Tick
from game_agent.protocol.codec import Map

T = TypeVar("T")


class Client:
    """Talks to one server. Used by one thread; several requests may be under way (``stream``).

    Every method raises ``ServerError`` (what the server answered), ``RequestTimeout`` (nothing came
    for ``timeout_s``), ``InvalidInput`` (values that cannot be sent) or ``TooLarge`` (more than the
    server takes, if ``hello`` was said). A context manager.

    endpoint:  where the server listens, such as ``tcp://127.0.0.1:5761``
    timeout_s: how long, in seconds, a method waits for a reply, or an answer for its next piece
    keys:      for a server that asks for them
    """

    def __init__(
        self,
        endpoint: str = DEFAULT_ENDPOINT,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        keys: CurveKeys | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.timeout_s = timeout_s
        self._keys = keys
        self._core = Core()
        self._context = zmq.Context()
        self._socket = self._connect()

    def close(self) -> None:
        """End the connection. What is under way goes on at the server, answered to nobody."""
        self._context.destroy(linger=0)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def hello(self, client: str | None = None) -> Map:
        """Open a session: version, capabilities, model and limits of the server.

        To be said first: on a connection that was used it begins anew, and what is under way ends.
        """
        reply = self._do(calls.hello(client))
        self._core.welcome(reply)
        return reply

    def reconnect(self) -> bool:
        """Replace a dead connection and resume the session; ``hello`` must have been said.

        Requests that are under way are sent again under their ids, so that each is carried out
        once. False: the server does not know the session any more, and nothing was sent.
        """
        waiting = dict.fromkeys(sent.frame for sent in self._core.unanswered())
        self._socket.close(linger=0)
        self._socket = self._connect()
        reply = self._do(calls.hello(None, self._core.session))
        self._core.welcome(reply)
        for frame in waiting if reply["resumed"] else ():
            self._send(frame)
        return bool(reply["resumed"])

    def ping(self) -> None:
        """A sign of life, for a client that has nothing else to say."""
        self._do(calls.ping())

    def world_put(
        self,
        world: str,
        state: Mapping[str, Any],
        *,
        seq: int | None = None,
        partition: Sequence[Map] | None = None,
    ) -> Map:
        """Create a world or replace its state: ``seq``, ``blocks``."""
        return self._do(calls.world_put(world, state, seq, partition))

    def world_patch(
        self,
        world: str,
        patch: Sequence[Map] | None = None,
        *,
        merge: Mapping[str, Any] | None = None,
        seq: int | None = None,
    ) -> Map:
        """Change a world by JSON Patch or Merge Patch: ``seq``, ``blocks``, ``blocks_changed``."""
        return self._do(calls.world_patch(world, patch, merge, seq))

    def world_get(self, world: str) -> Map:
        """``state`` and ``seq``."""
        return self._do(calls.world_get(world))

    def world_delete(self, world: str) -> None:
        """Forget a world and its agents; their answers under way end as cancelled."""
        self._do(calls.world_delete(world))

    def agent_put(
        self,
        agent: str,
        *,
        world: str,
        profile: str | Mapping[str, Any] | None = None,
        card: Mapping[str, Any] | None = None,
        sees: Sequence[str] | None = None,
        instructions: str | None = None,
        memory_tokens: int | None = None,
        recall: int | None = None,
        summarize: bool | None = None,
        actions: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """Create or update an agent; ``sees`` are JSON Pointers into the world.

        ``actions`` are what it can do: maps of ``name``, ``description``, ``parameters``.
        """
        about = (profile, sees, instructions, card, memory_tokens, recall, summarize, actions)
        self._do(calls.agent_put(agent, world, *about))

    def agent_get(self, agent: str) -> Map:
        """``agent``: its name. Raises ``ServerError`` (``not_found``) if there is none."""
        return self._do(calls.agent_get(agent))

    def agent_delete(self, agent: str) -> None:
        """Forget an agent; its answers under way end as cancelled."""
        self._do(calls.agent_delete(agent))

    def observe(
        self,
        agent: str | Sequence[str],
        event: str,
        *,
        game_time: float | None = None,
        pin: bool = False,
    ) -> None:
        """Let one agent or several remember an event."""
        self._do(calls.observe(agent, event, game_time, pin))

    def lore_put(
        self,
        entries: Sequence[Mapping[str, Any]],
        *,
        world: str | None = None,
        agent: str | None = None,
        **book: Any,
    ) -> Map:
        """Give a world or an agent a lorebook of a Character Card's entries.

        ``book``: ``scan_depth``, ``token_budget``, ``recursive_scanning``.
        """
        return self._do(calls.lore_put(entries, world, agent, book))

    def inspect(self, agent: str, event: str | None = None) -> list[Map]:
        """The prompt, block by block: ``source``, ``text``, ``tokens``, ``cached``."""
        return self._do(calls.inspect(agent, event))

    def heard(self, ask: int | str, chars: int) -> None:
        """Let memory keep only the first characters of an answer: those that were heard."""
        self._do(calls.heard(ask, chars))

    def rewind(self, agent: str, game_time: float) -> int:
        """Forget what came after ``game_time``; the number of turns forgotten."""
        return self._do(calls.rewind(agent, game_time))

    def save(self, world: str) -> bytes:
        """A world and its agents as a value for a save file."""
        reply = self._do(calls.save(world, 0))
        parts = [reply["data"]]
        parts += [self._do(calls.save(world, part))["data"] for part in range(1, reply["parts"])]
        return b"".join(parts)

    def load(self, data: bytes) -> Map:
        """Bring back what ``save`` gave: ``world``, ``agents``."""
        for call in calls.load_parts(data):
            reply = self._do(call)
        return reply

    def warm(self, agent: str, *, keep: bool = False) -> None:
        """Make an agent's blocks ready before it is asked; keep: they stay so."""
        self._do(calls.warm(agent, keep))

    def history(self, agent: str, last: int | None = None) -> list[Map]:
        """An agent's turns, the oldest first."""
        return self._do(calls.history(agent, last))

    def ask(self, agent: str, event: str, **options: Unpack[AskFields]) -> Answer:
        """Say something to an agent and wait for its whole answer.

        With ``kind="choose"`` and ``options`` it chooses; with ``kind="act"`` it does one of its
        actions, or gives JSON under a ``schema``.
        """
        return self._do(calls.ask(agent, event, options))

    def stream(
        self,
        agent: str,
        event: str,
        *,
        by: Literal["token", "sentence"] = "token",
        **options: Unpack[AskFields],
    ) -> Stream:
        """Say something to an agent and get its answer in pieces."""
        call = calls.ask(agent, event, options, True if by == "token" else "sentence")
        sent = self._core.request(call.op, call.fields)
        with self._core.giving_up(sent.id):
            self._send(sent.frame)
        return self._stream(sent.id)

    def tick(
        self,
        world: str,
        tick: float | str,
        *,
        patch: Sequence[Map] | None = None,
        merge: Mapping[str, Any] | None = None,
        seq: int | None = None,
        asks: Sequence[Mapping[str, Any]] = (),
    ) -> Tick[Stream]:
        """Change a world and ask agents about it, in one message.

        Each of ``asks`` is a map of ``agent``, ``event`` and options of an ask, as on the wire.
        """
        call = calls.tick(world, tick, patch, merge, seq)
        sent, ask_ids = self._core.tick(call.fields, asks)
        with self._core.giving_up(sent.id, *ask_ids):
            self._send(sent.frame)
            reply = call.read(self._wait(sent.id))
        return Tick(reply, [self._stream(ask_id) for ask_id in ask_ids])

    def cancel(self, target: int | str) -> bool:
        """Cancel an ask by its id; False if it was not running."""
        return self._do(calls.cancel(target))

    def stats(self) -> Map:
        """Counters, latency quantiles (ms), cache figures; ``server``: sessions and requests."""
        return self._do(calls.stats())

    def _connect(self) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.DEALER)
        configure(socket, self._keys)
        socket.connect(self.endpoint)
        return socket

    def _do(self, call: Call[T]) -> T:
        sent = self._core.request(call.op, call.fields)
        with self._core.giving_up(sent.id):
            self._send(sent.frame)
            return call.read(self._wait(sent.id))

    def _stream(self, request_id: int) -> Stream:
        return Stream(self, self._core, self._wait, request_id)

    def _send(self, frame: bytes) -> None:
        try:
            # As it is now, not as it was when the socket was made.
            self._socket.setsockopt(zmq.SNDTIMEO, max(1, round(self.timeout_s * 1000)))
            self._socket.send(frame)
        except zmq.Again:
            raise timeout_error(self.endpoint, self.timeout_s) from None

    def _wait(self, request_id: int) -> Map:
        """The next reply of a request. Raises ``RequestTimeout``; it may be waited for again."""
        deadline_s = time.monotonic() + self.timeout_s
        while (reply := self._core.take(request_id)) is None:
            left_ms = max(0, round((deadline_s - time.monotonic()) * 1000))
            if not self._socket.poll(left_ms):
                raise timeout_error(self.endpoint, self.timeout_s)
            self._core.feed(self._socket.recv())
        return reply
