"""Older turns come back when a question is about them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from game_agent.agents import recall
from game_agent.agents.agent import Agent
from game_agent.agents.memory import Memory
from game_agent.agents.recall import RecallIndex, words
from game_agent.errors import InvalidInput
from game_agent.runtime import Runtime

texts = st.lists(st.sampled_from(["ale", "Bed", "cow", "the", "THE", "x-y"]), max_size=6)


def scores(documents: dict[int, str], query: str) -> dict[int, float]:
    """BM25 from its definition, for words that at most half of the documents have."""
    found = {number: re.findall(r"\w+", text.lower()) for number, text in documents.items()}
    out: dict[int, float] = {}
    mean = sum(map(len, found.values())) / max(len(found), 1)
    for word in set(re.findall(r"\w+", query.lower())):
        having = [number for number in found if word in found[number]]
        if 2 * len(having) > len(found):
            continue
        idf = math.log(1 + (len(found) - len(having) + 0.5) / (len(having) + 0.5))
        for number in having:
            count = found[number].count(word)
            norm = 1.2 * (0.25 + 0.75 * len(found[number]) / mean)
            out[number] = out.get(number, 0.0) + idf * count * 2.2 / (count + norm)
    return out


@given(st.dictionaries(st.integers(0, 20), texts, max_size=10), texts, st.data())
def test_a_search_finds_what_the_definition_says(
    found: dict[int, list[str]], query: list[str], data: st.DataObject
) -> None:
    documents = {number: " ".join(text) for number, text in found.items()}
    index = RecallIndex()
    for number, text in documents.items():
        index.add(number, text)
    gone = data.draw(st.sets(st.sampled_from(sorted(documents)))) if documents else set()
    for number in gone:
        index.remove(number, documents.pop(number))
    assert len(index) == len(documents)
    before = data.draw(st.none() | st.integers(0, 20))
    expected = scores(documents, " ".join(query))
    if before is not None:
        expected = {number: score for number, score in expected.items() if number < before}
    got = index.search(" ".join(query), 100, before)
    assert set(got) == set(expected)
    assert [expected[n] for n in got] == pytest.approx(sorted(expected.values(), reverse=True))
    assert index.search(" ".join(query), 2, before) == got[:2]


def test_of_a_common_word_the_latest_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recall, "MAX_POSTINGS", 10)
    index = RecallIndex()
    for number in range(100):
        rare = "dragon" if number == 3 else "cow"
        index.add(number, rare if number % 2 else f"{number} {number}")
    found = index.search("a dragon and a cow", 50)
    assert found[0] == 3  # the rare word first
    assert len(found) == 10
    assert min(found[1:]) > 80


def test_words_of_scripts_without_spaces() -> None:
    assert words("Hello, WORLD_1") == ["hello", "world_1"]
    assert words("龍を見た ok") == ["龍", "を", "見", "た", "ok"]
    index = RecallIndex()
    for number, text in enumerate(["龍を見た", "酒がない", "雨だ"]):
        index.add(number, text)
    assert index.search("あの龍は?", 3) == [0]


def test_an_index_follows_its_memory() -> None:
    memory = Memory()
    for i in range(8):
        memory.observe(f"Number {i}: a cart.", game_time=i)
    turn = memory.add_turn("Ann", "Have you seen my hat?", "A red one lay by the well.", 8)
    assert [found.index for found in memory.recall("the well", 3)] == [turn.index]
    memory.heard(turn.index, len("A red one"))
    assert memory.recall("the well", 3) == []
    assert [found.reply for found in memory.recall("red hat", 3)] == ["A red one"]
    late = memory.observe("A hat flies by.", 9)
    assert [found.index for found in memory.recall("hat", 3)] == [late.index, turn.index]
    memory.rewind(8)
    assert [found.index for found in memory.recall("hat", 3)] == [turn.index]
    loaded = Memory.from_value(memory.to_value())
    assert loaded.recall("hat", 3) == memory.recall("hat", 3)


@pytest.fixture
def mira(tiny_checkpoint: Path) -> Iterator[Agent]:
    with Runtime.load(tiny_checkpoint) as runtime:
        runtime.world("village", {"weather": "rain"})
        yield runtime.agent(
            "Mira", world="village", profile="An innkeeper.", memory_tokens=300, recall=2
        )


def remembered(agent: Agent, text: str) -> list[str]:
    blocks = agent.inspect(text)
    memory = [block for block in blocks if str(block["source"]).startswith("memory:")]
    assert sum(block["tokens"] for block in memory) <= 300  # type: ignore[misc]
    return [str(block["source"]) for block in memory]


def test_old_turns_come_back_before_the_latest(mira: Agent) -> None:
    mira.observe("Ann buried a silver key under the oak.")
    mira.observe("The silver bell rang.")
    for i in range(40):
        mira.observe(f"Cart number {i} passes by.")
    plain = remembered(mira, "How are you?")
    assert "memory:0" not in plain
    asked = remembered(mira, "Where is the silver key?")
    assert asked[:2] == ["memory:0", "memory:1"]
    assert asked[2:] == plain[-len(asked[2:]) :]
    assert len(asked) > 3
    assert [turn["index"] for turn in mira.recall("silver key", 1)] == [0]


def test_recalled_turns_are_encoded_once(mira: Agent) -> None:
    mira.say("player", "I buried a silver key under the oak.", max_tokens=2).text()
    for i in range(40):
        mira.observe(f"Cart number {i} passes by.")
    encoded = []
    for _ in range(2):
        reply = mira.say("player", "Where is the silver key?", max_tokens=2, remember=False)
        reply.text()
        assert reply.answer is not None
        encoded.append(reply.answer.usage.blocks_encoded)
    assert remembered(mira, "Where is the silver key?")[0] == "memory:0"
    assert encoded[1] == 0


def test_what_fits_is_not_recalled_twice(mira: Agent) -> None:
    for text in ("A silver key.", "A cow.", "A cart."):
        mira.observe(text)
    assert remembered(mira, "The silver key?") == ["memory:0", "memory:1", "memory:2"]


@pytest.mark.parametrize("recall_turns", [-1, 101])
def test_recall_is_a_small_number(mira: Agent, recall_turns: int) -> None:
    with Runtime(mira._engine.runner) as runtime:
        runtime.world("w", {})
        with pytest.raises(InvalidInput, match="0 to 100") as caught:
            runtime.agent("x", world="w", profile="", recall=recall_turns)
        assert caught.value.where == "recall"
