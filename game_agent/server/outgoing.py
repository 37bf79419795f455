"""Replies that wait to be sent to one client. No I/O."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from game_agent.protocol import replies
from game_agent.protocol.codec import encode
from game_agent.protocol.replies import Id

PIECE_OVERHEAD_BYTES = 64


@dataclass(slots=True)
class _Waiting:
    """A terminal reply as ``frame``, or a piece of streamed text."""

    id: Id | None
    frame: bytes = b""
    ev: str = ""
    index: int = 0
    text: str = ""
    num_bytes: int = 0


class Outgoing:
    """A queue of frames, in which pieces of text that wait are joined.

    ``max_bytes``: above it pieces of text are dropped; other replies never are.
    """

    def __init__(self, max_bytes: int) -> None:
        self.num_bytes = 0
        self._max_bytes = max_bytes
        self._queue: deque[_Waiting] = deque()
        self._ends: set[Id] = set()
        self._open_pieces: dict[Id, _Waiting] = {}

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def is_full(self) -> bool:
        return self.num_bytes > self._max_bytes

    def has_end(self, request_id: Id) -> bool:
        """Whether the terminal reply to a request waits."""
        return request_id in self._ends

    def add(self, frame: bytes, *, first: bool = False) -> None:
        """A reply that belongs to no begun request."""
        self._add(_Waiting(None, frame, num_bytes=len(frame)), first=first)

    def add_end(self, request_id: Id, frame: bytes) -> None:
        """A terminal reply."""
        self._open_pieces.pop(request_id, None)
        self._ends.add(request_id)
        self._add(_Waiting(request_id, frame, num_bytes=len(frame)))

    def add_piece(self, request_id: Id, ev: str, index: int, text: str) -> bool:
        """A piece of text. False if it was joined to the one before, whose index it then has.

        One that is dropped uses its index up, and so shows as a gap.
        """
        size = len(text.encode())
        waiting = self._open_pieces.get(request_id)
        if self.num_bytes + size + PIECE_OVERHEAD_BYTES > self._max_bytes:
            # Text after the gap must not be joined to text before it.
            self._open_pieces.pop(request_id, None)
            return True
        if waiting is not None:
            waiting.text += text
            waiting.num_bytes += size
            self.num_bytes += size
            return False
        piece = _Waiting(request_id, ev=ev, index=index, text=text)
        piece.num_bytes = size + PIECE_OVERHEAD_BYTES
        self._open_pieces[request_id] = piece
        self._add(piece)
        return True

    def peek(self) -> bytes | None:
        """The next frame to send."""
        if not self._queue:
            return None
        reply = self._queue[0]
        if not reply.frame and reply.id is not None:
            return encode(replies.piece(reply.id, reply.ev, reply.index, reply.text))
        return reply.frame

    def sent(self) -> None:
        """The frame that ``peek`` showed is on its way."""
        reply = self._queue.popleft()
        self.num_bytes -= reply.num_bytes
        if reply.id is None:
            return
        if reply.frame:
            self._ends.discard(reply.id)
        elif self._open_pieces.get(reply.id) is reply:
            del self._open_pieces[reply.id]

    def clear(self) -> None:
        self._queue.clear()
        self._ends.clear()
        self._open_pieces.clear()
        self.num_bytes = 0

    def _add(self, reply: _Waiting, *, first: bool = False) -> None:
        if first:
            self._queue.appendleft(reply)
        else:
            self._queue.append(reply)
        self.num_bytes += reply.num_bytes
