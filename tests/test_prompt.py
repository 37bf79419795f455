"""Which blocks a prompt has, in which order, and that they fit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from game_agent.agents.agent import Agent
from game_agent.agents.blockcache import BlockCache
from game_agent.agents.budget import MemoryBudget
from game_agent.agents.character import Character
from game_agent.agents.lore import Lorebook
from game_agent.agents.memory import Memory
from game_agent.agents.partition import partition
from game_agent.agents.prompt import build_prompt
from game_agent.errors import TooLarge
from game_agent.runtime import Runtime
from game_agent.text.formats import FORMATS

WORLD = {"weather": "rain", "inn": {"beds": 3}}
LORE = [
    {"keys": ["bell"], "content": "The bell is gone.", "position": "before_char"},
    {"keys": ["bell"], "content": "It was of silver.", "insertion_order": 3},
    {"keys": ["bell"], "content": "It hung here.", "position": "after_char"},
    {"keys": ["bell"], "content": "There was a war.", "position": "before_char"},
]


@pytest.fixture
def mira(tiny_checkpoint: Path) -> Iterator[Agent]:
    with Runtime.load(tiny_checkpoint) as runtime:
        runtime.world("village", WORLD)
        yield runtime.agent("Mira", world="village", profile="Mira runs the inn.")


def texts(agent: Agent, text: str) -> list[object]:
    return [block["text"] for block in agent.inspect(text)][:-1]


def test_lore_for_before_the_character_opens_the_prompt(mira: Agent) -> None:
    plain = texts(mira, "Hello")
    mira.world.lore = Lorebook({"entries": LORE[:3]})
    mira.lore = Lorebook({"entries": LORE[3:]})
    assert texts(mira, "The bell!") == [
        *("The bell is gone.", "There was a war."),
        *plain,
        *("It was of silver.", "It hung here."),
    ]
    assert texts(mira, "Hello") == plain


def test_what_moves_the_character_encodes_it_once(mira: Agent) -> None:
    def encoded(text: str) -> int:
        answer = mira.say("player", text, max_tokens=1, remember=False).wait()
        return answer.usage.blocks_encoded

    mira.lore = Lorebook({"entries": LORE})
    is_plain = mira._cache.encoder.format.name == "plain"
    first = encoded("Hello")
    # In the plain format a block reads the same wherever it stands.
    assert encoded("The bell!") == len(LORE) + (not is_plain)
    assert (encoded("Hello"), encoded("The bell!")) == (0, 0)
    assert first == len(texts(mira, "Hello"))


@pytest.fixture(scope="module")
def caches() -> Iterator[dict[str, BlockCache]]:
    with Runtime.load() as runtime:
        tokenizer = runtime.engine.runner.encoder.tokenizer
        encoder = type(runtime.engine.runner.encoder)
        yield {name: BlockCache(encoder(tokenizer, FORMATS[name])) for name in FORMATS}


@given(
    name=st.sampled_from(sorted(FORMATS)),
    positions=st.lists(st.sampled_from(["before_char", "after_char", ""]), max_size=4),
    max_tokens=st.integers(1, 200),
)
def test_a_prompt_has_no_more_tokens_than_it_may(
    caches: dict[str, BlockCache], name: str, positions: list[str], max_tokens: int
) -> None:
    character = Character("Mira", "Mira runs the inn.")
    entries = [
        {"keys": [], "constant": True, "content": f"Number {i}.", "position": position}
        for i, position in enumerate(positions)
    ]
    memory = Memory()
    for i in range(5):
        memory.observe(f"Somebody passes by, and it is number {i}.")
    parts = partition(WORLD).parts
    lore = [Lorebook({"entries": entries}).active([])]
    arguments = (caches[name], character, parts, lore, memory, max_tokens, MemoryBudget())
    try:
        prompt = build_prompt(*arguments)
    except TooLarge:
        return
    assert sum(map(len, prompt.blocks)) <= max_tokens
    at = prompt.sources.index("character")
    told = [positions[int(source[5:])] for source in prompt.sources if source.startswith("lore:")]
    assert told[:at] == ["before_char"] * at
    assert "before_char" not in told[at:]
    assert told[at:] == sorted(told[at:])
