"""The demo's world state: its shape, and that the differences are all that is needed."""

from __future__ import annotations

import jsonpatch
from demo_world import HOUSE, fact
from hypothesis import given
from hypothesis import strategies as st

from game_agent_demos.state import Fact, difference, num_changed, world_state

MOVES: list[tuple[Fact, Fact | None]] = [
    (fact("at", "P", "kitchen"), fact("at", "P", "hallway")),
    (fact("locked", "wooden door"), fact("open", "wooden door")),
    (fact("closed", "chest drawer"), fact("open", "chest drawer")),
    (fact("in", "old key", "chest drawer"), fact("in", "old key", "I")),
    (fact("on", "apple", "table"), None),
    (fact("in", "milk", "I"), fact("at", "milk", "hallway")),
]
houses = st.sets(st.sampled_from(MOVES)).map(
    lambda moves: HOUSE - {old for old, _ in moves} | {new for _, new in moves if new}
)


def test_the_shape_that_the_bundled_model_knows() -> None:
    assert world_state(HOUSE) == {
        "player": {
            "at": "kitchen",
            "carrying": ["milk"],
        },
        "nearby": {"pantry": {"way": "north"}, "hallway": {"way": "east"}},
        "rooms": {
            "hallway": {"exits": {"west": "kitchen"}},
            "kitchen": {"exits": {"north": "pantry", "east": "hallway"}},
            "pantry": {"exits": {"south": "kitchen"}},
        },
        "things": {
            "apple": {"on": "table", "kind": "food"},
            "milk": {"held by": "player"},
            "old key": {"in": "chest drawer", "kind": "key"},
            "table": {"at": "kitchen", "holds": ["apple"]},
        },
        "doors": {"wooden door": {"state": "locked", "between": ["kitchen", "pantry"]}},
        "containers": {"chest drawer": {"state": "closed", "at": "hallway", "holds": ["old key"]}},
    }


def test_a_house_without_doors_has_no_such_section() -> None:
    doorless = {f for f in HOUSE if "wooden door" not in {e.name for e in f.entities}}
    assert "doors" not in world_state(doorless)


@given(st.permutations(sorted(HOUSE)))
def test_the_order_of_facts_does_not_matter(facts: list[Fact]) -> None:
    assert str(world_state(facts)) == str(world_state(HOUSE))


@given(houses, houses)
def test_the_difference_leads_from_one_state_to_the_other(
    before: frozenset[Fact], after: frozenset[Fact]
) -> None:
    old, new = world_state(before), world_state(after)
    patch = difference(old, new)
    assert jsonpatch.apply_patch(old, patch) == new
    assert bool(patch) == (before != after)


def test_a_fact_in_place_of_another_counts_once() -> None:
    old, new = MOVES[0]
    assert num_changed(HOUSE, HOUSE - {old} | {new}) == 1
    assert num_changed(HOUSE, HOUSE - {fact("on", "apple", "table")}) == 1
    assert num_changed(HOUSE, HOUSE) == 0
