"""Makers of a game's usual sections: each call adds one entry and the facts that it tells."""

from __future__ import annotations

from typing import Any

from game_agent.training import phrases
from game_agent.training.draft import Draft
from game_agent.training.names import spoken_list, the
from game_agent.training.scene import LIST, ONE_FACT, TWO_FACTS
from game_agent.training.spelling import WORDS


def add_person(draft: Draft) -> None:
    name = draft.names.person()
    place, job, mood = draft.somewhere(), draft.pick(WORDS["jobs"]), draft.pick(phrases.MOODS)
    hp, gold = draft.number(), draft.number()
    things = [draft.names.thing() for _ in range(draft.rng.randint(0, 2))]
    _add_entry(
        draft,
        draft.section("people", "npcs", "characters", "villagers"),
        name,
        [
            (
                ("at", "location", "place"),
                place,
                "where_person",
                f"You find {name} in {the(place)}.",
            ),
            (("job", "role", "trade"), job, "job", f"I think {name} is a {job}."),
            (("mood", "feels"), mood, "mood", f"I think {name} is {mood}."),
            (("hp", "health"), hp, "hp", f"I think {name} has {hp} hit points."),
            (("gold", "coins", "money"), gold, "gold", f"I think {name} has {gold} gold."),
            (
                ("carrying", "inventory", "holds"),
                things,
                "carrying_person",
                f"I think {name} carries {spoken_list(things)}.",
            ),
        ],
    )
    draft.people.append(name)
    if ("carrying_person", name) in draft.facts:
        for thing in things:
            draft.tell("holder", thing, f"{name} has the {thing}.")
    if ("job", name) in draft.facts:
        _tell_place_by_job(draft, name, job)


def _tell_place_by_job(draft: Draft, name: str, job: str) -> None:
    """ "Where is the smith?" takes two facts: who is the only smith, and where they are."""
    draft.facts.pop(("job_where", job), None)
    told = [f for f in draft.facts.values() if f.kind == "job" and f.answer.endswith(f" a {job}.")]
    where = draft.facts.get(("where_person", name))
    if where and len(told) == 1:
        draft.tell("job_where", job, where.answer, TWO_FACTS)


def add_thing(draft: Draft) -> None:
    name = draft.names.thing()
    price, left, owner, place = draft.number(), draft.number(), draft.someone(), draft.somewhere()
    _add_entry(
        draft,
        draft.section("items", "stock", "goods", "objects"),
        name,
        [
            (("price", "cost"), price, "price", f"The {name} costs {price} gold."),
            (("left", "count", "in_stock"), left, "left", f"There are {left} of the {name} left."),
            (("owner", "belongs_to"), owner, "owner", f"The {name} belongs to {owner}."),
            (("at", "in", "location"), place, "where_thing", f"The {name} is in {the(place)}."),
        ],
    )
    owner_place = draft.facts.get(("where_person", owner))
    if owner_place and ("owner", name) in draft.facts:
        draft.tell("owner_where", name, owner_place.answer, TWO_FACTS)


def add_place(draft: Draft) -> None:
    name, keeper, rooms = draft.names.place(), draft.someone(), draft.number()
    ways = draft.rng.sample(phrases.DIRECTIONS, draft.rng.randint(1, 3))
    exits = {way: draft.somewhere() for way in ways}
    keeper_place = draft.facts.get(("where_person", keeper))
    entry = _add_entry(
        draft,
        draft.section("places", "locations", "buildings"),
        name,
        [
            (("keeper", "owner", "run_by"), keeper, "keeper", f"The {name} is run by {keeper}."),
            (
                ("rooms_free", "free_rooms"),
                rooms,
                "rooms_free",
                f"The {name} has {rooms} rooms free.",
            ),
            (
                ("exits", "ways"),
                exits if draft.chance(0.7) else [f"{w}: {place}" for w, place in exits.items()],
                "exits",
                f"From the {name} you can go {spoken_exits(exits)}.",
            ),
        ],
    )
    if draft.chance(0.25):
        entry["description"] = draft.pick(phrases.DESCRIPTIONS)
    draft.places.append(name)
    if keeper_place and ("keeper", name) in draft.facts:
        draft.tell("keeper_where", name, keeper_place.answer, TWO_FACTS)


