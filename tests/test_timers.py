"""Calls at their time, and questions that end at their deadline wherever they wait."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from game_agent.agents.agent import Agent
from game_agent.agents.ask import Answer, Ask, AskOptions
from game_agent.blocks.block import Block
from game_agent.clock import FakeClock
from game_agent.engine import Engine, Request
from game_agent.engine.pace import MIN_TOKENS, WINDOW, Pace
from game_agent.engine.timers import Timers
from game_agent.errors import GameAgentError
from game_agent.model.runner import load_runner
from game_agent.runtime import Runtime

PATIENCE_S = 20.0


@given(st.lists(st.tuples(st.integers(0, 20), st.booleans())), st.lists(st.integers(0, 25)))
def test_calls_come_once_in_order_and_never_early(
    timers: list[tuple[int, bool]], moments: list[int]
) -> None:
    own = Timers()
    made: list[tuple[int, int]] = []
    for number, (when_s, is_cancelled) in enumerate(timers):
        timer = own.add(when_s, lambda when_s=when_s, number=number: made.append((when_s, number)))  # type: ignore[misc]
        if is_cancelled:
            timer.cancel()
    wanted = sorted((w, n) for n, (w, is_cancelled) in enumerate(timers) if not is_cancelled)
    for moment in sorted(moments):
        for call in own.take_due(moment):
            call()
        assert made == [(w, n) for w, n in wanted if w <= moment]
        left = [w for w, _ in wanted if w > moment]
        assert own.next_s() == min(left, default=None)


def test_the_pace_is_the_best_of_late() -> None:
    pace = Pace()
    assert pace.at_least_s(1000) == 0
    pace.record(MIN_TOKENS - 1, 0.0)
    pace.record(100, 0.1)
    pace.record(100, 0.3)
    assert pace.at_least_s(1000) == pytest.approx(1.0)
    for _ in range(WINDOW):
        pace.record(100, 0.2)
    assert pace.at_least_s(1000) == pytest.approx(2.0)


def test_an_engine_calls_at_the_time_whether_it_works_or_not(tiny_checkpoint: Path) -> None:
    engine = Engine(load_runner(tiny_checkpoint, kv_memory_bytes=2**24))
    called = threading.Event()
    begun_s = time.monotonic()
    engine.call_at(begun_s + 3600, called.set)
    cancelled = engine.call_at(begun_s + 0.01, called.set)
    cancelled.cancel()
    assert not called.wait(0.1)
    engine.call_at(time.monotonic() + 0.05, called.set)
    assert called.wait(PATIENCE_S)
    assert time.monotonic() >= begun_s + 0.05
    engine.close()


class SlowClock(FakeClock):
    """Every look at it takes a second, so that every step does."""

    def now_s(self) -> float:
        self.advance(1.0)
        return super().now_s()


def test_what_cannot_make_it_ends_at_once(tiny_checkpoint: Path) -> None:
    clock = SlowClock()
    engine = Engine(load_runner(tiny_checkpoint, kv_memory_bytes=2**24), clock=clock)

    def ask(num_tokens: int, patience_s: float) -> tuple[str, float]:
        event = np.full(num_tokens, 7, np.int32)
        blocks = (Block(np.full(num_tokens, 8 + num_tokens % 50, np.int32)),)
        asked_s = clock.now_s()
        request = Request(blocks, event, max_tokens=1, deadline_s=asked_s + patience_s)
        reason = engine.run([request])[0].finish_reason
        return reason, clock.now_s() - asked_s

    assert ask(50, 1000)[0] == "length"  # a second for 100 tokens: now it knows
    steps = engine.metrics.snapshot()["steps"]
    reason, took_s = ask(4000, 60)
    assert (reason, engine.metrics.snapshot()["steps"]) == ("deadline", steps)
    assert took_s < 60
    assert ask(51, 1000)[0] == "length"
    engine.close()


class Ear:
    question: Ask

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.answer: Answer | None = None

    def on_text(self, index: int, text: str) -> None: ...

    def on_done(self, answer: Answer) -> None:
        self.answer = answer
        self.ended.set()

    def on_error(self, error: GameAgentError) -> None:
        raise AssertionError(error)


def ask(agent: Agent, text: str, deadline_ms: float | None, max_tokens: int = 4000) -> Ear:
    ear = Ear()
    options = AskOptions(max_tokens=max_tokens, deadline_ms=deadline_ms)
    ear.question = agent.ask(text, options, listener=ear)
    return ear


def test_a_question_that_waits_for_another_ends_at_its_own_deadline(tiny_checkpoint: Path) -> None:
    with Runtime.load(tiny_checkpoint) as runtime:
        runtime.world("w", {"x": 1})
        agent = runtime.agent("Mira", world="w", profile="Mira.")
        running = ask(agent, "Tell me everything", None)
        waiting = ask(agent, "How much?", 50)
        last = ask(agent, "Bye", None, max_tokens=2)
        assert waiting.ended.wait(PATIENCE_S)
        assert waiting.answer is not None
        assert (waiting.answer.text, waiting.answer.finish_reason) == ("", "deadline")
        assert waiting.answer.usage.queue_ms >= 50
        was_running = not running.ended.is_set()
        running.question.cancel()
        assert last.ended.wait(PATIENCE_S)
        assert was_running, "the one before had not ended"
        said = [turn["text"] for turn in agent.history()]
        assert said[-1] == "Bye"
        assert "How much?" not in said


def test_a_running_question_ends_at_its_deadline_with_what_it_has(tiny_checkpoint: Path) -> None:
    with Runtime.load(tiny_checkpoint) as runtime:
        runtime.world("w", {"x": 1})
        agent = runtime.agent("Mira", world="w", profile="Mira.")
        ask(agent, "Hello", None, max_tokens=2).ended.wait(PATIENCE_S)
        running = ask(agent, "Tell me everything", 200, max_tokens=12000)
        assert running.ended.wait(PATIENCE_S)
        assert running.answer is not None
        assert running.answer.finish_reason == "deadline"
        assert running.answer.text
        assert agent.history()[-1]["reply"] == running.answer.text
