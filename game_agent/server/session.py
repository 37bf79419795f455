"""One client: what it asked, what it is still owed. No I/O, time passed in.

A request is *begun* once and *finished* once; what lies between is its pending state:

    begin(id) ── new ──────> pending ── finish ──> queued ── sent ──> kept for replay_s
        ├─ pending, queued ─> nothing: its reply is to come
        └─ kept ───────────> queued again
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from game_agent.errors import Overloaded
from game_agent.protocol.limits import Limits
from game_agent.protocol.replies import Id
from game_agent.server.backend import Ask
from game_agent.server.bucket import TokenBucket
from game_agent.server.outgoing import Outgoing

RETRY_AFTER_MS = 100


@dataclass(frozen=True)
class Peer:
    """A connection.

    routing_id:    ZeroMQ's name for it
    has_delimiter: whether it speaks with an empty first frame (REQ)
    user:          who it is by its CURVE key; empty without keys
    """

    routing_id: bytes
    has_delimiter: bool = False
    user: str = ""


@dataclass(slots=True)
class _Pending:
    """A request without a terminal reply. ``ask`` is set once the runtime has taken it up."""

    ask: Ask | None = None
    has_deadline: bool = False
    num_pieces: int = 0


@dataclass(frozen=True, slots=True)
class _Kept:
    """A terminal reply for a repeated request."""

    frame: bytes
    finished_s: float
    ask: Ask | None = None


class Session:
    """The requests and replies of one client. Used by one thread.

    It puts itself into ``outbox`` when it has something to send.
    """

    def __init__(
        self,
        token: str,
        peer: Peer,
        limits: Limits,
        replay_s: float,
        now_s: float,
        outbox: Outbox | None = None,
    ) -> None:
        self.token = token
        self.peer: Peer | None = peer
        self.owner = peer.user
        self.last_seen_s = now_s
        self._limits = limits
        self._bucket = TokenBucket(limits.max_requests_per_s, limits.max_burst_requests, now_s)
        self._replay_s = replay_s
        self._pending: dict[Id, _Pending] = {}
        self._kept: OrderedDict[Id, _Kept] = OrderedDict()
        self._kept_bytes = 0
        self._outbox: Outbox = {} if outbox is None else outbox
        self._outgoing = Outgoing(limits.max_queued_bytes)

    @property
    def num_pending(self) -> int:
        return len(self._pending)

    @property
    def is_used(self) -> bool:
        """Whether an id may mean a request that was made before."""
        return bool(self._pending or self._kept)

    @property
    def num_queued(self) -> int:
        return len(self._outgoing)

    @property
    def queued_bytes(self) -> int:
        return self._outgoing.num_bytes

    @property
    def is_flooded(self) -> bool:
        """Whether the client asks on and on without reading its replies."""
        return len(self._outgoing) > self._limits.max_queued_replies

    @property
    def has_deadline(self) -> bool:
        """Whether an ask with a deadline is pending."""
        return any(pending.has_deadline for pending in self._pending.values())

    def begin(self, request_id: Id, now_s: float) -> bool:
        """Take up a request. False: it is a repeated one and needs nothing more.

        Raises ``Overloaded`` if too much is unanswered or unread, or comes too fast; the request is
        then not begun.
        """
        wait_ms = self._bucket.take(now_s)
        self.forget(now_s)
        if request_id in self._pending or self._outgoing.has_end(request_id):
            return False  # also when there is no room: an error would be a second reply
        if wait_ms:
            raise Overloaded("too many requests per second", retry_after_ms=wait_ms)
        if kept := self._kept.get(request_id):
            self._end(request_id, kept.frame)
            return False
        if len(self._pending) >= self._limits.max_requests_in_flight:
            raise Overloaded("too many requests are unanswered", retry_after_ms=RETRY_AFTER_MS)
        if self._outgoing.is_full:
            raise Overloaded("too many replies are unread", retry_after_ms=RETRY_AFTER_MS)
        self._pending[request_id] = _Pending()
        return True

    def is_pending(self, request_id: Id) -> bool:
        """Whether a request has begun and is not answered."""
        return request_id in self._pending

    def attach(self, request_id: Id, ask: Ask, *, has_deadline: bool) -> None:
        """Say which ask of the runtime a pending request is."""
        pending = self._pending[request_id]
        pending.ask = ask
        pending.has_deadline = has_deadline

    def find_ask(self, request_id: Id) -> Ask | None:
        """The ask of a request that is pending, or whose reply is kept."""
        found = self._pending.get(request_id) or self._kept.get(request_id)
        return None if found is None else found.ask

    def cancel(self, request_id: Id) -> bool:
        """Cancel the ask of a pending request. False if there is none; its reply is to come."""
        pending = self._pending.get(request_id)
        if pending is None or pending.ask is None:
            return False
        pending.ask.cancel()
        return True

    def stream(self, request_id: Id, ev: str, text: str) -> None:
        """Queue a piece of a pending request's text.

        Pieces that wait are joined; above ``max_queued_bytes`` they are dropped, which shows as a
        gap in their index.
        """
        pending = self._pending.get(request_id)
        if pending is not None:
            pending.num_pieces += self._outgoing.add_piece(request_id, ev, pending.num_pieces, text)
            self._outbox[self] = None

    def finish(self, request_id: Id, frame: bytes, now_s: float, *, keep: bool = True) -> bool:
        """Queue a pending request's terminal reply. False if it is not pending (any more).

        ``keep`` False: the request may be tried again under the same id.
        """
        pending = self._pending.pop(request_id, None)
        if pending is None:
            return False
        self._end(request_id, frame)
        if keep:
            self._kept[request_id] = _Kept(frame, now_s, pending.ask)
            self._kept_bytes += len(frame)
            self.forget(self.last_seen_s)
        return True

    def restore(self, request_id: Id, frame: bytes, now_s: float) -> None:
        """Keep a terminal reply that was given before the server was started again."""
        self._kept[request_id] = _Kept(frame, now_s)
        self._kept_bytes += len(frame)
        self.forget(now_s)

    def tell(self, frame: bytes, *, first: bool = False) -> None:
        """Queue a reply that belongs to no begun request."""
        self._outgoing.add(frame, first=first)
        self._outbox[self] = None

    def renew(self, now_s: float) -> None:
        """The client is back after a silence: what is kept is kept anew, for it to ask about."""
        for request_id, kept in self._kept.items():
            self._kept[request_id] = replace(kept, finished_s=now_s)

    def forget(self, heard_s: float) -> None:
        """Drop kept replies that are too many, or were too old when the client was last heard.

        While it is silent they do not age: what it repeats when it is back was carried out.
        """
        while self._kept:
            request_id, kept = next(iter(self._kept.items()))
            is_recent = heard_s - kept.finished_s <= self._replay_s
            if is_recent and self._kept_bytes <= self._limits.max_replay_bytes:
                return
            del self._kept[request_id]
            self._kept_bytes -= len(kept.frame)

    def peek(self) -> bytes | None:
        """The next frame to send."""
        return self._outgoing.peek()

    def sent(self) -> None:
        """The frame that ``peek`` showed is on its way."""
        self._outgoing.sent()

    def close(self) -> None:
        """Cancel what is pending and free everything. Late ends of asks are ignored from now on."""
        asks = [pending.ask for pending in self._pending.values()]
        self._pending.clear()
        self._kept.clear()
        self._outgoing.clear()
        self._kept_bytes = 0
        self._outbox.pop(self, None)
        self.peer = None
        _cancel(asks)

    def cancel_all(self) -> None:
        """Cancel every pending ask; their terminal replies are to come."""
        _cancel(pending.ask for pending in self._pending.values())

    def _end(self, request_id: Id, frame: bytes) -> None:
        self._outgoing.add_end(request_id, frame)
        self._outbox[self] = None


Outbox = dict[Session, None]
"""Sessions with something to send, in the order in which they had it."""


def _cancel(asks: Iterable[Ask | None]) -> None:
    # A copy: a runtime may end an ask, and so change what it was taken from, inside cancel().
    for ask in list(asks):
        if ask is not None:
            ask.cancel()
