"""The requests of the wire protocol as types: the one place where their fields are validated."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar, get_args

import msgspec
from msgspec import Meta, Struct

from game_agent.errors import InvalidInput, ProtocolError
from game_agent.protocol import VERSION
from game_agent.protocol.codec import Map

MAX_ID_CHARS = 64

RequestId = int | Annotated[str, Meta(max_length=MAX_ID_CHARS)]
Name = Annotated[str, Meta(min_length=1, max_length=128)]
Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Seq = Annotated[int, Meta(ge=0, le=2**53)]
GameTime = int | float | None
Kind = Literal["say", "act", "choose"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""Of asks."""


class Request(Struct, forbid_unknown_fields=True, kw_only=True, tag_field="op"):
    """What every request carries; ``op`` is the type's tag."""

    v: Literal[1]
    id: RequestId


class Event(Struct, forbid_unknown_fields=True):
    """Something said: ``text`` by ``speaker`` (``from`` on the wire)."""

    text: str
    speaker: Name = msgspec.field(name="from")


class Hello(Request, tag="hello"):
    client: str | None = None
    protocol: int | None = None
    session: str | None = None


class Ping(Request, tag="ping"):
    pass


class WorldPut(Request, tag="world.put"):
    world: Name
    state: dict[str, Any]
    seq: Seq = 0
    partition: list[Any] | None = None


class WorldPatch(Request, tag="world.patch"):
    world: Name
    seq: Seq | None = None
    patch: list[Any] | None = None
    merge: dict[str, Any] | None = None


class WorldGet(Request, tag="world.get"):
    world: Name


class WorldDelete(Request, tag="world.delete"):
    world: Name


class LorePut(Request, tag="lore.put"):
    """``entries`` are those of a Character Card's lorebook, validated where they are used."""

    entries: list[Any]
    world: Name | None = None
    agent: Name | None = None
    scan_depth: Annotated[int, Meta(ge=0)] | None = None
    token_budget: Annotated[int, Meta(ge=0)] | None = None
    recursive_scanning: bool | None = None


class AgentPut(Request, tag="agent.put"):
    agent: Name
    world: Name
    profile: str | dict[str, Any] | None = None
    card: dict[str, Any] | None = None
    sees: tuple[str, ...] = ("",)
    instructions: str = ""
    memory_tokens: Annotated[int, Meta(ge=0)] | None = None
    recall: Annotated[int, Meta(ge=0, le=100)] = 0
    summarize: bool = False
    actions: list[Any] | None = None


class AgentGet(Request, tag="agent.get"):
    agent: Name


class AgentDelete(Request, tag="agent.delete"):
    agent: Name


class AgentObserve(Request, tag="agent.observe"):
    event: str | Event
    agent: Name | None = None
    agents: tuple[Name, ...] | None = None
    game_time: GameTime = None
    pin: bool = False


class AgentWarm(Request, tag="agent.warm"):
    agent: Name
    keep: bool = False


class AgentInspect(Request, tag="agent.inspect"):
    agent: Name
    event: str | Event | None = None


class AgentHeard(Request, tag="agent.heard"):
    ask: RequestId
    chars: Annotated[int, Meta(ge=0)]


class AgentRewind(Request, tag="agent.rewind"):
    agent: Name
    game_time: int | float


class AgentHistory(Request, tag="agent.history"):
    agent: Name
    last: Annotated[int, Meta(ge=0)] | None = None


class Ask(Request, tag="ask"):
    agent: Name
    event: str | Event
    kind: Kind = "say"
    schema: Any = None
    options: tuple[str, ...] | None = None
    normalize: bool | None = None
    max_tokens: Count = 256
    temperature: Annotated[float, Meta(ge=0, le=100)] = 0.0
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0
    seed: Annotated[int, Meta(ge=0)] | None = None
    stop: Annotated[tuple[Annotated[str, Meta(min_length=1)], ...], Meta(max_length=16)] = ()
    stream: bool | Literal["sentence"] = False
    deadline_ms: Count | None = None
    priority: Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)] = 0
    replaces: bool = False
    remember: bool = True
    mode: str | None = None
    game_time: GameTime = None


class Tick(Request, tag="tick"):
    """``asks`` are validated one by one, because a bad one fails alone."""

    world: Name
    tick: int | float | str
    seq: Seq | None = None
    patch: list[Any] | None = None
    merge: dict[str, Any] | None = None
    asks: list[Any] = []


class Save(Request, tag="save"):
    world: Name
    part: Annotated[int, Meta(ge=0)] = 0


class Load(Request, tag="load"):
    data: bytes
    part: Annotated[int, Meta(ge=0)] = 0
    parts: Count = 1


class Cancel(Request, tag="cancel"):
    target: RequestId


class Stats(Request, tag="stats"):
    pass


REQUESTS: dict[str, type[Request]] = {
    str(request.__struct_config__.tag): request for request in Request.__subclasses__()
}
"""Each operation that is offered -> its type."""

_AnyRequest = TypeVar("_AnyRequest", bound=Request)


def read_id(fields: object) -> int | str | None:
    """The id of a request, or None if it has none that could be answered under."""
    value = fields.get("id") if isinstance(fields, dict) else None
    if isinstance(value, str) and len(value) <= MAX_ID_CHARS:
        return value
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def parse(fields: Map) -> Request:
    """A request of any operation.

    Raises ``ProtocolError`` for another version or an unknown ``op``, ``InvalidInput`` for a field
    that is missing, unknown or of another type (``where`` names it).
    """
    version, op = fields.get("v"), fields.get("op")
    if isinstance(version, int) and not isinstance(version, bool) and version != VERSION:
        raise ProtocolError(
            f"this server speaks version {VERSION} of the protocol, not {version}",
            code="unsupported_version",
            where="v",
        )
    if not isinstance(op, str):
        raise InvalidInput("a request needs op, the name of an operation", where="op")
    if op not in REQUESTS:
        raise ProtocolError(f"there is no operation {op[:50]!r}", code="unknown_op", where="op")
    return _convert(fields, REQUESTS[op])


def parse_ask(fields: object, where: str) -> Ask:
    """One of the asks of a tick, which needs neither ``v`` nor ``op``. ``where`` is its path."""
    if not isinstance(fields, dict):
        raise InvalidInput("an ask must be a map", where=where)
    try:
        return _convert({"v": VERSION, "op": "ask", **fields}, Ask)
    except InvalidInput as error:
        error.where = f"{where}.{error.where}" if error.where else where
        raise


def _convert(fields: Map, kind: type[_AnyRequest]) -> _AnyRequest:
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise _as_invalid(str(error)) from error


def _as_invalid(text: str) -> InvalidInput:
    """msgspec's ``… - at `$.asks[0].id` `` as a sentence and a path."""
    text, _, place = text.partition(" - at ")
    parts = re.findall(r"[\w-]+", place.strip("`").removeprefix("$"))
    if named := re.search(r"(?:unknown|required) field `(.*)`$", text, re.DOTALL):
        parts.append(named[1][:50])
    return InvalidInput(text.replace("`", "'")[:300], where=".".join(parts) or None)
