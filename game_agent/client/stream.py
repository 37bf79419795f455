"""Answers under way, of the clients that wait."""

from __future__ import annotations

import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from game_agent.client.core import Answer, Core
from game_agent.errors import ServerError
from game_agent.protocol.codec import Map


class Control(Protocol):
    """What a stream needs of ``Client``."""

    def heard(self, ask: int | str, chars: int) -> None: ...
    def cancel(self, target: int | str) -> bool: ...


class AsyncControl(Protocol):
    """What a stream needs of ``AsyncClient``."""

    async def heard(self, ask: int | str, chars: int) -> None: ...
    async def cancel(self, target: int | str) -> bool: ...


class _Ask:
    """What is known of an answer: ``answer`` is None until it is whole."""

    def __init__(self, core: Core, request_id: int) -> None:
        self.id = request_id
        self.answer: Answer | None = None
        self._error: ServerError | None = None
        # Pieces of an answer that nobody can ask for any more are not collected.
        weakref.finalize(self, core.forget, request_id).atexit = False

    def _is_over(self) -> bool:
        if self._error is not None:
            raise self._error
        return self.answer is not None

    def _piece(self, reply: Map) -> str | None:
        """The text of a reply; None if it was the last one."""
        if reply["ev"] == "done":
            self.answer = Answer.of_reply(reply)
            return None
        return str(reply["text"])


class Stream(_Ask):
    """An answer under way: iterate over its pieces of text; then ``answer`` holds all of it.

    A client that reads too slowly misses pieces, never the ``answer``. After a ``RequestTimeout``
    it may be waited for again.
    """

    def __init__(
        self, client: Control, core: Core, wait: Callable[[int], Map], request_id: int
    ) -> None:
        super().__init__(core, request_id)
        self._client = client
        self._wait = wait

    def __iter__(self) -> Iterator[str]:
        while not self._is_over():
            try:
                text = self._piece(self._wait(self.id))
            except ServerError as error:
                self._error = error
                raise
            if text is not None:
                yield text

    def result(self) -> Answer:
        """Wait for the end; return the answer."""
        for _ in self:
            continue
        assert self.answer is not None
        return self.answer

    def heard(self, chars: int) -> None:
        """Let memory keep only the first ``chars`` characters, which the player heard."""
        self._client.heard(self.id, chars)

    def cancel(self) -> bool:
        """End the answer early, with the text it has; False if it had ended."""
        return self._client.cancel(self.id)


class AsyncStream(_Ask):
    """As ``Stream``, to be awaited; also after waiting was cancelled it may be waited for again."""

    def __init__(
        self,
        client: AsyncControl,
        core: Core,
        wait: Callable[[int], Awaitable[Map]],
        request_id: int,
    ) -> None:
        super().__init__(core, request_id)
        self._client = client
        self._wait = wait

    async def __aiter__(self) -> AsyncIterator[str]:
        while not self._is_over():
            try:
                text = self._piece(await self._wait(self.id))
            except ServerError as error:
                self._error = error
                raise
            if text is not None:
                yield text

    async def result(self) -> Answer:
        """Wait for the end; return the answer."""
        async for _ in self:
            continue
        assert self.answer is not None
        return self.answer

    async def heard(self, chars: int) -> None:
        """Let memory keep only the first ``chars`` characters, which the player heard."""
        await self._client.heard(self.id, chars)

    async def cancel(self) -> bool:
        """End the answer early, with the text it has; False if it had ended."""
        return await self._client.cancel(self.id)


AnyStream = TypeVar("AnyStream", Stream, AsyncStream)


@dataclass(frozen=True)
class Tick(Generic[AnyStream]):
    """A tick that was applied. ``reply``: ``tick``, ``seq``, ``blocks_changed``."""

    reply: Map
    asks: list[AnyStream]

    @property
    def seq(self) -> int:
        return int(self.reply["seq"])
