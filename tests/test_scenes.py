"""Made-up scenes: what they tell is what stands in their blocks, and test names stay unseen."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from game_agent.agents.partition import partition
from game_agent.training import history, phrases, sections
from game_agent.training.draft import Draft
from game_agent.training.house import add_house
from game_agent.training.names import Names, is_held_out, spoken_list, the
from game_agent.training.requests import DEEDS
from game_agent.training.scene import ABSENT, ACTION, CHOICE, REFERENCE, SKILLS
from game_agent.training.scenes import make_questions, make_scene
from game_agent.training.wordings import OFF_TOPIC, PRONOUNS, SMALL_TALK, UNKNOWN, WORDINGS

SEEDS = st.integers(0, 2**32)


def house(seed: int) -> Draft:
    draft = Draft.create(random.Random(seed), "train")
    add_house(draft, num_rooms=1 + seed % 6, num_things=seed % 15)
    return draft


def answers(draft: Draft, kind: str) -> dict[str, str]:
    return {f.subject: f.answer for f in draft.facts.values() if f.kind == kind}


@given(SEEDS, st.integers(2, 30))
@settings(max_examples=20, deadline=None)
def test_a_scene_follows_from_its_seed(seed: int, num_blocks: int) -> None:
    scenes = [make_scene(random.Random(seed), num_blocks) for _ in range(2)]
    assert scenes[0] == scenes[1]


@given(SEEDS, st.integers(2, 30))
@settings(max_examples=30, deadline=None)
def test_a_scene_has_about_the_blocks_asked_for(seed: int, num_blocks: int) -> None:
    scene = make_scene(random.Random(seed), num_blocks)
    assert 2 <= len(scene.blocks) <= 2 * num_blocks + 6
    assert scene.blocks[0].startswith("You are ")


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_the_world_is_cut_by_the_runtime_itself(seed: int) -> None:
    scene = make_scene(random.Random(seed), 8)
    world = tuple(part.text for part in partition(scene.state).parts)
    assert scene.blocks[1 : 1 + len(world)] == world


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_what_can_be_asked_stands_in_the_blocks(seed: int) -> None:
    scene = make_scene(random.Random(seed), 8)
    text = "\n".join(scene.blocks)
    for fact in scene.facts:
        assert fact.subject.removeprefix("the ") in text
        for number in [word for word in fact.answer.rstrip(".").split() if word.isdigit()]:
            assert number in text
    facts = {(fact.kind, fact.subject) for fact in scene.facts}
    assert not facts & {(fact.kind, fact.subject) for fact in scene.absent}
    assert {fact.answer for fact in scene.absent} <= {UNKNOWN}


def place_of(entry: dict[str, Any]) -> str:
    if "held by" in entry:
        return "You carry the {e}."
    where = "on" if "on" in entry else "in"
    return f"The {{e}} is {where} the {entry.get('in') or entry.get('on') or entry.get('at')}."


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_a_house_is_told_as_its_state_says(seed: int) -> None:
    draft = house(seed)
    state = draft.state
    told = answers(draft, "where_thing")
    entries = {**state["things"], **{n: {"at": c["at"]} for n, c in state["containers"].items()}}
    assert told == {name: place_of(entry).format(e=name) for name, entry in entries.items()}
    player = state["player"]
    assert answers(draft, "where_player") == {"": f"You are in the {player['at']}."}
    assert answers(draft, "carrying_player") == {
        "": f"You carry {spoken_list(player['carrying'])}."
    }
    openables = {**state.get("doors", {}), **state["containers"]}
    assert answers(draft, "state") == {n: f"The {n} is {v['state']}." for n, v in openables.items()}


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_ways_start_where_the_player_is(seed: int) -> None:
    draft = house(seed)
    rooms = draft.state["rooms"]
    here = draft.state["player"]["at"]
    exits = rooms[here]["exits"]
    expected = {room: f"The {room} is to the {way}." for way, room in exits.items()}
    far = set(rooms) - {here} - set(exits.values())
    if nearby := draft.state.get("nearby"):
        assert nearby == {room: {"way": way} for way, room in exits.items()}
    told = answers(draft, "way")
    unknown = {room: f"I do not know the way to the {room}." for room in far & set(told)}
    assert len(unknown) == min(len(far), len(expected))
    assert told == expected | unknown


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_containers_hold_what_is_told(seed: int) -> None:
    draft = house(seed)
    things = draft.state["things"].items()
    for name, told in answers(draft, "contents").items():
        inside = [thing for thing, entry in things if entry.get("in") == name]
        found = f"You find {spoken_list(inside)} in the {name}."
        assert told == (found if inside else f"There is nothing in the {name}.")


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_two_facts_make_one_answer(seed: int) -> None:
    draft = Draft.create(random.Random(seed), "train")
    for _ in range(12):
        sections.add_person(draft)
    where = answers(draft, "where_person")
    for job, told in answers(draft, "job_where").items():
        of_that_job = [
            name for name, said in answers(draft, "job").items() if said.endswith(f" a {job}.")
        ]
        assert len(of_that_job) == 1
        assert where[of_that_job[0]] == told


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_names_of_tests_are_never_drawn_in_training(seed: int) -> None:
    makers = ("person", "thing", "place", "room", "town", "quest", "door", "container")
    for split in ("train", "test"):
        names = Names(random.Random(seed), "test" if split == "test" else "train")
        drawn = [getattr(names, maker)() for maker in makers for _ in range(4)]
        assert len(set(drawn)) == len(drawn)
        assert {is_held_out(name) for name in drawn} == {split == "test"}


def test_names_do_not_run_out() -> None:
    names = Names(random.Random(0), "test")
    assert len({names.quest() for _ in range(300)}) == 300


def test_training_never_asks_in_held_out_words() -> None:
    rng = random.Random(0)
    scene = make_scene(rng, 16)
    held_out = {
        wording.format(e=fact.subject)
        for fact in scene.facts
        for wording in WORDINGS[fact.kind].held_out
    }
    seen = {q.event.partition(": ")[2] for q in make_questions(rng, scene, 2000)}
    others = make_questions(rng, scene, 200, held_out_wording=True)
    assert not seen & held_out
    assert {q.event.partition(": ")[2] for q in others} & held_out


def test_wordings_name_their_subject_once_or_never() -> None:
    alone = {"off_topic", *SMALL_TALK, *PRONOUNS.values(), "do_follow", "do_wait"}
    for kind, wordings in WORDINGS.items():
        counts = {wording.count("{e}") for wording in (*wordings.train, *wordings.held_out)}
        of_the_player = kind.endswith("_player") or kind in ("self", "self_job", "pot")
        of_the_world = kind in ("weather", "time", "town", "season", "day")
        assert counts == ({0} if kind in alone or of_the_player or of_the_world else {1})
        assert len(wordings.train) >= 10
        assert len(wordings.held_out) >= 3
        assert not {w.lower() for w in wordings.train} & {w.lower() for w in wordings.held_out}
    assert not set(OFF_TOPIC.train) & set(OFF_TOPIC.held_out)


@pytest.mark.parametrize("manner", phrases.MANNERS)
def test_replies_are_spoken_in_the_characters_manner(manner: str) -> None:
    rng = random.Random(manner)
    scene = next(s for s in (make_scene(rng, 3) for _ in range(100)) if s.manner == manner)
    prefix = phrases.MANNERS[manner][0]
    for question in make_questions(rng, scene, 60):
        assert question.reply.startswith(prefix) or question.skill in (ACTION, CHOICE)


def test_every_kind_of_question_comes_up() -> None:
    rng = random.Random(0)
    scenes = [make_scene(rng, 10) for _ in range(300)]
    facts = {fact.kind for scene in scenes for fact in (*scene.facts, *scene.requests)}
    assert facts | set(SMALL_TALK) | set(PRONOUNS.values()) == set(WORDINGS)
    asked = [question for scene in scenes for question in make_questions(rng, scene, 30)]
    assert {question.skill for question in asked} == set(SKILLS)


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_the_last_of_several_deeds_is_told_by_the_last_event(seed: int) -> None:
    draft = Draft.create(random.Random(seed), "train")
    history._add_events(draft, 12)
    place, last, went = "", {}, {}
    for event in draft.events:
        person, _, deed = event.removeprefix("Event: ").removesuffix(".").partition(" ")
        last[person] = f"I heard that {person} {deed}."
        if deed.startswith("went to "):
            place = place if deed == history.SAME_PLACE else deed.removeprefix("went to ")
            went[person] = f"{person} went to {place}."
    assert answers(draft, "last_deed") == last
    assert answers(draft, "went") == went


def test_it_means_what_the_last_turn_was_about() -> None:
    rng = random.Random(1)
    asked = 0
    for _ in range(80):
        scene = make_scene(rng, 8)
        for question in make_questions(rng, scene, 20):
            if question.skill == REFERENCE and question.kind in PRONOUNS.values():
                asked += 1
                turn = next(text for text in reversed(scene.blocks) if text.startswith("Player: "))
                assert scene.last_asked in turn.partition("\n")[0]
                assert scene.last_asked not in question.event
                assert question.reply.endswith(
                    tuple(f.answer for f in scene.facts if f.subject == scene.last_asked)
                )
    assert asked > 20


def test_a_request_is_an_action_that_the_last_block_offers() -> None:
    rng = random.Random(2)
    scenes = [scene for _ in range(80) if (scene := make_scene(rng, 8)).requests]
    assert scenes
    for scene in scenes:
        names = {action.name: set(action.parameters or ()) for action in scene.actions}
        assert all(f"{name} " in scene.blocks[-1] or name in scene.blocks[-1] for name in names)
        for request in scene.requests:
            done = json.loads(request.answer)
            assert done["name"].startswith(" ")
            assert set(done["arguments"]) == names[done["name"].strip()]
            assert request.kind in {deed.kind for deed in DEEDS}
            for value in done["arguments"].values():
                assert value[0] == " "
                assert value in "\n".join(scene.blocks[:-1])


def test_a_choice_is_one_of_the_options_named() -> None:
    rng = random.Random(3)
    asked = [q for _ in range(60) for q in make_questions(rng, make_scene(rng, 8), 20)]
    choices = [question for question in asked if question.skill == CHOICE]
    assert choices
    for choice in choices:
        assert choice.reply in choice.event
    absent = [question for question in asked if question.skill == ABSENT]
    assert {q.reply.rpartition(UNKNOWN)[1:] for q in absent} == {(UNKNOWN, "")}


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], "nothing"),
        (["old key"], "the old key"),
        (["old key", "apple"], "the old key and the apple"),
        (["a", "b", "c"], "the a, the b and the c"),
    ],
)
def test_lists_are_spoken(names: list[str], text: str) -> None:
    assert spoken_list(names) == text


def test_proper_names_take_no_article() -> None:
    assert (the("Oakford"), the("old mill")) == ("Oakford", "the old mill")
