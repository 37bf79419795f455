"""Save, play on, load: everything is as it was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from game_agent.agents.agent import Agent
from game_agent.agents.budget import MemoryBudget
from game_agent.agents.lore import Lorebook
from game_agent.agents.snapshot import read_snapshot
from game_agent.errors import InvalidInput, NotFound
from game_agent.runtime import Runtime

CARD: dict[str, Any] = {
    "spec": "chara_card_v2",
    "data": {
        "name": "Bo",
        "mes_example": "<START>\n{{char}}: Hm.",
        "extensions": {"x": 1},
        "character_book": {"entries": [{"keys": ["hat"], "content": "It is red."}]},
    },
}


@pytest.fixture
def runtime(tiny_checkpoint: Path) -> Iterator[Runtime]:
    with Runtime.load(tiny_checkpoint) as runtime:
        yield runtime


def village(runtime: Runtime) -> tuple[Agent, Agent]:
    """A world with lore and two agents that remember something."""
    state = {"weather": "rain", "inn": {"beds": 3}}
    rules = [{"path": "/weather", "do": "join"}, {"path": "/inn", "do": "split"}]
    world = runtime.world("village", state, seq=7, partition=rules)
    world.lore = Lorebook({"entries": [{"keys": ["bell"], "content": "It rang once."}]})
    mira = runtime.agent(
        "Mira", world=world, profile={"trade": "innkeeper"}, sees=["/inn"], instructions="Be brief."
    )
    mira.observe("The door opens.", game_time=1.5, pinned=True)
    mira.budget = MemoryBudget(300, recall=2)
    bo = runtime.agent("bo", world=world, card=CARD)
    for agent in (mira, bo):
        agent.say("player", "A bell and a hat?", max_tokens=5, game_time=2).text()
    return mira, bo


def answers(runtime: Runtime) -> list[str]:
    return [
        runtime.get_agent(name)
        .say("player", f"And the {word}?", max_tokens=8, mode=mode, remember=False)
        .text()
        for name in ("Mira", "bo")
        for word in ("bell", "hat")
        for mode in ("block", "full")
    ]


def prompts(runtime: Runtime) -> list[list[tuple[object, object]]]:
    return [
        [(block["source"], block["text"]) for block in runtime.get_agent(name).inspect("bell, hat")]
        for name in ("Mira", "bo")
    ]


def test_a_loaded_save_answers_as_before_the_detour(runtime: Runtime) -> None:
    mira, bo = village(runtime)
    saved = runtime.save("village")
    before, shown = answers(runtime), prompts(runtime)

    mira.world.patch(merge={"inn": {"beds": 0}, "storm": True})
    mira.observe("It thunders.", game_time=9)
    mira.world.lore = None
    runtime.world("village", {"weather": "sun"}, partition=[])
    runtime.agent("Mira", world="village", profile="Another Mira.")
    runtime.agent("Zoe", world="village", profile="New here.")
    runtime.remove_agent("bo")
    open_reply = mira.say("player", "Tell me everything", max_tokens=5000)
    next(iter(open_reply))

    world = runtime.restore(saved)
    open_reply.text()
    assert world is mira.world
    assert runtime.get_agent("Mira") is mira
    assert set(runtime.agents) == {"Mira", "bo"}
    assert (world.seq, world.state) == (7, {"weather": "rain", "inn": {"beds": 3}})
    assert [rule.do for rule in world.rules] == ["join", "split"]
    assert prompts(runtime) == shown
    assert answers(runtime) == before
    assert [turn["text"] for turn in mira.history()] == ["The door opens.", "A bell and a hat?"]
    assert runtime.get_agent("bo") is not bo
    assert runtime.save(world) == saved


def test_a_save_is_taken_over_by_another_runtime(runtime: Runtime, tiny_checkpoint: Path) -> None:
    village(runtime)
    saved = runtime.save("village")
    assert len(saved) < 3000
    with Runtime.load(tiny_checkpoint) as other:
        other.restore(saved)
        assert prompts(other) == prompts(runtime)
        assert other.save("village") == saved
        card = other.get_agent("bo").persona.card
        assert card is not None
        assert card.value == CARD
        change = other.get_world("village").patch(merge={"weather": "sun"}, seq=8)
        assert change.seq == 8


def test_a_save_whose_agent_lives_elsewhere_changes_nothing(runtime: Runtime) -> None:
    village(runtime)
    saved = runtime.save("village")
    runtime.remove_world("village")
    runtime.world("city", {})
    runtime.agent("bo", world="city", profile="Of the city.")
    with pytest.raises(InvalidInput, match="'bo' of the save lives in the world 'city'") as caught:
        runtime.restore(saved)
    assert caught.value.where == "/agents/1/name"
    assert set(runtime.worlds) == {"city"}
    assert set(runtime.agents) == {"bo"}
    with pytest.raises(NotFound):
        runtime.save("village")


def test_a_late_word_of_what_was_heard_leaves_the_loaded_memory_alone(runtime: Runtime) -> None:
    mira, _ = village(runtime)
    saved = runtime.save("village")
    late = mira.say("player", "Hello", max_tokens=8)
    late.text()
    runtime.restore(saved)
    whole = mira.say("player", "Hello", max_tokens=8).text()
    late.heard(0)
    assert mira.history()[-1]["reply"] == whole


def saved_value(**changes: Any) -> dict[str, Any]:
    agent = {
        "name": "Mira",
        "profile": "An innkeeper.",
        "card": None,
        "instructions": "",
        "sees": [""],
        "memory_tokens": None,
        "lore": None,
        "memory": {"version": 1, "next_index": 0, "turns": []},
    }
    world = {
        "name": "village",
        "state": {"weather": "rain"},
        "seq": 0,
        "partition": [],
        "lore": None,
    }
    value = {"format": "game-agent save", "version": 1, "world": world, "agents": [agent]}
    for path, change in changes.items():
        *parents, last = path.split("__")
        target: Any = value
        for token in parents:
            target = target[int(token)] if isinstance(target, list) else target[token]
        target[last] = change
    return value


def read(value: object) -> None:
    read_snapshot(json.dumps(value).encode())


def test_a_save_with_a_memory_of_an_older_version_is_read() -> None:
    turn = {"kind": "event", "speaker": "", "text": "x", "reply": None, "game_time": 1, "index": 4}
    memory = {"version": 1, "next_index": 5, "turns": [turn]}
    value = saved_value(agents__0__memory=memory)
    (agent,) = read_snapshot(json.dumps(value).encode()).agents
    assert [(turn.index, turn.pinned) for turn in agent.memory.turns()] == [(4, False)]


def test_a_save_of_version_1_is_read_and_one_of_version_2_has_more() -> None:
    (agent,) = read_snapshot(json.dumps(saved_value()).encode()).agents
    assert agent.budget == MemoryBudget()
    added = {"agents__0__recall": 3, "agents__0__summarize": True}
    value = saved_value(version=2, agents__0__memory_tokens=90, **added)
    (agent,) = read_snapshot(json.dumps(value).encode()).agents
    assert agent.budget == MemoryBudget(90, recall=3, summarize=True)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"format": "x"}, "/format"),
        ({"version": 0}, "/version"),
        ({"version": 3}, "/version"),
        ({"version": "1"}, "/version"),
        ({"world": 3}, "/world"),
        ({"world__extra": 3}, "/world"),
        ({"world__name": ""}, "/world/name"),
        ({"world__state": []}, "/world/state"),
        ({"world__state": {"x": [10**30]}}, "/world/state/x/0"),
        ({"world__state": {"x": "\ud800"}}, None),
        ({"world__seq": -1}, "/world/seq"),
        ({"world__partition": [{"path": "", "do": "x"}]}, "/world/partition/0/do"),
        ({"world__lore": {}}, "/world/lore/entries"),
        ({"agents__0__name": "x" * 129}, "/agents/0/name"),
        ({"agents__0__profile": None}, "/agents/0/profile"),
        ({"agents__0__card": {}}, "/agents/0/card/spec"),
        ({"agents__0__sees": [""] + ["inn"]}, "/agents/0/sees/1"),
        ({"agents__0__memory_tokens": -1}, "/agents/0/memory_tokens"),
        ({"agents__0__recall": -1}, "/agents/0/recall"),
        ({"agents__0__lore": []}, "/agents/0/lore"),
        ({"agents__0__memory": []}, "/agents/0/memory/version"),
        ({"agents": [saved_value()["agents"][0]] * 2}, "/agents/1/name"),
    ],
)
def test_a_hostile_save_is_refused(changes: dict[str, Any], where: str | None) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(saved_value(**changes))
    assert caught.value.where == where


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b"null", b"[" * 100_000, b'{"format": NaN}'])
def test_what_is_no_save_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        read_snapshot(data)


def test_the_example_itself_is_a_save() -> None:
    read(saved_value())


@given(st.data())
def test_a_damaged_save_is_read_or_refused(data: st.DataObject) -> None:
    file = bytearray(json.dumps(saved_value()).encode())
    for place in data.draw(st.lists(st.integers(0, len(file) - 1), min_size=1, max_size=3)):
        file[place] = data.draw(st.integers(0, 255))
    try:
        snapshot = read_snapshot(bytes(file))
    except InvalidInput:
        return
    assert len(snapshot.agents) == 1
