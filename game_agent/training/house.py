"""A house as text adventures have it: rooms, exits, things in things, doors, the player's bag."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from game_agent.training import phrases
from game_agent.training.draft import Draft
from game_agent.training.names import spoken_list
from game_agent.training.sections import spoken_exits

OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}
SPOKEN_MOST = 4  # things named in one reply


@dataclass
class _House:
    exits: dict[str, dict[str, str]] = field(default_factory=dict)
    things: dict[str, dict[str, str]] = field(default_factory=dict)
    doors: dict[str, dict[str, Any]] = field(default_factory=dict)
    containers: dict[str, dict[str, str]] = field(default_factory=dict)
    furniture: list[str] = field(default_factory=list)
    carried: list[str] = field(default_factory=list)


def add_house(draft: Draft, num_rooms: int, num_things: int) -> None:
    """A house of ``num_rooms`` ≥ 1 rooms, and everything that can be asked about it."""
    house = _House()
    _build_rooms(draft, house, num_rooms)
    rooms = list(house.exits)
    for _ in range(max(1, num_things // 5)):
        name, room = draft.names.container(), draft.pick(rooms)
        house.containers[name] = {"state": draft.pick(phrases.DOOR_STATES), "at": room}
    for _ in range(max(1, num_things // 5)):
        name = draft.names.furniture()
        house.things[name] = {"at": draft.pick(rooms)}
        house.furniture.append(name)
    for _ in range(num_things):
        _place_thing(draft, house)
    here = draft.pick(rooms)
    _write_state(draft, house, here)
    _tell_facts(draft, house, here)


def _build_rooms(draft: Draft, house: _House, num_rooms: int) -> None:
    """A connected map: each new room is joined to one that has a side free; some get doors."""
    first = draft.names.room()
    house.exits[first] = {}
    while len(house.exits) < num_rooms:
        old = draft.pick(list(house.exits))
        free = [way for way in phrases.DIRECTIONS if way not in house.exits[old]]
        if not free:
            continue
        way, new = draft.pick(free), draft.names.room()
        house.exits[old][way] = new
        house.exits[new] = {OPPOSITE[way]: old}
        if draft.chance(0.4):
            state = draft.pick(phrases.DOOR_STATES)
            house.doors[draft.names.door()] = {"state": state, "between": [old, new]}


def _place_thing(draft: Draft, house: _House) -> None:
    name, where = draft.names.thing(), draft.rng.random()
    if where < 0.35:
        entry = {"in": draft.pick(list(house.containers))}
    elif where < 0.6:
        entry = {"on": draft.pick(house.furniture)}
    elif where < 0.75 and len(house.carried) < 3:
        house.carried.append(name)
        entry = {"held by": "player"}
    else:
        entry = {"at": draft.pick(list(house.exits))}
    if name.endswith(("key", "card", "passkey")) or draft.chance(0.1):
        entry["kind"] = "key" if name.endswith(("key", "card", "passkey")) else "food"
    house.things[name] = entry


def _write_state(draft: Draft, house: _House, here: str) -> None:
    things = list(house.things.items())
    draft.rng.shuffle(things)
    state: dict[str, Any] = {
        "player": {"at": here, "carrying": list(house.carried)},
        "rooms": {
            room: {"exits": [f"{way}: {other}" for way, other in exits.items()]}
            for room, exits in house.exits.items()
        },
        "things": dict(things),
        "doors": house.doors,
        "containers": house.containers,
    }
    house.things = dict(things)
    draft.state.update({key: value for key, value in state.items() if value})


def _tell_facts(draft: Draft, house: _House, here: str) -> None:
    draft.tell("where_player", "", f"You are in the {here}.")
    draft.tell("carrying_player", "", f"You carry {spoken_list(house.carried)}.")
    draft.tell("exits_player", "", f"You can go {spoken_exits(house.exits[here])}.")
    for way, room in house.exits[here].items():
        draft.tell("way", room, f"The {room} is to the {way}.")
    for room, exits in house.exits.items():
        if room != here and room not in house.exits[here].values():
            draft.tell("way", room, f"I do not know the way to the {room}.")
        if exits:
            draft.tell("exits", room, f"From the {room} you can go {spoken_exits(exits)}.")
    for name, door in house.doors.items():
        one, other = door["between"]
        draft.tell("state", name, f"The {name} is {door['state']}.")
        draft.tell("between", name, f"The {name} is between the {one} and the {other}.")
    _tell_things(draft, house)


def _tell_things(draft: Draft, house: _House) -> None:
    inside: dict[str, list[str]] = {name: [] for name in house.containers}
    on_top: dict[str, list[str]] = {name: [] for name in house.furniture}
    for name, entry in house.things.items():
        if "in" in entry:
            draft.tell("where_thing", name, f"The {name} is in the {entry['in']}.")
            inside[entry["in"]].append(name)
        elif "on" in entry:
            draft.tell("where_thing", name, f"The {name} is on the {entry['on']}.")
            on_top[entry["on"]].append(name)
        elif "at" in entry:
            draft.tell("where_thing", name, f"The {name} is in the {entry['at']}.")
        else:
            draft.tell("where_thing", name, f"You carry the {name}.")
    for name, container in house.containers.items():
        draft.tell("state", name, f"The {name} is {container['state']}.")
        draft.tell("where_thing", name, f"The {name} is in the {container['at']}.")
        _tell_found(draft, "contents", "in", name, inside[name])
    for name in house.furniture:
        _tell_found(draft, "on_top", "on", name, on_top[name])


def _tell_found(draft: Draft, kind: str, where: str, name: str, found: list[str]) -> None:
    """What lies in or on something; not asked where a reply would become a list."""
    if not found:
        draft.tell(kind, name, f"There is nothing {where} the {name}.")
    elif len(found) <= SPOKEN_MOST:
        draft.tell(kind, name, f"You find {spoken_list(found)} {where} the {name}.")