def spoken_exits(exits: dict[str, str]) -> str:
    """``north to the pantry and east to the hallway``"""
    return " and ".join(f"{way} to {the(place)}" for way, place in exits.items())


def spoken_ways(exits: dict[str, str]) -> str:
    """``to the pantry in the north and the hallway in the east``"""
    return "to " + " and ".join(f"{the(place)} in the {way}" for way, place in exits.items())


def add_door(draft: Draft) -> None:
    name, state = draft.names.door(), draft.pick(phrases.DOOR_STATES)
    _add_state(draft, draft.section("doors", "gates"), name, state)


def add_container(draft: Draft) -> None:
    name, state = draft.names.container(), draft.pick(phrases.DOOR_STATES)
    _add_state(draft, draft.section("containers", "chests"), name, state)


def _add_state(draft: Draft, section: dict[str, Any], name: str, state: str) -> None:
    # Some games write a map per door, others only its state.
    section[name] = {"state": state} if draft.chance(0.6) else state
    draft.tell("state", name, f"The {name} is {state}.")


def add_quest(draft: Draft) -> None:
    name, state = draft.names.quest(), draft.pick(phrases.QUEST_STATES)
    giver, reward = draft.someone(), draft.number()
    _add_entry(
        draft,
        draft.section("quests", "missions", "tasks"),
        name,
        [
            (("state", "status"), state, "quest_state", f"The quest {name} is {state}."),
            (("giver", "from"), giver, "quest_giver", f"The quest {name} comes from {giver}."),
            (("reward", "pays"), reward, "quest_reward", f"The quest {name} pays {reward} gold."),
        ],
    )


def add_beast(draft: Draft) -> None:
    name, hp = draft.names.beast(), draft.number()
    weakness, place = draft.pick(phrases.WEAKNESSES), draft.somewhere()
    _add_entry(
        draft,
        draft.section("monsters", "enemies", "beasts"),
        name,
        [
            (("hp", "health"), hp, "beast_hp", f"The {name} has {hp} hit points."),
            (
                ("weakness", "weak_against"),
                weakness,
                "weakness",
                f"The {name} is weak against {weakness}.",
            ),
            (("at", "lair", "location"), place, "where_thing", f"The {name} is in {the(place)}."),
        ],
    )


def add_world(draft: Draft) -> None:
    """Weather, time and so on: at the root, or in a section of their own. Once for a scene."""
    weather, time, town = (
        draft.pick(phrases.WEATHERS),
        draft.pick(phrases.TIMES),
        draft.names.town(),
    )
    season, day = draft.pick(phrases.SEASONS), draft.rng.randint(1, 365)
    target = draft.state if draft.chance(0.5) else draft.section("world", "environment")
    _add_attributes(
        draft,
        target,
        "",
        [
            (("weather", "sky"), weather, "weather", f"The weather is {weather}."),
            (("time", "time_of_day", "hour"), time, "time", f"It is {time}."),
            (("town", "place", "city"), town, "town", f"This is {town}."),
            (("season",), season, "season", f"It is {season}."),
            (("day", "date"), day, "day", f"It is day {day}."),
        ],
    )


