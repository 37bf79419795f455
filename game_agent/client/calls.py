"""The operations as values: what to send, and how to read the reply. Shared by all clients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypedDict, TypeVar

from game_agent.client.core import Answer
from game_agent.protocol import VERSION
from game_agent.protocol.codec import Map

T = TypeVar("T")
PART_BYTES = 2**20
ENVELOPE = frozenset({"v", "id", "ev"})


class AskFields(TypedDict, total=False):
    """The options of an ask; those left out have the server's defaults (see docs/protocol.md)."""

    kind: Literal["say", "act", "choose"]
    schema: Mapping[str, Any]
    options: Sequence[str]
    normalize: bool
    speaker: str
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int
    stop: Sequence[str]
    deadline_ms: int
    priority: int
    replaces: bool
    remember: bool
    mode: Literal["block", "full", "contextual"]
    game_time: float


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request: ``op`` and ``fields`` go out, ``read`` makes a result of the reply."""

    op: str
    fields: Map
    read: Callable[[Map], T]


def hello(client: str | None = None, session: str | None = None) -> Call[Map]:
    return Call("hello", {"client": client, "protocol": VERSION, "session": session}, _fields)


def ping() -> Call[None]:
    return Call("ping", {}, _nothing)


def world_put(
    world: str,
    state: Mapping[str, Any],
    seq: int | None = None,
    partition: Sequence[Map] | None = None,
) -> Call[Map]:
    rules = None if partition is None else list(partition)
    fields = {"world": world, "state": dict(state), "seq": seq, "partition": rules}
    return Call("world.put", fields, _fields)


def world_patch(
    world: str,
    patch: Sequence[Map] | None = None,
    merge: Mapping[str, Any] | None = None,
    seq: int | None = None,
) -> Call[Map]:
    return Call("world.patch", {"world": world, "seq": seq, **_change(patch, merge)}, _fields)


def world_get(world: str) -> Call[Map]:
    return Call("world.get", {"world": world}, _fields)


def world_delete(world: str) -> Call[None]:
    return Call("world.delete", {"world": world}, _nothing)


def agent_put(
    agent: str,
    world: str,
    profile: str | Mapping[str, Any] | None = None,
    sees: Sequence[str] | None = None,
    instructions: str | None = None,
    card: Mapping[str, Any] | None = None,
    memory_tokens: int | None = None,
    recall: int | None = None,
    summarize: bool | None = None,
    actions: Sequence[Mapping[str, Any]] | None = None,
) -> Call[None]:
    fields = {
        "agent": agent,
        "world": world,
        "profile": profile,
        "card": None if card is None else dict(card),
        "sees": None if sees is None else list(sees),
        "instructions": instructions,
        "memory_tokens": memory_tokens,
        "recall": recall,
        "summarize": summarize,
        "actions": None if actions is None else list(map(dict, actions)),
    }
    return Call("agent.put", fields, _nothing)


def agent_get(agent: str) -> Call[Map]:
    return Call("agent.get", {"agent": agent}, _fields)


def agent_delete(agent: str) -> Call[None]:
    return Call("agent.delete", {"agent": agent}, _nothing)


def lore_put(
    entries: Sequence[Mapping[str, Any]], world: str | None, agent: str | None, book: Map
) -> Call[Map]:
    fields = {"entries": list(map(dict, entries)), "world": world, "agent": agent, **book}
    return Call("lore.put", fields, _fields)


def observe(
    agent: str | Sequence[str], event: str, game_time: float | None = None, pin: bool = False
) -> Call[None]:
    who = {"agent": agent} if isinstance(agent, str) else {"agents": list(agent)}
    fields = {**who, "event": event, "game_time": game_time, "pin": pin or None}
    return Call("agent.observe", fields, _nothing)


def inspect(agent: str, event: str | None = None) -> Call[list[Map]]:
    fields = {"agent": agent, "event": event}
    return Call("agent.inspect", fields, lambda reply: list(reply["blocks"]))


def heard(ask: int | str, chars: int) -> Call[None]:
    return Call("agent.heard", {"ask": ask, "chars": chars}, _nothing)


def rewind(agent: str, game_time: float) -> Call[int]:
    fields = {"agent": agent, "game_time": game_time}
    return Call("agent.rewind", fields, lambda reply: int(reply["forgotten"]))


def save(world: str, part: int) -> Call[Map]:
    return Call("save", {"world": world, "part": part}, _fields)


def load(data: bytes, part: int, parts: int) -> Call[Map]:
    return Call("load", {"data": data, "part": part, "parts": parts}, _fields)


def load_parts(data: bytes) -> list[Call[Map]]:
    """A save as the loads that bring it, one after another."""
    starts = range(0, max(len(data), 1), PART_BYTES)
    parts = [data[start : start + PART_BYTES] for start in starts]
    return [load(part, number, len(parts)) for number, part in enumerate(parts)]


def warm(agent: str, keep: bool = False) -> Call[None]:
    return Call("agent.warm", {"agent": agent, "keep": keep}, _nothing)


def history(agent: str, last: int | None = None) -> Call[list[Map]]:
    return Call("agent.history", {"agent": agent, "last": last}, lambda reply: list(reply["turns"]))


def ask(
    agent: str, event: str, options: AskFields, stream: bool | Literal["sentence"] = False
) -> Call[Answer]:
    fields: Map = {"agent": agent, **options, "event": event}
    if (speaker := fields.pop("speaker", None)) is not None:
        fields["event"] = {"from": speaker, "text": event}
    return Call("ask", {**fields, "stream": stream or None}, Answer.of_reply)


def tick(
    world: str,
    tick: float | str,
    patch: Sequence[Map] | None,
    merge: Mapping[str, Any] | None,
    seq: int | None,
) -> Call[Map]:
    fields = {"world": world, "tick": tick, "seq": seq, **_change(patch, merge)}
    return Call("tick", fields, _fields)


def cancel(target: int | str) -> Call[bool]:
    return Call("cancel", {"target": target}, lambda reply: bool(reply["found"]))


def stats() -> Call[Map]:
    return Call("stats", {}, _fields)


def _change(patch: Sequence[Map] | None, merge: Mapping[str, Any] | None) -> Map:
    return {
        "patch": None if patch is None else list(patch),
        "merge": None if merge is None else dict(merge),
    }


def _fields(reply: Map) -> Map:
    return {name: value for name, value in reply.items() if name not in ENVELOPE}


def _nothing(reply: Map) -> None:
    return None
