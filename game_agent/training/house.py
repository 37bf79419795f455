"""A house as text adventures have it: rooms, exits, things in things, doors, the player's bag."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from game_agent.training import phrases
from game_agent.training.draft import Draft
from game_agent.training.names import spoken_list, the
from game_agent.training.scene import LIST, ONE_FACT, TWO_FACTS
from game_agent.training.sections import spoken_exits, spoken_ways

OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}
SPOKEN_MOST = 4  # things named in one reply
JOINED_SHARE = 0.75
"""Of houses whose state says twice what is where, as games' states do: with what lies there, and
with what it lies in; and which way each room next to the player's is. In others that takes several
facts."""


@dataclass
class _House:
    exits: dict[str, dict[str, str]] = field(default_factory=dict)
    things: dict[str, dict[str, str]] = field(default_factory=dict)
    doors: dict[str, dict[str, Any]] = field(default_factory=dict)
    containers: dict[str, dict[str, str]] = field(default_factory=dict)
    furniture: list[str] = field(default_factory=list)
    carried: list[str] = field(default_factory=list)
    is_joined: bool = True

    def holds(self, where: str) -> dict[str, list[str]]:
        """What lies ``in`` each container, or ``on`` each piece of furniture."""
        places = self.containers if where == "in" else self.furniture
        found: dict[str, list[str]] = {name: [] for name in places}
        for name, entry in self.things.items():
            if where in entry:
                found[entry[where]].append(name)
        return found

    def room_of(self, entry: dict[str, str]) -> str:
        """Where a thing is that is not carried, whatever it lies in or on."""
        if "in" in entry:
            return self.containers[entry["in"]]["at"]
        return self.things[entry["on"]]["at"] if "on" in entry else entry["at"]


def add_house(draft: Draft, num_rooms: int, num_things: int) -> None:
    """A house of ``num_rooms`` ≥ 1 rooms, and everything that can be asked about it."""
    house = _House(is_joined=draft.chance(JOINED_SHARE))
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
    order = list(house.things.items())
    draft.rng.shuffle(order)
    house.things = dict(order)
    things: dict[str, Any] = house.things
    containers: dict[str, Any] = house.containers
    nearby: dict[str, Any] = {}
    if house.is_joined:
        nearby = {room: {"way": way} for way, room in house.exits[here].items()}
        inside, on_top = house.holds("in"), house.holds("on")
        containers = {name: {**entry, "holds": inside[name]} for name, entry in containers.items()}
        things = {
            name: {**entry, "holds": on_top[name]} if name in on_top else entry
            for name, entry in things.items()
        }
    state: dict[str, Any] = {
        "player": {"at": here, "carrying": list(house.carried)},
        "nearby": nearby,
        "rooms": {room: {"exits": ways} for room, ways in house.exits.items()},
        "things": things,
        "doors": house.doors,
        "containers": containers,
    }
    draft.state.update({key: value for key, value in state.items() if value})


def _tell_facts(draft: Draft, house: _House, here: str) -> None:
    draft.tell("where_player", "", f"You are in the {here}.")
    carried = spoken_list(house.carried)
    draft.tell("carrying_player", "", f"You carry {carried}.", _list_skill(house.carried))
    _tell_ways(draft, house, here)
    for name, door in house.doors.items():
        one, other = door["between"]
        draft.tell("state", name, f"The {name} is {door['state']}.")
        draft.tell("between", name, f"The {name} is between the {one} and the {other}.", LIST)
    for name, entry in house.things.items():
        _tell_thing(draft, house, name, entry)
    for name, container in house.containers.items():
        draft.tell("state", name, f"The {name} is {container['state']}.")
        draft.tell("where_thing", name, f"The {name} is in the {container['at']}.")
    for kind, where in (("contents", "in"), ("on_top", "on")):
        for name, found in house.holds(where).items():
            skill = _list_skill(found) if house.is_joined else TWO_FACTS
            _tell_found(draft, kind, where, name, found, skill)


def _list_skill(names: list[str]) -> str:
    return LIST if len(names) > 1 else ONE_FACT


def _tell_ways(draft: Draft, house: _House, here: str) -> None:
    skill = ONE_FACT if house.is_joined else TWO_FACTS
    ways = house.exits[here]
    listed = _list_skill(list(ways)) if house.is_joined else TWO_FACTS
    spoken = spoken_ways(ways) if house.is_joined else spoken_exits(ways)
    draft.tell("exits_player", "", f"You can go {spoken}.", listed)
    for way, room in ways.items():
        draft.tell("way", room, f"The {room} is to the {way}.", skill)
    far = [room for room in house.exits if room != here and room not in ways.values()]
    # Not more than the near ones, or "I do not know" would nearly always be right.
    for room in draft.rng.sample(far, min(len(far), len(ways))):
        draft.tell("way", room, f"I do not know the way to the {room}.", skill)
    for room, exits in house.exits.items():
        if exits:
            told = f"From the {room} you can go {spoken_exits(exits)}."
            draft.tell("exits", room, told, _list_skill(list(exits)))


def _tell_thing(draft: Draft, house: _House, name: str, entry: dict[str, str]) -> None:
    if "held by" in entry:
        for kind in ("where_thing", "thing_room"):
            draft.tell(kind, name, f"You carry the {name}.")
        draft.tell("holder", name, f"You have the {name}.")
        return
    where = next(where for where in ("in", "on", "at") if where in entry)
    place = f"{WORD[where]} {the(entry[where])}"
    draft.tell("where_thing", name, f"The {name} is {place}.")
    if where == "at":
        draft.tell("thing_room", name, f"The {name} is {place}.")
        return
    # The reply says what it takes to get there, so that one look leads to the next.
    room = house.room_of(entry)
    draft.tell("thing_room", name, f"The {name} is {place} in the {room}.", TWO_FACTS)


WORD = {"in": "in", "on": "on", "at": "in"}


def _tell_found(
    draft: Draft, kind: str, where: str, name: str, found: list[str], skill: str
) -> None:
    """What lies in or on something; not asked where a reply would become a list too long."""
    if not found:
        draft.tell(kind, name, f"There is nothing {where} the {name}.", skill)
    elif len(found) <= SPOKEN_MOST:
        draft.tell(kind, name, f"You find {spoken_list(found)} {where} the {name}.", skill)
