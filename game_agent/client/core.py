"""What every client does that is not I/O: numbering requests, sorting replies, raising errors."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from game_agent.errors import ServerError, TooLarge
from game_agent.protocol import VERSION
from game_agent.protocol.codec import Map, decode_reply, encode
from game_agent.protocol.replies import TERMINAL

DEFAULT_ENDPOINT = "tcp://127.0.0.1:5761"
DEFAULT_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Answer:
    """The end of an ask.

    text:          all of it, also what was streamed
    seq:           the version of the world it saw
    finish_reason: ``stop``, ``length``, ``cancelled``, ``superseded`` or ``deadline``
    usage:         counts of tokens and blocks, and ``queue_ms``, ``ttft_ms``, ``total_ms``
    action:        of ``kind="act"``: what is done, None if it was cut off
    choice:        of ``kind="choose"``: ``index``, ``option``, ``scores``; None if cut off
    """

    text: str
    seq: int
    finish_reason: str
    usage: Map
    action: Any = None
    choice: Map | None = None

    @staticmethod
    def of_reply(reply: Map) -> Answer:
        return Answer(
            reply["text"],
            reply["seq"],
            reply["finish_reason"],
            reply["usage"],
            reply.get("action"),
            reply.get("choice"),
        )


@dataclass(frozen=True)
class Outgoing:
    """A request under its id, as bytes to send."""

    id: int
    frame: bytes


class Core:
    """One client's requests and the replies that arrived. No I/O; used by one thread."""

    def __init__(self) -> None:
        self._next_id = 1
        self._frames: dict[int, bytes] = {}
        self._arrived: dict[int, deque[Map]] = {}
        self.session: str | None = None
        self.max_frame_bytes: int | None = None

    def request(self, op: str, fields: Map) -> Outgoing:
        """A new request; fields that are None are left out.

        Raises ``InvalidInput`` for a value that MessagePack has no plain type for, ``TooLarge`` for
        a frame that the server (if ``hello`` was said) would close the connection for.
        """
        request_id = self._new_id()
        given = {name: value for name, value in fields.items() if value is not None}
        frame = encode({"v": VERSION, "id": request_id, "op": op, **given})
        self.check_size(frame)
        self._expect(request_id, frame)
        return Outgoing(request_id, frame)

    def check_size(self, frame: bytes) -> None:
        """Raises ``TooLarge`` for a frame above what ``hello`` told, if it was said."""
        if self.max_frame_bytes is not None and len(frame) > self.max_frame_bytes:
            raise TooLarge(
                f"the request has {len(frame)} bytes, the server takes {self.max_frame_bytes}"
            )

    def tick(self, fields: Map, asks: Iterable[Mapping[str, Any]]) -> tuple[Outgoing, list[int]]:
        """A tick and the ids that its asks got."""
        numbered = [{**ask, "id": self._new_id()} for ask in asks]
        sent = self.request("tick", {**fields, "asks": numbered or None})
        for ask in numbered:
            # The frame of the tick brings them back when the connection is replaced.
            self._expect(ask["id"], sent.frame)
        return sent, [ask["id"] for ask in numbered]

    def welcome(self, reply: Map) -> None:
        """Remember what ``hello`` told."""
        self.session = reply["session"]
        self.max_frame_bytes = reply["limits"]["max_frame_bytes"]

    def feed(self, frame: bytes) -> int | None:
        """Take a frame from the server; return whose reply it is, None if nobody waits for it.

        Raises ``ServerError`` for an error that belongs to no request, ``ProtocolError`` for a
        frame that is no reply.
        """
        reply = decode_reply(frame)
        request_id = reply.get("id")
        if request_id is None and reply.get("ev") == "error":
            raise error_of(reply)
        if not isinstance(request_id, int) or request_id not in self._arrived:
            return None
        self._arrived[request_id].append(reply)
        return request_id

    def has_reply(self, request_id: int) -> bool:
        return bool(self._arrived[request_id])

    def take(self, request_id: int) -> Map | None:
        """The next reply of a request, None if there is none yet.

        After a terminal one the request is forgotten. Raises ``ServerError`` if it is an error.
        """
        arrived = self._arrived[request_id]
        if not arrived:
            return None
        reply = arrived.popleft()
        if reply.get("ev") in TERMINAL:
            self.forget(request_id)
        if reply.get("ev") == "error":
            raise error_of(reply)
        return reply

    def forget(self, request_id: int) -> None:
        """Wait no longer for a request; replies that still come are ignored."""
        self._arrived.pop(request_id, None)
        self._frames.pop(request_id, None)

    @contextmanager
    def giving_up(self, *request_ids: int) -> Iterator[None]:
        """Forget requests if what is done with them fails: nobody will ask for their replies."""
        try:
            yield
        except BaseException:
            for request_id in request_ids:
                self.forget(request_id)
            raise

    def unanswered(self) -> list[Outgoing]:
        """The requests without a terminal reply, oldest first. Those of a tick share its frame."""
        return [
            Outgoing(request_id, self._frames[request_id])
            for request_id, arrived in list(self._arrived.items())
            if not any(reply.get("ev") in TERMINAL for reply in arrived)
        ]

    def _new_id(self) -> int:
        self._next_id += 1
        return self._next_id - 1

    def _expect(self, request_id: int, frame: bytes) -> None:
        self._frames[request_id] = frame
        self._arrived[request_id] = deque()


def error_of(reply: Map) -> ServerError:
    """The exception that an error reply stands for."""
    return ServerError(
        reply.get("code", "internal"),
        reply.get("message", "the server gave no reason"),
        where=reply.get("where"),
        retry_after_ms=reply.get("retry_after_ms"),
        expected=reply.get("expected"),
    )
