"""The demo's questions, and how it judges answers."""

from __future__ import annotations

import random

import pytest
from demo_world import HOUSE, fact

from game_agent_demos.questions import agrees, mentions, next_question, questions
from game_agent_demos.state import world_state

STATE = world_state(HOUSE)
BY_TEXT = {question.text: question for question in questions(STATE)}

TRUE = [
    ("Where am I?", "You are in the kitchen."),
    ("What am I carrying?", "You carry the milk."),
    ("What am I carrying?", "You are holding milk!"),
    ("Which way is the pantry?", "The pantry is to the north."),
    ("Which way is the hallway?", "Go EAST."),
    ("Where is the milk?", "You carry the milk."),
    ("Where is the milk?", "It is in your inventory."),
    ("Where is the old key?", "Hmph. The old key is in the chest drawer."),
    ("Where is the apple?", "The apple is on the table."),
    ("Is the wooden door open?", "The wooden door is locked."),
    ("Is the wooden door open?", "No, it is locked."),
    ("What is in the chest drawer?", "You find the old key in the chest drawer."),
]
FALSE = [
    ("Where am I?", "You are in the pantry."),
    ("Where am I?", "You are in the kitchen or the pantry."),
    ("Where am I?", "You are in the old kitchen."),
    ("Where am I?", ""),
    ("What am I carrying?", "You carry nothing."),
    ("What am I carrying?", "You carry the milk and the apple."),
    ("What am I carrying?", "You carry nothing but the milk."),
    ("Which way is the pantry?", "The pantry is to the south."),
    ("Where is the milk?", "The milk is on the table."),
    ("Where is the milk?", "You do not carry the milk."),
    ("Where is the old key?", "I do not know."),
    ("Where is the old key?", "You carry the old key."),
    ("Where is the apple?", "The apple is in the kitchen."),
    ("Is the wooden door open?", "The wooden door is open."),
    ("Is the wooden door open?", "The wooden door is not locked."),
    ("Is the chest drawer open?", "The wooden door is closed."),
    ("What is in the chest drawer?", "There is nothing in the chest drawer."),
]


@pytest.mark.parametrize(("text", "answer"), TRUE)
def test_true_answers_agree(text: str, answer: str) -> None:
    assert agrees(BY_TEXT[text], answer)


@pytest.mark.parametrize(("text", "answer"), FALSE)
def test_false_answers_do_not(text: str, answer: str) -> None:
    assert not agrees(BY_TEXT[text], answer)


def test_every_answer_agrees_with_its_own_question_only() -> None:
    """The plainest answers; two questions may have the same one."""
    for question in BY_TEXT.values():
        for other in BY_TEXT.values():
            answer = " and ".join(f"the {name}" for name in other.expected)
            if not other.expected & {question.subject}:
                assert agrees(question, answer) == (question.expected == other.expected)


def test_a_longer_name_is_not_the_shorter_one_inside_it() -> None:
    names = {"key", "iron key", "type 1 latchkey", "non-euclidean safe"}
    assert mentions("the iron key", names) == {"iron key"}
    assert mentions("The Iron Key and the key.", names) == {"iron key", "key"}
    assert mentions("type 1 latchkey, Non-Euclidean safe", names) == names - {"key", "iron key"}
    assert mentions("the monkey", names) == frozenset()
    assert mentions("the silver key", names) is None


def test_empty_hands_and_full_ones() -> None:
    empty = world_state(HOUSE - {fact("in", "milk", "I")})
    carrying = next(q for q in questions(empty) if q.kind == "carrying")
    for answer in ("You carry nothing.", "You are not carrying anything."):
        assert agrees(carrying, answer)
    assert not agrees(carrying, "You carry the milk.")


def test_what_was_eaten_is_nowhere() -> None:
    eaten = world_state(HOUSE - {fact("on", "apple", "table")})
    asked = {next_question(STATE, eaten, random.Random(seed)) for seed in range(40)}
    [question] = [question for question in asked if question.subject == "apple"]
    assert agrees(question, "I do not know.")
    assert not agrees(question, "The apple is on the table.")


def test_most_questions_are_about_what_changed() -> None:
    """Moving to the hallway changes where the player is and which way the rooms are."""
    moved = world_state(HOUSE - {fact("at", "P", "kitchen")} | {fact("at", "P", "hallway")})
    asked = [next_question(STATE, moved, random.Random(seed)) for seed in range(200)]
    assert sum(question.kind == "place" for question in asked) > 30
    told_before = [BY_TEXT[q.text].expected for q in asked if q.text in BY_TEXT]
    told_now = [q.expected for q in asked if q.text in BY_TEXT]
    num_changed = sum(map(frozenset.__ne__, told_before, told_now))
    assert 0.6 * len(told_now) < num_changed < len(told_now)


def test_without_a_change_anything_may_be_asked() -> None:
    asked = {next_question(STATE, STATE, random.Random(seed)).kind for seed in range(200)}
    assert asked == {"place", "carrying", "way", "thing", "state", "contents"}
