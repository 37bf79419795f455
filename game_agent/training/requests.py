"""What a character can do, and what a player asks of it: actions as the runtime offers them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from game_agent.agents.actions import Action
from game_agent.text.formats import PLAIN
from game_agent.training.draft import Draft
from game_agent.training.names import the
from game_agent.training.scene import ACTION, Fact

MOST_VALUES = 6  # requests of one kind in a scene


@dataclass(frozen=True)
class _Deed:
    """One thing that can be done, under several names.

    ``kinds`` of facts have its arguments as their subjects; none: it takes no argument.
    """

    kind: str
    names: tuple[str, ...]
    parameters: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    description: str = ""


DEEDS = (
    _Deed("do_give", ("give", "hand_over"), ("item", "thing"), ("where_thing", "price"), "Give."),
    _Deed("do_sell", ("sell", "trade"), ("item", "goods"), ("price", "left"), "Sell something."),
    _Deed("do_go", ("go", "walk", "move_to"), ("place", "to"), ("exits", "keeper"), "Go there."),
    _Deed("do_open", ("open", "unlock"), ("target", "what"), ("state",), "Open it."),
    _Deed("do_attack", ("attack", "fight"), ("target", "enemy"), ("weakness", "beast_hp")),
    _Deed("do_talk", ("talk", "speak_to"), ("person", "who"), ("where_person", "job")),
    _Deed("do_follow", ("follow", "come_along"), description="Walk with the player."),
    _Deed("do_wait", ("wait", "stay"), description="Do nothing."),
)


def add_actions(draft: Draft) -> tuple[tuple[Action, ...], tuple[Fact, ...]]:
    """Some actions, in any order, and requests that each asks for one of them."""
    actions, requests = [], []
    for deed in draft.rng.sample(DEEDS, draft.rng.randint(2, 5)):
        values = _subjects(draft.facts.values(), deed.kinds)
        if deed.kinds and not values:
            continue
        parameter = draft.pick(deed.parameters) if deed.parameters else ""
        schema: dict[str, Mapping[str, str]] = {parameter: {"type": "string"}} if parameter else {}
        told = deed.description if draft.chance(0.5) else ""
        action = Action(draft.pick(deed.names), told, schema)
        actions.append(action)
        for value in draft.rng.sample(values, min(MOST_VALUES, len(values))) or [""]:
            arguments = {parameter: PLAIN.before_value + value} if parameter else {}
            call = {"name": PLAIN.before_value + action.name, "arguments": arguments}
            done = json.dumps(call, ensure_ascii=False)
            requests.append(Fact(deed.kind, the(value) if value else "", done, ACTION))
    return tuple(actions), tuple(requests)


def _subjects(facts: Iterable[Fact], kinds: tuple[str, ...]) -> list[str]:
    return sorted({fact.subject for fact in facts if fact.kind in kinds and fact.subject})
