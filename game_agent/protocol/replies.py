"""The replies of the wire protocol, as maps."""

from __future__ import annotations

from game_agent.errors import Conflict, GameAgentError, Overloaded
from game_agent.protocol import VERSION
from game_agent.protocol.codec import Map

Id = int | str
TERMINAL = frozenset({"ok", "done", "error"})
"""Each request gets exactly one reply with one of these in ``ev``."""


def ok(request_id: Id, fields: Map) -> Map:
    """The request was carried out."""
    return {"v": VERSION, "id": request_id, "ev": "ok", **fields}


def done(request_id: Id, fields: Map) -> Map:
    """An ask has ended."""
    return {"v": VERSION, "id": request_id, "ev": "done", **fields}


def piece(request_id: Id, ev: str, index: int, text: str) -> Map:
    """A part of an ask's text; ``ev`` is ``token`` or ``sentence``."""
    return {"v": VERSION, "id": request_id, "ev": ev, "index": index, "text": text}


def error(request_id: Id | None, error: GameAgentError, where: str | None = None) -> Map:
    """The request failed. ``where`` replaces the error's own; ``request_id`` None: it had none."""
    out: Map = {
        "v": VERSION,
        "id": request_id,
        "ev": "error",
        "code": error.code,
        "message": error.message,
    }
    if where or error.where:
        out["where"] = where or error.where
    if isinstance(error, Conflict):
        out["expected"] = error.expected
    if isinstance(error, Overloaded):
        out["retry_after_ms"] = error.retry_after_ms
    return out
