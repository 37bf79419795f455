"""What is too old for a prompt is summed up by the model in idle time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from game_agent.agents.agent import Agent
from game_agent.agents.blockcache import BlockCache
from game_agent.agents.budget import MemoryBudget
from game_agent.agents.memory import Memory
from game_agent.agents.remembered import Remembered
from game_agent.agents.summary import INSTRUCTION, RETRY_TURNS, whole_sentences
from game_agent.engine import Engine, Request
from game_agent.errors import NotFound, Overloaded
from game_agent.runtime import Runtime

BUDGET = 300


@pytest.fixture
def runtime(tiny_checkpoint: Path) -> Iterator[Runtime]:
    with Runtime.load(tiny_checkpoint) as runtime:
        runtime.world("village", {"weather": "rain"})
        yield runtime


@pytest.fixture
def mira(runtime: Runtime) -> Agent:
    agent = runtime.agent(
        "Mira", world="village", profile="An innkeeper.", memory_tokens=BUDGET, summarize=True
    )
    agent.say("player", "Hello", max_tokens=2).text()
    return agent


def live(agent: Agent, num_events: int, start: int = 0) -> None:
    """Events so far apart that there is time for a summary between them."""
    for i in range(start, start + num_events):
        agent.observe(f"Cart number {i} passes by.", game_time=i)
        end_s = time.monotonic() + 60
        while agent._summarizer._is_busy and time.monotonic() < end_s:
            time.sleep(0.001)


def summed_up(agent: Agent) -> int:
    """The index of the turn up to which all is summed up."""
    turn = agent.memory.summed_up
    assert turn is not None
    return turn.index


def sources(agent: Agent) -> list[str]:
    blocks = agent.inspect("Hi")
    own = [b for b in blocks if str(b["source"]).startswith(("memory:", "summary:"))]
    assert sum(b["tokens"] for b in own) <= BUDGET  # type: ignore[misc]
    assert [b["source"] for b in blocks[:2]] == ["character", "world:"]
    return [str(b["source"]) for b in own]


def spoken(monkeypatch: pytest.MonkeyPatch, engine: Engine, text: str) -> list[Request]:
    """Have the engine answer what is for idle time with ``text``; returns what it was asked."""
    asked: list[Request] = []
    finish = engine._loop.finish

    def submit_all(pairs, given=engine.submit_all):  # type: ignore[no-untyped-def]
        asked.extend(request for request, _ in pairs if request.is_idle)
        return given(pairs)

    def say(sequence, reason) -> None:  # type: ignore[no-untyped-def]
        if sequence.request.is_idle:
            sequence.text[:] = [text]
        finish(sequence, reason)

    monkeypatch.setattr(engine, "submit_all", submit_all)
    monkeypatch.setattr(engine._loop, "finish", say)
    return asked


def test_old_turns_are_replaced_by_their_summary(
    mira: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = spoken(monkeypatch, mira._engine, "Carts passed. Nothing\nwas stolen. Then")
    live(mira, 30)
    index = summed_up(mira)
    shown = sources(mira)
    assert shown[0] == f"summary:{index}"
    assert shown[1] == f"memory:{index + 1}"
    assert shown[-1] == "memory:30"
    texts = [str(block["text"]) for block in mira.inspect("Hi")]
    assert "Summary of what happened before: Carts passed. Nothing was stolen." in texts
    # The next one is made of the last and of what came since.
    live(mira, 30, 30)
    later = summed_up(mira)
    assert later > index
    assert sources(mira)[0] == f"summary:{later}"
    tokenizer = mira._cache.encoder.tokenizer
    asked_texts = [tokenizer.decode(block.tokens.tolist()) for block in asked[1].blocks]
    assert asked_texts[0].endswith("You are Mira. An innkeeper.")
    assert "Nothing was stolen." in asked_texts[1]
    first = next(turn.index for turn in mira.memory.turns() if turn.summary)
    assert asked_texts[2].endswith(f"Cart number {first} passes by.")  # the turn after that one
    assert INSTRUCTION in tokenizer.decode(asked[1].event.tolist())
    # All of the history is still there.
    assert len(mira.history()) == 61


def test_rewinding_forgets_a_summary_of_the_future(
    mira: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoken(monkeypatch, mira._engine, "Carts passed.")
    live(mira, 30)
    first = summed_up(mira)
    live(mira, 30, 30)
    second = summed_up(mira)
    assert second > first
    mira.rewind(second - 2)
    assert first <= summed_up(mira) < second
    earliest = next(turn.index for turn in mira.memory.turns() if turn.summary)
    mira.rewind(earliest - 2)
    assert mira.memory.summed_up is None
    assert not any(source.startswith("summary") for source in sources(mira))


def test_a_summary_is_saved(runtime: Runtime, mira: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    spoken(monkeypatch, mira._engine, "Carts passed.")
    live(mira, 30)
    summed_up(mira)
    shown, saved = sources(mira), runtime.save("village")
    mira.memory = Memory()
    runtime.restore(saved)
    assert sources(mira) == shown
    assert runtime.save("village") == saved


def test_what_was_changed_meanwhile_is_not_summed_up(mira: Agent) -> None:
    mira.budget = MemoryBudget(BUDGET)
    live(mira, 30)
    mira.memory.pin(2)
    summarizer = mira._summarizer
    turns = tuple(replace(turn) for turn in mira.memory.turns()[:5])
    summarizer.finished(mira.memory, None, turns, "A lie.")
    assert mira.memory.summed_up is None
    summarizer.finished(mira.memory, None, mira.memory.turns()[:5], "The truth.")
    assert mira.memory.summed_up == mira.memory.turns()[4]
    # Made without the summary that is there by now.
    summarizer.finished(mira.memory, None, mira.memory.turns()[5:9], "Half the truth.")
    assert mira.memory.summed_up == mira.memory.turns()[4]


def test_a_failure_leaves_out_the_oldest_and_is_tried_again_later(
    mira: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []

    def refuse(request: Request, listener: object) -> None:
        attempts.append(mira.memory.next_index)
        raise Overloaded("too much to do", retry_after_ms=1)

    with monkeypatch.context() as patch:
        patch.setattr(mira._engine, "submit", refuse)
        live(mira, 40)
    assert len(attempts) > 1
    assert {b - a for a, b in pairwise(attempts)} == {RETRY_TURNS}
    shown = sources(mira)
    assert shown[-1] == "memory:40"
    assert not any(source.startswith("summary") for source in shown)
    spoken(monkeypatch, mira._engine, "Carts passed.")
    live(mira, RETRY_TURNS, 40)
    summed_up(mira)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Thr", "One. Two!"),
        ('He said "No." And', 'He said "No."'),
        ("3.5 carts", ""),
        ("一つ。 二", "一つ。"),
        ("", ""),
    ],
)
def test_what_was_cut_short_ends_with_a_sentence(text: str, expected: str) -> None:
    assert whole_sentences(text) == expected


def test_only_a_turn_that_is_there_can_have_a_summary() -> None:
    with pytest.raises(NotFound):
        Memory().sum_up(0, "x")


turns = st.lists(st.tuples(st.integers(1, 12), st.booleans(), st.booleans()), max_size=25)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    turns,
    st.integers(0, 200),
    st.builds(MemoryBudget, st.none(), st.integers(0, 3), st.booleans()),
    st.none() | st.just("word3 word5"),
)
def test_a_prompt_holds_what_it_may_of_any_memory(
    engine: Engine,
    made: list[tuple[int, bool, bool]],
    room: int,
    budget: MemoryBudget,
    query: str | None,
) -> None:
    memory = Memory()
    for number, (num_words, is_pinned, is_summed) in enumerate(made):
        text = " ".join(f"word{number}" for _ in range(num_words))
        memory.observe(text, pinned=is_pinned)
        if is_summed:
            memory.sum_up(number, f"Up to {number}.")
    remembered = Remembered(BlockCache(engine.runner.encoder), memory, "Mira")
    entries = remembered.entries(room, budget, query)
    assert sum(len(block) for _, block in entries) <= room
    names = [source for source, _ in entries]
    assert len(set(names)) == len(names)
    indices = [int(name.partition(":")[2]) for name in names if name.startswith("memory")]
    assert indices == sorted(indices)
    assert sum(name.startswith("summary") for name in names) <= budget.summarize
    if len(memory) and not budget.recall and not budget.summarize and indices:
        # Without gaps, but for turns that are pinned.
        unpinned = [i for i in indices if not made[i][1]]
        assert all(i in indices for i in range(min(unpinned, default=99), len(made)))
    # What is to be summed up follows the last summary, and is nothing that is always shown.
    old = remembered.too_old(room, 10_000)
    last = memory.summed_up
    since = -1 if last is None else last.index
    assert [turn.index for turn in old] == list(range(since + 1, since + 1 + len(old)))
    if sum(len(remembered.block(turn)) for turn in memory.turns()) + 40 <= room:
        assert old == []
