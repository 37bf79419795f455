"""A client for asyncio. The methods are those of ``Client``, which explains them, to be awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Literal, TypeVar, Unpack

import zmq
import zmq.asyncio

from game_agent.client import calls
from game_agent.client.calls import AskFields, Call
from game_agent.client.core import DEFAULT_ENDPOINT, DEFAULT_TIMEOUT_S, Answer, Core
from game_agent.client.socket import CurveKeys, configure, timeout_error
from game_agent.client.stream import AsyncStream, Tick
from game_agent.protocol.codec import Map

T = TypeVar("T")
POLL_MS = 250
"""How long who reads or sends holds on to a socket that ``reconnect`` may want to replace."""


class AsyncClient:
    """Talks to one server, from the tasks of one event loop. Raises what ``Client`` raises.

    On Windows it needs a loop that can wait for sockets (``asyncio.SelectorEventLoop``).
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
        self._context = zmq.asyncio.Context()
        self._socket = self._connect()
        # Whoever waits reads for all; the lock is fair, so a reply gets to its reader at once.
        self._reading = asyncio.Lock()
        # On a new connection nobody may send before it has said hello.
        self._sending = asyncio.Lock()

    def close(self) -> None:
        self._context.destroy(linger=0)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def hello(self, client: str | None = None) -> Map:
        reply = await self._do(calls.hello(client))
        self._core.welcome(reply)
        return reply

    async def reconnect(self) -> bool:
        async with self._sending:
            waiting = dict.fromkeys(sent.frame for sent in self._core.unanswered())
            old, self._socket = self._socket, self._connect()
            async with self._reading:
                old.close(linger=0)
            reply = await self._do(calls.hello(None, self._core.session), is_turn=True)
            self._core.welcome(reply)
            for frame in waiting if reply["resumed"] else ():
                await self._send(frame, is_turn=True)
        return bool(reply["resumed"])

    async def ping(self) -> None:
        await self._do(calls.ping())

    async def world_put(
        self,
        world: str,
        state: Mapping[str, Any],
        *,
        seq: int | None = None,
        partition: Sequence[Map] | None = None,
    ) -> Map:
        return await self._do(calls.world_put(world, state, seq, partition))

    async def world_patch(
        self,
        world: str,
        patch: Sequence[Map] | None = None,
        *,
        merge: Mapping[str, Any] | None = None,
        seq: int | None = None,
    ) -> Map:
        return await self._do(calls.world_patch(world, patch, merge, seq))

    async def world_get(self, world: str) -> Map:
        return await self._do(calls.world_get(world))

    async def world_delete(self, world: str) -> None:
        await self._do(calls.world_delete(world))

    async def agent_put(
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
        about = (profile, sees, instructions, card, memory_tokens, recall, summarize, actions)
        await self._do(calls.agent_put(agent, world, *about))

    async def agent_get(self, agent: str) -> Map:
        return await self._do(calls.agent_get(agent))

    async def agent_delete(self, agent: str) -> None:
        await self._do(calls.agent_delete(agent))

    async def observe(
        self,
        agent: str | Sequence[str],
        event: str,
        *,
        game_time: float | None = None,
        pin: bool = False,
    ) -> None:
        await self._do(calls.observe(agent, event, game_time, pin))

    async def lore_put(
        self,
        entries: Sequence[Mapping[str, Any]],
        *,
        world: str | None = None,
        agent: str | None = None,
        **book: Any,
    ) -> Map:
        return await self._do(calls.lore_put(entries, world, agent, book))

    async def inspect(self, agent: str, event: str | None = None) -> list[Map]:
        return await self._do(calls.inspect(agent, event))

    async def heard(self, ask: int | str, chars: int) -> None:
        await self._do(calls.heard(ask, chars))

    async def rewind(self, agent: str, game_time: float) -> int:
        return await self._do(calls.rewind(agent, game_time))

    async def save(self, world: str) -> bytes:
        reply = await self._do(calls.save(world, 0))
        parts = [reply["data"]]
        parts += [
            (await self._do(calls.save(world, part)))["data"] for part in range(1, reply["parts"])
        ]
        return b"".join(parts)

    async def load(self, data: bytes) -> Map:
        for call in calls.load_parts(data):
            reply = await self._do(call)
        return reply

    async def warm(self, agent: str, *, keep: bool = False) -> None:
        await self._do(calls.warm(agent, keep))

    async def history(self, agent: str, last: int | None = None) -> list[Map]:
        return await self._do(calls.history(agent, last))

    async def ask(self, agent: str, event: str, **options: Unpack[AskFields]) -> Answer:
        return await self._do(calls.ask(agent, event, options))

    async def stream(
        self,
        agent: str,
        event: str,
        *,
        by: Literal["token", "sentence"] = "token",
        **options: Unpack[AskFields],
    ) -> AsyncStream:
        call = calls.ask(agent, event, options, True if by == "token" else "sentence")
        sent = self._core.request(call.op, call.fields)
        with self._core.giving_up(sent.id):
            await self._send(sent.frame)
        return self._stream(sent.id)

    async def tick(
        self,
        world: str,
        tick: float | str,
        *,
        patch: Sequence[Map] | None = None,
        merge: Mapping[str, Any] | None = None,
        seq: int | None = None,
        asks: Sequence[Mapping[str, Any]] = (),
    ) -> Tick[AsyncStream]:
        call = calls.tick(world, tick, patch, merge, seq)
        sent, ask_ids = self._core.tick(call.fields, asks)
        with self._core.giving_up(sent.id, *ask_ids):
            await self._send(sent.frame)
            reply = call.read(await self._wait(sent.id))
        return Tick(reply, [self._stream(ask_id) for ask_id in ask_ids])

    async def cancel(self, target: int | str) -> bool:
        return await self._do(calls.cancel(target))

    async def stats(self) -> Map:
        return await self._do(calls.stats())

    def _connect(self) -> zmq.asyncio.Socket:
        socket = self._context.socket(zmq.DEALER)
        configure(socket, self._keys)
        socket.connect(self.endpoint)
        return socket

    async def _do(self, call: Call[T], *, is_turn: bool = False) -> T:
        sent = self._core.request(call.op, call.fields)
        with self._core.giving_up(sent.id):
            await self._send(sent.frame, is_turn=is_turn)
            return call.read(await self._wait(sent.id))

    def _stream(self, request_id: int) -> AsyncStream:
        return AsyncStream(self, self._core, self._wait, request_id)

    async def _send(self, frame: bytes, *, is_turn: bool = False) -> None:
        """``is_turn``: the caller holds ``_sending``."""
        turn = nullcontext() if is_turn else self._sending
        is_sent = False
        try:
            async with asyncio.timeout(self.timeout_s):
                while not is_sent:
                    async with turn:
                        is_sent = await self._try_to_send(frame)
        except TimeoutError:
            raise timeout_error(self.endpoint, self.timeout_s) from None

    async def _try_to_send(self, frame: bytes) -> bool:
        # To poll and then to send at once: cancelled in between, nothing is sent.
        # (pyzmq's stubs do not know the second argument.)
        if not await self._socket.poll(POLL_MS, zmq.POLLOUT):  # type: ignore[call-arg]
            return False
        try:
            await self._socket.send(frame, zmq.NOBLOCK)
        except zmq.Again:  # the connection was lost in this moment
            return False
        return True

    async def _wait(self, request_id: int) -> Map:
        """The next reply of a request. Raises ``RequestTimeout``; it may be waited for again."""
        try:
            async with asyncio.timeout(self.timeout_s):
                while (reply := self._core.take(request_id)) is None:
                    await self._read(request_id)
        except TimeoutError:
            raise timeout_error(self.endpoint, self.timeout_s) from None
        return reply

    async def _read(self, request_id: int) -> None:
        async with self._reading:
            if self._core.has_reply(request_id):
                return
            socket = self._socket
            # To poll and then to receive at once: cancelled in between, no frame is lost.
            if await socket.poll(POLL_MS):
                self._core.feed(await socket.recv(zmq.NOBLOCK))