def add_player(draft: Draft) -> None:
    """Once for a scene."""
    name, place, home = draft.names.person(), draft.somewhere(), draft.names.town()
    gold, hp, level = draft.number(), draft.number(), draft.rng.randint(1, 60)
    things = [draft.names.thing() for _ in range(draft.rng.choice((0, 1, 2, 3)))]
    _add_attributes(
        draft,
        draft.section("player", "hero"),
        "",
        [
            (("name",), name, "name_player", f"You are {name}."),
            (("at", "location", "room"), place, "where_player", f"You are in {the(place)}."),
            (("gold", "coins", "money"), gold, "gold_player", f"You have {gold} gold."),
            (("hp", "health"), hp, "hp_player", f"You have {hp} hit points."),
            (("level",), level, "level_player", f"You are level {level}."),
            (("home",), home, "home_player", f"You come from {home}."),
            (
                ("carrying", "inventory", "items"),
                things,
                "carrying_player",
                f"You carry {spoken_list(things)}.",
            ),
        ],
    )


def add_poker(draft: Draft) -> None:
    """A card table. Once for a scene."""
    pot, mine = draft.number(), draft.number()
    cards = [draft.pick("23456789TJQKA") + draft.pick("shdc") for _ in range(2)]
    table = draft.section("table", "poker")
    table["pot"] = pot
    draft.tell("pot", "", f"The pot is {pot} chips.")
    players = {"player": {"chips": mine, "cards": cards}}
    draft.tell("chips_player", "", f"You have {mine} chips.")
    draft.tell("cards_player", "", f"You hold {cards[0]} and {cards[1]}.")
    for _ in range(draft.rng.randint(1, 5)):
        name, chips = draft.names.person(), draft.number()
        players[name] = {"chips": chips, "bet": draft.number()}
        draft.tell("chips", name, f"I think {name} has {chips} chips.")
    table["players"] = players


def add_noise(draft: Draft) -> None:
    """Settings and counters that nobody asks about."""
    section = draft.section("flags", "settings", "counters", "log")
    key = "_".join(draft.names.thing().split())
    section[key] = draft.pick((True, False, draft.number(), draft.pick(phrases.MOODS)))


def add_lore(draft: Draft) -> None:
    """One sentence of lore, mostly a text of its own, sometimes in the state."""
    subject, person = draft.names.town(), draft.someone()
    office, thing = draft.pick(phrases.OFFICES), draft.names.thing()
    skill = draft.pick(phrases.SKILLS)
    sentence, *fact = draft.pick(
        (
            (f"The {office} of {subject} is {person}.", "who_is", f"{office} of {subject}",
             f"The {office} of {subject} is {person}."),
            (f"{person} is the {office} of {subject}.", "who_is", f"{office} of {subject}",
             f"The {office} of {subject} is {person}."),
            (f"The {thing} belongs to {person}.", "owner", thing,
             f"The {thing} belongs to {person}."),
            (f"{person} owns the {thing}.", "owner", thing, f"The {thing} belongs to {person}."),
            (f"{person} is good at {skill}.", "skill", person,
             f"I think {person} is good at {skill}."),
        )
    )  # fmt: skip
    kind, about, answer = fact
    if (kind, about) in draft.facts:
        return
    if draft.chance(0.25):
        draft.state.setdefault("lore", []).append(sentence)
    else:
        draft.lore.append(sentence)
    draft.tell(kind, about, answer)


def _add_entry(
    draft: Draft, section: dict[str, Any], name: str, attributes: list[Attribute]
) -> dict[str, Any]:
    """An entry with some of ``attributes``, keyed by its name."""
    entry: dict[str, Any] = {}
    section[name] = entry
    _add_attributes(draft, entry, name, attributes)
    return entry


# Keys (one is used), value, kind of the fact, answer.
Attribute = tuple[tuple[str, ...], Any, str, str]


def _add_attributes(
    draft: Draft, target: dict[str, Any], subject: str, attributes: list[Attribute]
) -> None:
    chosen = draft.rng.sample(attributes, draft.rng.randint(1, len(attributes)))
    for keys, value, kind, answer in chosen:
        # The first key is the usual one.
        key = keys[0] if draft.chance(0.6) else draft.pick(keys)
        target[key] = value
        skill = LIST if isinstance(value, list | dict) and len(value) > 1 else ONE_FACT
        draft.tell(kind, subject, answer, skill)
