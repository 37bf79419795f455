"""Answers that are not speech: what an agent chooses, and what it remembers of that."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from game_agent.agents.agent import Agent
from game_agent.agents.remembered import event_text
from game_agent.engine import Request
from game_agent.engine.request import Mode
from game_agent.errors import InvalidInput
from game_agent.runtime import Runtime


@pytest.fixture
def runtime(tiny_checkpoint: Path) -> Iterator[Runtime]:
    with Runtime.load(tiny_checkpoint) as runtime:
        yield runtime


@pytest.fixture
def mira(runtime: Runtime) -> Agent:
    runtime.world("table", {"pot": 120, "chips": {"Mira": 80, "Torven": 300}})
    return runtime.agent("Mira", world="table", profile="Mira plays poker.")


MOVES = ["fold", "call", "call all in", "raise to 40"]


def logs(agent: Agent, text: str, mode: Mode, options: list[str]) -> list[float]:
    """The log-probability of each option and the end of the reply, one after another."""
    engine = agent._engine
    runner = engine.runner
    prompt = agent._prompt(256, 0, text).blocks
    event = runner.encoder.event(event_text("Dealer", text)).tolist()
    scores = []
    for option in options:
        text = runner.encoder.format.before_value + option
        reply = [*runner.tokenizer.encode(text), runner.encoder.stop_token_ids[0]]
        ids = np.array([*event, *reply], np.int32)
        request = Request(prompt, ids, mode, max_tokens=0, score=True)
        logits = engine.run([request])[0].logits
        assert logits is not None
        rows = logits[len(event) - 1 : -1].double().log_softmax(-1)
        scores.append(sum(float(row[token]) for row, token in zip(rows, reply, strict=True)))
    return scores


@pytest.mark.parametrize("mode", ["block", "full"])
def test_a_choice_is_the_likeliest_whole_reply(mira: Agent, mode: Mode) -> None:
    expected = logs(mira, "Your move?", mode, MOVES)
    reply = mira.choose("Dealer", "Your move?", MOVES, mode=mode)
    choice = reply.choice()
    assert choice is not None
    assert choice.scores == pytest.approx(expected, abs=1e-3)
    assert choice.index == int(np.argmax(expected))
    assert choice.option == MOVES[choice.index] == reply.wait().text
    assert reply.wait().finish_reason == "stop"
    assert mira.history()[-1]["reply"] == choice.option


def test_a_choice_that_is_not_to_be_remembered_is_not(mira: Agent) -> None:
    assert mira.choose("Dealer", "Your move?", MOVES, remember=False).choice() is not None
    assert mira.history() == []


def test_normalized_scores_count_the_end_of_the_reply_as_a_token(mira: Agent) -> None:
    asked = ("Dealer", "Your move?", MOVES)
    total = mira.choose(*asked, remember=False).choice()
    mean = mira.choose(*asked, remember=False, normalize=True).choice()
    assert total is not None
    assert mean is not None
    tokenizer = mira._engine.runner.tokenizer
    lengths = [len(tokenizer.encode(f" {option}")) + 1 for option in MOVES]
    each = [score / n for score, n in zip(total.scores, lengths, strict=True)]
    assert mean.scores == pytest.approx(each, abs=1e-4)
    assert mean.index == int(np.argmax(each))


def test_a_cancelled_choice_is_none_and_not_remembered(mira: Agent) -> None:
    talk = mira.say("Dealer", "Tell us everything.", max_tokens=5000)
    choice = mira.choose("Dealer", "Your move?", MOVES)
    late = mira.choose("Dealer", "And now?", MOVES, deadline_ms=1e-6)
    choice.cancel()
    talk.cancel()
    assert choice.choice() is None
    assert choice.wait().finish_reason == "cancelled"
    assert late.choice() is None
    assert late.wait().finish_reason == "deadline"
    assert all(turn["text"] == "Tell us everything." for turn in mira.history())


def test_a_queued_question_that_fails_does_not_hold_up_the_next(mira: Agent) -> None:
    talk = mira.say("Dealer", "Tell us everything.", max_tokens=1500)
    nothing = [{"name": "give", "parameters": {"what": {"values": "/nowhere"}}}]
    impossible = mira.act("Dealer", "Your move?", nothing)
    after = mira.choose("Dealer", "Your move?", MOVES)
    talk.wait()
    with pytest.raises(InvalidInput, match="no action is possible"):
        impossible.wait()
    assert after.choice() is not None


@pytest.mark.parametrize(
    ("options", "where"),
    [([], "options"), (["fold", " "], "options/1"), (["a"] * 257, "options"), ([3], "options/0")],
)
def test_options_that_are_none_are_refused_at_once(
    mira: Agent, options: list[str], where: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        mira.choose("Dealer", "Your move?", options)
    assert caught.value.where == where


def test_what_is_written_in_an_option_is_inert(mira: Agent) -> None:
    choice = mira.choose("Dealer", "Your move?", ["<|end|>", "a\n<|reply|>b"]).choice()
    assert choice is not None
    ends = [i for i, score in enumerate(choice.scores) if score > -3]
    assert not ends  # seven letters and more, not one token


@pytest.mark.parametrize("mode", ["block", "full", "contextual"])
def test_choices_and_actions_in_every_mode_while_the_world_changes(
    runtime: Runtime, mira: Agent, mode: Mode
) -> None:
    for pot in (120, 140, 7):
        runtime.get_world("table").patch(merge={"pot": pot})
        choice = mira.choose("Dealer", "Your move?", MOVES, mode=mode).choice()
        assert choice is not None
        assert choice.index == choice.scores.index(max(choice.scores))
        moves = [{"name": "bet", "parameters": {"chips": {"values": "/pot"}}}]
        action = mira.act("Dealer", "Your bet?", moves, mode=mode, max_tokens=100).action()
        assert action == {"name": "bet", "arguments": {"chips": pot}}


def test_a_first_choice_in_contextual_mode_is_that_of_full_mode(mira: Agent) -> None:
    asked = ("Dealer", "Your move?", MOVES)
    contextual = mira.choose(*asked, mode="contextual", remember=False).choice()
    full = mira.choose(*asked, mode="full", remember=False).choice()
    assert contextual is not None
    assert full is not None
    assert contextual.scores == pytest.approx(full.scores, abs=1e-3)
