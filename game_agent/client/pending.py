"""A request whose reply is not waited for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from game_agent.client.calls import Call
from game_agent.client.core import Answer
from game_agent.errors import GameAgentError, InvalidInput
from game_agent.protocol.codec import Map
from game_agent.protocol.replies import TERMINAL

T = TypeVar("T")


class Pending(Generic[T]):
    """A request under way, filled in by ``FrameClient.poll``.

    text:  what has arrived of an answer; whole once ``is_done``, also if pieces were missed
    error: why it failed, once ``is_done``
    """

    def __init__(self, request_id: int, call: Call[T]) -> None:
        self.id = request_id
        self.text = ""
        self.is_done = False
        self.error: GameAgentError | None = None
        self._call = call
        self._pieces: list[str] = []
        self._reply: Map = {}

    def result(self) -> T:
        """What came of it. Raises ``error``, or ``InvalidInput`` before ``is_done``."""
        if not self.is_done:
            raise InvalidInput("there is no reply yet; poll() until is_done")
        if self.error is not None:
            raise self.error
        return self._call.read(self._reply)

    def take_pieces(self) -> list[str]:
        """The pieces of an answer that came since the last call: tokens, or sentences to speak.

        Pieces are missed if the game polls too rarely; ``text`` is whole all the same.
        """
        pieces, self._pieces = self._pieces, []
        return pieces

    def take(self, reply: Map) -> None:
        """A reply of its came. Called by the client, as ``fail``."""
        if reply["ev"] in TERMINAL:
            self._reply, self.is_done = reply, True
            self.text = reply.get("text", self.text)
        else:
            self._pieces.append(reply["text"])
            self.text += reply["text"]

    def fail(self, error: GameAgentError) -> None:
        """It ended with an error."""
        self.error, self.is_done = error, True


@dataclass(frozen=True)
class PendingTick:
    """A tick under way: the change, and the questions about it."""

    change: Pending[Map]
    asks: list[Pending[Answer]]
