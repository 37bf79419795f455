"""What a TextWorld game knows, as a world state in JSON, and what changed between two of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import jsonpatch

State = dict[str, Any]

PLAYER = "P"
INVENTORY = "I"
DIRECTIONS = {"north_of": "north", "east_of": "east", "south_of": "south", "west_of": "west"}
OPENNESS = frozenset({"open", "closed", "locked"})
PLACINGS = frozenset({"in", "on", "at"})
THING_KINDS = {"o": None, "s": None, "k": "key", "f": "food"}


class Entity(NamedTuple):
    """Something that facts are about.

    ``kind`` is TextWorld's: ``P`` player, ``I`` inventory, ``r`` room, ``d`` door, ``c`` container,
    ``s`` furniture, ``o`` object, ``k`` key, ``f`` food.
    """

    name: str
    kind: str


class Fact(NamedTuple):
    """A predicate that holds: ``on(apple, table)``, ``north_of(pantry, kitchen)``."""

    predicate: str
    entities: tuple[Entity, ...]


def world_state(facts: Iterable[Fact]) -> State:
    """The sections ``player``, ``nearby``, ``rooms``, ``things``, ``doors`` and ``containers``.

    What somebody may ask about stands with what they ask about: which way a room next to the
    player's is with that room, what lies in or on something with that, besides with the thing that
    lies there.

    Depends on the set of facts alone, not on their order. Doors are left out when there are none.
    """
    ordered = sorted(facts)
    things = _things(ordered)
    carrying = [name for name, entry in things.items() if entry.get("held by") == "player"]
    here, exits = _player_room(ordered), _exits(ordered)
    state: State = {
        "player": {"at": here, "carrying": carrying},
        "nearby": {room: {"way": way} for way, room in exits[here].items()},
        "rooms": {room: {"exits": exits[room]} for room in sorted(exits)},
        "things": things,
        "doors": _doors(ordered),
        "containers": _containers(ordered),
    }
    return {section: value for section, value in state.items() if value}


def difference(old: State, new: State) -> list[dict[str, Any]]:
    """The JSON Patch (RFC 6902) that turns ``old`` into ``new``."""
    patch: list[dict[str, Any]] = jsonpatch.make_patch(old, new).patch
    return patch


def num_changed(old: Collection[Fact], new: Collection[Fact]) -> int:
    """How many facts changed; one that takes the place of another counts once with it."""
    removed, added = set(old).difference(new), set(new).difference(old)
    return max(len(removed), len(added))


def _player_room(facts: list[Fact]) -> str:
    return next(
        fact.entities[1].name
        for fact in facts
        if fact.predicate == "at" and fact.entities[0].kind == PLAYER
    )


def _exits(facts: list[Fact]) -> dict[str, dict[str, str]]:
    """Where each way leads, by room."""
    exits: dict[str, dict[str, str]] = {
        entity.name: {} for fact in facts for entity in fact.entities if entity.kind == "r"
    }
    for predicate, way in DIRECTIONS.items():
        for fact in facts:
            if fact.predicate == predicate:
                there, here = fact.entities
                exits[here.name][way] = there.name
    return exits


def _things(facts: list[Fact]) -> State:
    things: State = {}
    for fact in facts:
        thing = fact.entities[0]
        if fact.predicate not in PLACINGS or thing.kind not in THING_KINDS:
            continue
        place = fact.entities[1]
        held = place.kind == INVENTORY
        entry: State = {"held by": "player"} if held else {fact.predicate: place.name}
        if kind := THING_KINDS[thing.kind]:
            entry["kind"] = kind
        if thing.kind == "s":
            entry["holds"] = _held(facts, thing, "on")
        things[thing.name] = entry
    return dict(sorted(things.items()))


def _doors(facts: list[Fact]) -> State:
    states = _openness(facts, "d")
    rooms: dict[str, set[str]] = {name: set() for name in states}
    for fact in facts:
        if fact.predicate == "link":
            rooms[fact.entities[1].name].add(fact.entities[0].name)
    return {
        name: {"state": state, "between": sorted(rooms[name])} for name, state in states.items()
    }


def _containers(facts: list[Fact]) -> State:
    rooms = {
        fact.entities[0].name: fact.entities[1].name
        for fact in facts
        if fact.predicate == "at" and fact.entities[0].kind == "c"
    }
    states = _openness(facts, "c")
    held = {
        fact.entities[1].name: _held(facts, fact.entities[1], "in")
        for fact in facts
        if fact.predicate == "in" and fact.entities[1].kind == "c"
    }
    return {
        name: {"state": state, "at": rooms[name], "holds": held.get(name, [])}
        for name, state in states.items()
    }


def _held(facts: list[Fact], place: Entity, predicate: str) -> list[str]:
    """What lies ``in`` or ``on`` something."""
    return [
        fact.entities[0].name
        for fact in facts
        if fact.predicate == predicate and fact.entities[1] == place
    ]


def _openness(facts: list[Fact], kind: str) -> dict[str, str]:
    """Whether each entity of a kind is open, closed or locked, by name."""
    states = {
        fact.entities[0].name: fact.predicate
        for fact in facts
        if fact.predicate in OPENNESS and fact.entities[0].kind == kind
    }
    return dict(sorted(states.items()))
