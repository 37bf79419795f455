"""A real TextWorld game, small: its facts make a state, its policy wins."""

from __future__ import annotations

from itertools import pairwise

import pytest

from game_agent.agents.patch import apply_patch

pytest.importorskip("textworld")

from game_agent_demos.game import House, Step, build_game, play
from game_agent_demos.questions import questions
from game_agent_demos.state import difference, num_changed, world_state

SMALL = House(num_rooms=3, num_objects=8, num_quests=2, quest_length=4)


@pytest.fixture(scope="module")
def steps() -> list[Step]:
    return list(play(build_game(3, SMALL)))


def test_every_action_of_the_policy_changes_a_few_facts(steps: list[Step]) -> None:
    assert len(steps) > 4
    assert not steps[0].action
    for before, after in pairwise(steps):
        assert after.action
        assert 1 <= num_changed(before.facts, after.facts) <= 3


def test_the_differences_rebuild_the_world_on_the_server(steps: list[Step]) -> None:
    states = [world_state(step.facts) for step in steps]
    remote = states[0]
    for before, after in pairwise(states):
        remote = apply_patch(remote, difference(before, after))
        assert remote == after


def test_everything_in_the_game_is_in_the_state_under_one_name(steps: list[Step]) -> None:
    for step in steps:
        entities = {entity for fact in step.facts for entity in fact.entities}
        named = [entity.name for entity in entities if entity.kind not in "PI"]
        assert len(named) == len(set(named))
        state = world_state(step.facts)
        sections = ("rooms", "things", "doors", "containers")
        placed = {name for section in sections for name in state.get(section, ())}
        eaten = {fact.entities[0].name for fact in step.facts if fact.predicate == "eaten"}
        assert placed == set(named) - eaten
        assert len({question.kind for question in questions(state)}) >= 5


def test_the_same_seed_gives_the_same_game() -> None:
    first, again = (next(play(build_game(5, SMALL))) for _ in range(2))
    assert first == again
    assert first != next(play(build_game(6, SMALL)))
