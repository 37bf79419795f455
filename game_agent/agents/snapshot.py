"""Save and load: a world and all its agents as one value, small because it is text only.

Keys and values of the model are not in it; they are made again when they are needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from game_agent.agents.actions import parse_actions
from game_agent.agents.agent import Agent
from game_agent.agents.budget import MemoryBudget
from game_agent.agents.cards import Card
from game_agent.agents.limits import MAX_COUNT, MAX_NAME_CHARS
from game_agent.agents.lore import Lorebook
from game_agent.agents.memory import Memory
from game_agent.agents.patch import check_json
from game_agent.agents.persona import Persona
from game_agent.agents.pointer import Json
from game_agent.agents.rules import Rule, parse_rules
from game_agent.agents.sight import parse_sight
from game_agent.agents.world import World, check_seq
from game_agent.errors import InvalidInput

FORMAT = "game-agent save"
VERSION = 2  # 1 knew no recall, no summaries and no actions

_Any = TypeVar("_Any")


@dataclass(frozen=True)
class AgentSnapshot:
    """One agent: who it is, what it sees and knows, what it remembers."""

    persona: Persona
    sees: tuple[str, ...]
    memory: Memory
    lore: Lorebook | None
    budget: MemoryBudget


@dataclass(frozen=True)
class Snapshot:
    """A save that was read and found to be whole, so that taking it over cannot fail."""

    world: str
    state: Mapping[str, Json]
    seq: int
    rules: tuple[Rule, ...]
    lore: Lorebook | None
    agents: tuple[AgentSnapshot, ...]


def write_snapshot(world: World, agents: Iterable[Agent]) -> bytes:
    """A save of ``world`` and ``agents`` as UTF-8 JSON; the caller holds their lock."""
    value = {
        "format": FORMAT,
        "version": VERSION,
        "world": {
            "name": world.name,
            "state": world.state,
            "seq": world.seq,
            "partition": [rule.to_value() for rule in world.rules],
            "lore": None if world.lore is None else world.lore.value,
        },
        "agents": [_agent_value(agent) for agent in agents],
    }
    return msgspec.json.encode(value)


def _agent_value(agent: Agent) -> dict[str, Any]:
    persona = agent.persona
    card = persona.card
    own_lore = agent.lore if card is None or agent.lore is not card.lorebook else None
    return {
        "name": persona.name,
        "profile": persona.profile,
        "card": None if card is None else card.value,
        "instructions": persona.instructions,
        "actions": [action.to_value() for action in persona.actions],
        "sees": agent.sees,
        "memory_tokens": agent.budget.tokens,
        "recall": agent.budget.recall,
        "summarize": agent.budget.summarize,
        "lore": None if own_lore is None else own_lore.value,
        "memory": agent.memory.to_value(),
    }


class _Fields(msgspec.Struct, forbid_unknown_fields=True):
    """Types of one level of a save; what is ``Any`` is checked by what it belongs to."""


class _WorldFields(_Fields):
    name: str
    state: dict[str, Any]
    seq: int
    partition: list[Any]
    lore: Any


class _AgentFields(_Fields):
    name: str
    profile: str | dict[str, Any] | None
    card: dict[str, Any] | None
    instructions: str
    sees: tuple[str, ...]
    memory_tokens: int | None
    lore: Any
    memory: Any
    recall: int = 0
    actions: list[Any] = []
    summarize: bool = False


class _Save(_Fields):
    format: str
    version: int
    world: _WorldFields
    agents: list[_AgentFields]


class _Head(msgspec.Struct):
    format: str
    version: int


def read_snapshot(data: bytes) -> Snapshot:
    """What ``write_snapshot`` gave, also an older version of it; ``data`` may be hostile.

    Raises InvalidInput, which says what is wrong and, as a JSON Pointer, where.
    """
    head = _decode(data, _Head)
    if head.format != FORMAT:
        raise InvalidInput(f'this is no save: its format is not "{FORMAT}"', where="/format")
    if not 1 <= head.version <= VERSION:
        message = f"the save has version {head.version}, this game-agent reads 1 to {VERSION}"
        raise InvalidInput(f"{message}; load it with the version that wrote it", where="/version")
    save = _decode(data, _Save)
    world = save.world
    _check_name(world.name, "/world/name")
    check_json(world.state, "/world/state")
    check_seq(world.seq, "/world/seq")
    with _under("/world/partition"):
        rules = parse_rules(world.partition)
    lore = None if world.lore is None else Lorebook(world.lore, "/world/lore")
    agents = tuple(_agent(a, f"/agents/{i}") for i, a in enumerate(save.agents))
    seen: set[str] = set()
    for index, agent in enumerate(agents):
        if agent.persona.name in seen:
            message = f"the agent {agent.persona.name!r} is there twice"
            raise InvalidInput(message, where=f"/agents/{index}/name")
        seen.add(agent.persona.name)
    return Snapshot(world.name, world.state, world.seq, rules, lore, agents)


def _agent(fields: _AgentFields, where: str) -> AgentSnapshot:
    with _under(where):
        _check_name(fields.name, "/name")
        for index, path in enumerate(fields.sees):
            parse_sight(path, f"/sees/{index}")
        budget = MemoryBudget(fields.memory_tokens, fields.recall, fields.summarize)
        with _under("/card"):
            card = None if fields.card is None else Card(fields.card)
        with _under("/actions"):
            actions = parse_actions(fields.actions)
        persona = Persona(fields.name, fields.profile, card, fields.instructions, actions)
        lore = card.lorebook if card is not None else None
        if fields.lore is not None:
            lore = Lorebook(fields.lore, "/lore")
        with _under("/memory"):
            memory = Memory.from_value(fields.memory)
            if memory.next_index > MAX_COUNT:
                message = f"the next index is at most {MAX_COUNT}, so that turns can be added"
                raise InvalidInput(message, where="/next_index")
    return AgentSnapshot(persona, fields.sees, memory, lore, budget)


@contextmanager
def _under(where: str) -> Iterator[None]:
    """Puts ``where`` before the place that an error names."""
    try:
        yield
    except InvalidInput as error:
        inner = error.where or ""
        error.where = where + (f"/{inner}" if inner and not inner.startswith("/") else inner)
        raise


def _check_name(name: str, where: str) -> None:
    check_json(name, where)
    if not 1 <= len(name) <= MAX_NAME_CHARS:
        raise InvalidInput(f"a name has 1 to {MAX_NAME_CHARS} characters", where=where)


def _decode(data: bytes, kind: type[_Any]) -> _Any:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        text, _, place = str(error).partition(" - at ")
        where = "".join(f"/{token}" for token in re.findall(r"[\w-]+", place.strip("`$")))
        raise InvalidInput(text.replace("`", "'"), where=where) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"this is no save: {error}") from error
