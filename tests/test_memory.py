"""What an agent remembers, and who it is."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from game_agent.agents.character import Character
from game_agent.agents.memory import Memory
from game_agent.errors import InvalidInput

times = st.none() | st.integers(0, 9).map(float)


def filled(game_times) -> Memory:
    memory = Memory()
    for number, time in enumerate(game_times):
        if number % 2:
            memory.observe(f"event {number}", time)
        else:
            memory.add_turn("Ann", f"text {number}", f"reply {number}", time)
    return memory


def test_turns_come_back_oldest_first():
    memory = filled([1.0, None, 3.0])
    assert [turn.index for turn in memory.turns()] == [0, 1, 2]
    assert [turn.kind for turn in memory.turns()] == ["said", "event", "said"]
    assert [turn.index for turn in memory.turns(2)] == [1, 2]
    assert memory.turns(0) == ()
    assert memory.turns(99) == memory.turns()
    with pytest.raises(InvalidInput):
        memory.turns(-1)


def test_rewind_forgets_the_future_and_what_came_with_it():
    memory = filled([None, 1.0, 5.0, None, 2.0])
    assert memory.rewind(2.0) == 2
    assert [turn.index for turn in memory.turns()] == [0, 1, 4]
    assert memory.observe("later", 3.0).index == 5
    with pytest.raises(InvalidInput):
        memory.rewind(float("nan"))
    assert len(memory) == 4


@given(st.lists(times, max_size=8), st.integers(0, 9))
def test_rewind_leaves_nothing_of_the_future(game_times, now):
    memory = filled(game_times)
    num_forgotten = memory.rewind(now)
    assert num_forgotten + len(memory.turns()) == len(game_times)
    assert all(turn.game_time is None or turn.game_time <= now for turn in memory.turns())
    assert memory.rewind(now) == 0


@given(st.lists(times, max_size=6), st.integers(0, 9))
def test_saved_memory_is_the_same_again(game_times, now):
    memory = filled(game_times)
    memory.rewind(now)
    loaded = Memory.from_value(json.loads(json.dumps(memory.to_value())))
    assert loaded.turns() == memory.turns()
    assert loaded.observe("next").index == len(game_times)


TURN = {
    "kind": "said",
    "speaker": "Ann",
    "text": "Hi",
    "reply": "Ho",
    "game_time": 1.5,
    "index": 0,
}


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"kind": "dream"}, "/turns/0/kind"),
        ({"kind": ["said"]}, "/turns/0/kind"),
        ({"speaker": None}, "/turns/0/speaker"),
        ({"text": 3}, "/turns/0/text"),
        ({"reply": None}, "/turns/0/reply"),
        ({"kind": "event"}, "/turns/0/reply"),
        ({"game_time": True}, "/turns/0/game_time"),
        ({"index": -1}, "/turns/0/index"),
        ({"index": True}, "/turns/0/index"),
        ({"index": 1.0}, "/turns/0/index"),
        ({"extra": 1}, "/turns/0"),
    ],
)
def test_a_wrong_save_is_refused(change, where):
    value = {"version": 1, "next_index": 1, "turns": [TURN | change]}
    with pytest.raises(InvalidInput) as caught:
        Memory.from_value(value)
    assert caught.value.where == where


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"version": 4}, "/version"),
        ({"version": [1]}, "/version"),
        ({"version": True}, "/version"),
        ({"version": 0}, "/version"),
        ({"turns": None}, "/turns"),
        ({"turns": [TURN, TURN]}, "/turns/1/index"),
        ({"next_index": 0}, "/next_index"),
        ({"next_index": None}, "/next_index"),
    ],
)
def test_a_save_wrong_in_itself_is_refused(change, where):
    with pytest.raises(InvalidInput) as caught:
        Memory.from_value({"version": 1, "next_index": 1, "turns": [TURN]} | change)
    assert caught.value.where == where


def test_a_profile_of_text():
    character = Character("Mira", "A calm  innkeeper.\n\n\tShe knows all.", "Be \n brief.")
    assert character.text == "You are Mira. A calm innkeeper.\nShe knows all. Be\nbrief."


def test_a_profile_of_fields():
    profile = {
        "trade": "inn keeper",
        "likes": ["ale", "talk"],
        "kin": {"son": None},
        "is_old": True,
    }
    expected = "You are Mira. trade: inn keeper; likes: ale, talk; kin / son: none; is old: yes."
    assert Character("Mira", profile).text == expected
    assert Character("Mira", {}).text == "You are Mira."
    assert Character("Mira", "").text == "You are Mira."


@pytest.mark.parametrize(
    ("fields", "where"),
    [(("  ", ""), "name"), (("Mira", ["x"]), "profile"), (("Mira", {"a": {1}}), "profile/a")],
)
def test_a_wrong_character_is_refused(fields, where):
    with pytest.raises(InvalidInput) as caught:
        Character(*fields)
    assert caught.value.where == where


@pytest.mark.parametrize(
    ("version", "added"),
    [(1, {}), (2, {"pinned": True}), (3, {"pinned": True, "summary": "They met."})],
)
def test_memories_of_all_versions_are_read(version, added):
    memory = Memory.from_value({"version": version, "next_index": 3, "turns": [TURN | added]})
    (turn,) = memory.turns()
    assert (turn.pinned, turn.summary) == (version > 1, "They met." if version > 2 else None)
    assert [t.index for t in memory.pinned()] == ([0] if version > 1 else [])
    assert memory.summed_up == (turn if version > 2 else None)
    assert memory.observe("later").index == 3
    assert Memory.from_value(memory.to_value()).turns() == memory.turns()


def test_turns_after_an_index_are_found_without_a_search():
    memory = filled([1.0, 5.0, None, 2.0])
    memory.rewind(2.0)
    assert [turn.index for turn in memory.after(-1)] == [0, 3]
    assert [turn.index for turn in memory.after(0)] == [3]
    assert [memory.num_after(index) for index in (-1, 0, 1, 3)] == [2, 1, 1, 0]
    assert memory.find(1) is None


def test_rewinding_in_the_middle_leaves_no_summary_of_what_was_forgotten():
    memory = filled([1.0, 5.0, 2.0, 2.5])
    memory.sum_up(0, "a")
    memory.sum_up(2, "a, b, c")
    memory.rewind(3.0)
    assert [(turn.index, turn.summary) for turn in memory.turns()] == [
        (0, "a"),
        (2, None),
        (3, None),
    ]
    assert memory.summed_up.index == 0
