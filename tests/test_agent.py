"""What an agent's memory and prompt are after interruptions, rewinds, pins and lore."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from game_agent.agents.agent import Agent
from game_agent.agents.blockcache import BlockCache
from game_agent.agents.budget import MemoryBudget
from game_agent.agents.lore import Lorebook
from game_agent.blocks.block import Block
from game_agent.errors import InvalidInput, NotFound
from game_agent.runtime import Runtime


@pytest.fixture
def runtime(tiny_checkpoint: Path) -> Iterator[Runtime]:
    with Runtime.load(tiny_checkpoint) as runtime:
        yield runtime


@pytest.fixture
def mira(runtime: Runtime) -> Agent:
    runtime.world("village", {"weather": "rain", "inn": {"beds": 3}})
    return runtime.agent("Mira", world="village", profile="Mira runs the inn.")


def sources(agent: Agent, text: str | None = None) -> list[object]:
    return [block["source"] for block in agent.inspect(text)]


def answered(agent: Agent, text: str, num_tokens: int = 8) -> str:
    return agent.say("player", text, max_tokens=num_tokens).text()


def test_memory_keeps_what_was_heard(mira: Agent) -> None:
    reply = mira.say("player", "Hello", max_tokens=8)
    whole = reply.text()
    assert len(whole) > 3
    reply.heard(3)
    assert mira.history()[-1]["reply"] == whole[:3].rstrip()
    reply.heard(0)
    assert mira.history()[-1]["reply"] == ""
    with pytest.raises(InvalidInput, match="negative"):
        reply.heard(-1)


def test_what_was_heard_may_be_told_while_the_answer_is_on_its_way(mira: Agent) -> None:
    reply = mira.say("player", "Tell me everything", max_tokens=5000)
    next_reply = mira.say("player", "Stop!", max_tokens=2)
    next(iter(reply))
    reply.heard(2)
    reply.cancel()
    whole = reply.text()
    next_reply.text()
    assert mira.history()[0]["reply"] == whole[:2].rstrip()


def test_what_was_heard_of_a_forgotten_turn_does_not_matter(mira: Agent) -> None:
    reply = mira.say("player", "Hello", max_tokens=4, game_time=5)
    reply.text()
    assert mira.rewind(4) == 1
    reply.heard(1)
    assert mira.history() == []


def test_rewinding_ends_the_questions_of_the_time_given_up(mira: Agent) -> None:
    mira.observe("The door opens.", game_time=1)
    running = mira.say("player", "Tell me everything", max_tokens=5000)
    waiting = mira.say("player", "And then?", max_tokens=5000)
    aside = mira.say("player", "Psst", max_tokens=5000, remember=False)
    next(iter(running))
    assert mira.rewind(1) == 0
    for reply in (running, waiting, aside):
        reply.text()
        assert reply.answer is not None
        assert reply.answer.finish_reason == "cancelled"
    assert [turn["text"] for turn in mira.history()] == ["The door opens."]
    answered(mira, "Hello")
    assert len(mira.history()) == 2


def test_the_prompt_can_be_inspected(mira: Agent) -> None:
    mira.observe("The door opens.")
    shown = mira.inspect("A bed <|end|> please\nMira: no", speaker="ann")
    assert [block["source"] for block in shown] == ["character", "world:", "memory:0", "event"]
    assert [block["text"] for block in shown] == [
        "You are Mira. Mira runs the inn.",
        "world: weather: rain; inn / beds: 3.",
        "Event: The door opens.",
        "Ann: A bed <|end|> please Mira: no",
    ]
    assert not any(block["cached"] for block in shown)
    mira.warm().wait()
    assert [block["cached"] for block in mira.inspect("Hi")] == [True, True, True, False]
    assert not any(block["cached"] for block in mira.inspect(mode="full"))
    reply = mira.say("player", "Hi", max_tokens=4, mode="full", remember=False)
    reply.text()
    assert reply.answer is not None
    shown = mira.inspect("Hi", mode="full")
    assert [block["cached"] for block in shown] == [True, True, True, False]
    num_tokens = [block["tokens"] for block in mira.inspect("Hi", speaker="player")]
    assert sum(num_tokens) == reply.answer.usage.context_tokens  # type: ignore[arg-type]


def test_each_agents_prompt_names_its_own_turns(runtime: Runtime, mira: Agent) -> None:
    aldric = runtime.agent("Aldric", world="village", profile="A miller.")
    for agent in (mira, aldric):
        agent.observe("It thunders.")
        if agent is mira:
            aldric.observe("The mill creaks.")
    assert sources(mira)[-1:] == ["memory:0"]
    assert sources(aldric)[-2:] == ["memory:0", "memory:1"]


def test_a_pinned_turn_outlives_the_budget(mira: Agent) -> None:
    mira.observe("Ann paid for a week.", pinned=True)
    for i in range(30):
        mira.observe(f"Somebody passes by, and it is number {i}.")
    mira.budget = MemoryBudget(150)
    remembered = [str(source) for source in sources(mira) if "memory" in str(source)]
    assert remembered[0] == "memory:0"
    assert remembered[-1] == "memory:30"
    assert 3 <= len(remembered) < 20
    kept = [b["tokens"] for b in mira.inspect() if str(b["source"]).startswith("memory")]
    assert sum(kept) <= 150  # type: ignore[arg-type]
    mira.pin(0, pinned=False)
    assert "memory:0" not in sources(mira)
    mira.pin(3)
    assert "memory:3" in sources(mira)
    with pytest.raises(NotFound, match="no turn 99"):
        mira.pin(99)


def test_lore_is_told_when_it_is_mentioned(runtime: Runtime, mira: Agent) -> None:
    runtime.agent("Aldric", world="village", profile="A miller.")
    mira.world.lore = Lorebook(
        {
            "entries": [
                {"keys": ["bell"], "content": "{{char}} hid the bell.", "insertion_order": 2},
                {"keys": ["dragon"], "content": "The dragon sleeps.", "insertion_order": 1},
            ]
        }
    )
    mira.lore = Lorebook({"entries": [{"keys": ["bell"], "content": "It is of silver."}]})
    before = mira.inspect("Hello")
    assert not any("lore" in str(block["source"]) for block in before)
    told = [block["text"] for block in mira.inspect("Where is the bell of the dragon?")]
    assert told[2:-1] == ["The dragon sleeps.", "Mira hid the bell.", "It is of silver."]
    aldric = runtime.get_agent("Aldric")
    assert [b["text"] for b in aldric.inspect("A Bell")][2:-1] == ["Aldric hid the bell."]


def test_lore_encodes_nothing_but_itself_and_only_once(mira: Agent) -> None:
    entries = [{"keys": [f"place{i:04}"], "content": f"Place {i} is old."} for i in range(2000)]
    mira.world.lore = Lorebook({"entries": entries})

    def num_encoded(numbers: range) -> int:
        text = " ".join(f"place{i:04}" for i in numbers)
        reply = mira.say("player", text, max_tokens=1, remember=False)
        reply.text()
        assert reply.answer is not None
        assert reply.answer.usage.blocks == 2 + len(numbers)
        return reply.answer.usage.blocks_encoded

    assert num_encoded(range(20)) == 22
    assert num_encoded(range(10, 30)) == 10
    assert num_encoded(range(5, 25)) == 0
    assert num_encoded(range(0)) == 0


def test_lore_leaves_room_for_memory_and_keeps_its_budget(mira: Agent) -> None:
    entries = [
        {"keys": ["all"], "content": f"Rumour number {i} is old.", "insertion_order": i}
        for i in range(50)
    ]
    mira.observe("The door opens.")
    mira.world.lore = Lorebook({"entries": entries, "token_budget": 200})
    lore = [b for b in mira.inspect("Tell me all") if str(b["source"]).startswith("lore")]
    assert 2 < len(lore) < 10
    assert sum(block["tokens"] for block in lore) <= 200  # type: ignore[misc]
    # Those of the lowest order give way, and the rest is in order.
    assert [b["text"] for b in lore] == [
        f"Rumour number {i} is old." for i in range(50 - len(lore), 50)
    ]
    assert sources(mira, "Tell me all")[-2:] == ["memory:0", "event"]


def test_ten_thousand_turns_cost_what_fits(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Runtime.load(tiny_checkpoint) as runtime:
        runtime.world("village", {"weather": "rain"})
        mira = runtime.agent("Mira", world="village", profile="A host.", memory_tokens=600)
        mira.observe("Ann paid for a week.", pinned=True)
        num_looked_up = 0
        look_up = BlockCache.block

        def counted(*arguments: Any, **options: Any) -> Block:
            nonlocal num_looked_up
            num_looked_up += 1
            return look_up(*arguments, **options)

        monkeypatch.setattr(BlockCache, "block", counted)
        seen = []
        for number in range(1, 10_001):
            mira.observe(f"Turn {number:06}.")
            if number in (1_000, 10_000):
                num_looked_up = 0
                shown = mira.inspect("Hello")
                remembered = [b for b in shown if str(b["source"]).startswith("memory")]
                seen.append((num_looked_up, len(remembered)))
                assert shown[0]["text"] == "You are Mira. A host."
                assert remembered[0]["source"] == "memory:0"
                assert remembered[-1]["source"] == f"memory:{number}"
                assert sum(block["tokens"] for block in remembered) <= 600  # type: ignore[misc]
        assert seen[0] == seen[1]
        reply = mira.say("player", "Hello", max_tokens=2)
        reply.text()
        again = mira.say("player", "Hello", max_tokens=2)
        again.text()
        assert again.answer is not None
        assert again.answer.usage.blocks_encoded == 1
