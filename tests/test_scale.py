"""Long lives and big books: what they cost does not grow. (Slow; `make prove`.)"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from game_agent.agents.agent import Agent
from game_agent.agents.lore import Lorebook
from game_agent.agents.remembered import Remembered
from game_agent.config import EngineSettings
from game_agent.runtime import Runtime

pytestmark = pytest.mark.slow

NUM_TURNS = 10_000
WORDS = ("cart", "sheep", "monk", "song", "rain", "lamp", "horse", "letter", "coin", "storm")


@pytest.fixture
def runtime(tiny_checkpoint: Path) -> Iterator[Runtime]:
    with Runtime.load(tiny_checkpoint, settings=EngineSettings(kv_memory_bytes=2**27)) as runtime:
        runtime.world("village", {"weather": "rain", "inn": {"beds": 3}})
        yield runtime


def memory_tokens(agent: Agent, text: str) -> int:
    rows = agent.inspect(text)
    assert rows[0]["text"] == "You are Mira. Mira runs the inn. Be brief."
    own = [row for row in rows if str(row["source"]).startswith(("memory:", "summary:"))]
    return sum(row["tokens"] for row in own)  # type: ignore[misc]


@pytest.mark.parametrize(("recall", "summarize"), [(0, False), (3, False), (3, True)])
def test_ten_thousand_turns(runtime: Runtime, recall: int, summarize: bool) -> None:
    mira = runtime.agent(
        "Mira",
        world="village",
        profile="Mira runs the inn.",
        instructions="Be brief.",
        memory_tokens=400,
        recall=recall,
        summarize=summarize,
    )
    remembered = Remembered(mira._cache, mira.memory, mira.name)
    rng = random.Random(0)
    mira.observe("Ann buried a silver key under the oak.", game_time=0)
    mira.observe("The king pardoned Mira.", game_time=0, pinned=True)
    times_s: list[float] = []
    for number in range(NUM_TURNS):
        said = f"{' '.join(rng.choices(WORDS, k=8))} {number}"
        begun_s = time.perf_counter()
        mira.memory.add_turn("Player", said, "Is that so.", float(number))
        if summarize and (old := remembered.too_old(400, 2000)):
            mira.memory.sum_up(old[-1].index, f"Nothing much up to {old[-1].index}.")
        prompt = mira._prompt(16, 20, said)
        times_s.append(time.perf_counter() - begun_s)
        if number % 500 == 0:
            assert memory_tokens(mira, said) <= 400
            assert "memory:1" in prompt.sources
    early, late = times_s[500:1500], times_s[-1000:]
    # Flat, in the number of turns looked at and in time: ten times the turns, not twice the time
    # (the middle of a thousand, so that a busy machine does not decide).
    assert statistics.median(late) < 2 * statistics.median(early)
    if summarize:
        assert mira.memory.summed_up is not None
        assert mira.memory.summed_up.index > NUM_TURNS - 50
    asked = [str(row["source"]) for row in mira.inspect("Where is the silver key?")]
    assert ("memory:0" in asked) is bool(recall)
    reply = mira.say("Player", "Where is the silver key?", max_tokens=4)
    reply.text()
    assert reply.answer is not None
    assert reply.answer.usage.blocks < 60
    saved = runtime.save("village")
    shown = mira.inspect("And the oak?")
    assert mira.rewind(10) == NUM_TURNS - 11 + 1  # the question has no time: it goes with the last
    runtime.restore(saved)
    assert mira.inspect("And the oak?") == shown


def test_two_thousand_lore_entries(runtime: Runtime) -> None:
    entries = [
        {"keys": [f"word{i}x"], "content": f"Of word{i}x they say that it is number {i}."}
        for i in range(2000)
    ]
    runtime.get_world("village").lore = Lorebook({"entries": entries})
    mira = runtime.agent("Mira", world="village", profile="Mira runs the inn.")

    def encoded(numbers: list[int]) -> int:
        text = " ".join(f"word{i}x" for i in numbers)
        reply = mira.say("Player", text, max_tokens=1, remember=False)
        reply.text()
        assert reply.answer is not None
        assert reply.answer.usage.blocks == 22
        return reply.answer.usage.blocks_encoded

    first = [encoded(list(range(start, start + 20))) for start in range(0, 2000, 20)]
    assert first == [22, *[20] * 99]
    rng = random.Random(1)
    assert {encoded(rng.sample(range(2000), 20)) for _ in range(50)} == {0}
