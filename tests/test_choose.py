"""Options scored side by side: the same as one by one, in one forward pass."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import VOCAB
from hypothesis import given
from hypothesis import strategies as st

from game_agent.blocks.block import Block
from game_agent.config import EngineSettings
from game_agent.engine import Choice, Engine, Request, Sampling
from game_agent.engine.request import Mode
from game_agent.errors import GameAgentError, InvalidInput, TooLarge
from game_agent.model.runner import load_runner

Ids = np.ndarray[Any, np.dtype[np.int32]]
MODES: tuple[Mode, ...] = ("block", "full")


def ids(rng: random.Random, n: int) -> Ids:
    return np.array([rng.randrange(5, VOCAB) for _ in range(n)], np.int32)


def question(
    rng: random.Random, lengths: Sequence[int], mode: Mode = "block", **settings: Any
) -> Request:
    return Request(
        tuple(Block(ids(rng, n)) for n in (33, 16, 7)),
        ids(rng, rng.randrange(1, 40)),
        mode,
        max_tokens=0,
        options=tuple(ids(rng, n) for n in lengths),
        **settings,
    )


def choose(engine: Engine, request: Request) -> Choice:
    choice = engine.run([request])[0].choice
    assert choice is not None
    return choice


def one_by_one(engine: Engine, request: Request) -> list[float]:
    """Each option's log-probability from the logits of the event that ends with it."""
    scores = []
    for option in request.options:
        event = [*request.event.tolist(), *option.tolist()]
        logits = engine.logits([b.tokens.tolist() for b in request.blocks], event, request.mode)
        rows = torch.log_softmax(logits[len(request.event) - 1 : -1].double(), -1)
        scores.append(float(rows[torch.arange(len(option)), torch.from_numpy(option).long()].sum()))
    return scores


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("lengths", [[1], [1, 1, 1], [1, 2, 17, 16, 40], [3] * 30])
def test_scores_are_those_of_one_by_one(engine: Engine, mode: Mode, lengths: list[int]) -> None:
    request = question(random.Random(len(lengths)), lengths, mode)
    choice = choose(engine, request)
    expected = one_by_one(engine, request)
    assert choice.scores == pytest.approx(expected, abs=1e-3)
    assert choice.index == int(np.argmax(choice.scores))


@pytest.mark.parametrize("mode", MODES)
def test_any_number_of_options_is_one_forward_pass(engine: Engine, mode: Mode) -> None:
    rng = random.Random(1)
    request = question(rng, [rng.randrange(1, 12) for _ in range(50)], mode)
    before = engine.metrics.snapshot()
    completion = engine.run([request])[0]
    after = engine.metrics.snapshot()
    # Blocks that were never seen, the event, and all options: one step.
    assert after["steps"] == before.get("steps", 0) + 1  # type: ignore[operator]
    assert completion.finish_reason == "stop"
    usage = completion.usage
    num_computed = sum(len(option) - 1 for option in request.options)
    assert usage.prefill_tokens == len(request.event) + num_computed
    assert usage.context_tokens == usage.encoded_tokens + usage.prefill_tokens
    assert usage.generated_tokens == 0
    assert engine.store.num_block_pages + engine.runner.pool.num_free == (
        engine.runner.pool.num_pages
    )


@pytest.mark.parametrize("mode", MODES)
def test_more_than_a_step_holds_is_scored_all_the_same(
    tiny_checkpoint: Path, engine: Engine, mode: Mode
) -> None:
    request = question(random.Random(2), [1, 9, 30, 5, 60, 2], mode)
    small = EngineSettings(step_tokens=23, max_running=8)
    slow = Engine(load_runner(tiny_checkpoint, kv_memory_bytes=2**24), small)
    scores = choose(slow, request).scores
    slow.close()
    assert scores == pytest.approx(choose(engine, request).scores, abs=1e-3)


def test_choices_and_replies_share_a_step(engine: Engine) -> None:
    rng = random.Random(3)
    requests: list[Request] = []
    for mode in MODES:
        requests += [
            question(rng, [4, 1, 7], mode),
            Request((Block(ids(rng, 20)),), ids(rng, 9), mode, max_tokens=6),
        ]
    together = engine.run(requests)
    for request, completion in zip(requests, together, strict=True):
        alone = engine.run([request])[0]
        assert completion.tokens == alone.tokens
        if completion.choice is not None and alone.choice is not None:
            assert completion.choice.scores == pytest.approx(alone.choice.scores, abs=1e-3)


def test_normalized_scores_are_means(engine: Engine) -> None:
    request = question(random.Random(4), [1, 5, 9])
    sums = choose(engine, request).scores
    means = choose(
        engine,
        Request(
            request.blocks,
            request.event,
            max_tokens=0,
            options=request.options,
            normalize=True,
        ),
    ).scores
    lengths = [1, 5, 9]
    assert means == pytest.approx([s / n for s, n in zip(sums, lengths, strict=True)], abs=1e-4)


@given(st.integers(0, 2**16), st.lists(st.integers(0, 3), min_size=1, max_size=8))
def test_equal_options_have_equal_scores_and_the_first_wins(
    shared_engine: Engine, seed: int, drawn: list[int]
) -> None:
    rng = random.Random(seed)
    kinds = [ids(rng, rng.randrange(1, 6)) for _ in range(4)]
    request = Request((), ids(rng, 5), max_tokens=0, options=tuple(kinds[i] for i in drawn))
    choice = choose(shared_engine, request)
    for a, score_a in zip(drawn, choice.scores, strict=True):
        for b, score_b in zip(drawn, choice.scores, strict=True):
            assert a != b or score_a == score_b
    assert choice.index == choice.scores.index(max(choice.scores))


@pytest.fixture(scope="module")
def shared_engine(tiny_checkpoint: Path) -> Iterator[Engine]:
    engine = Engine(load_runner(tiny_checkpoint, kv_memory_bytes=2**22))
    yield engine
    engine.close()


def test_above_temperature_0_options_are_drawn_by_their_scores(engine: Engine) -> None:
    rng = random.Random(5)
    blocks, event = (Block(ids(rng, 20)),), ids(rng, 5)
    options = tuple(np.array([token], np.int32) for token in (20, 30, 40))

    def drawn(temperature: float, seed: int) -> int:
        sampling = Sampling(temperature, 1.0, seed)
        request = Request(blocks, event, max_tokens=0, sampling=sampling, options=options)
        return choose(engine, request).index

    best = drawn(0.0, 0)
    assert {drawn(0.0, seed) for seed in range(5)} == {best}
    assert drawn(30.0, 7) == drawn(30.0, 7)
    assert {drawn(30.0, seed) for seed in range(40)} == {0, 1, 2}


def test_what_cannot_be_chosen_from_is_refused(engine: Engine) -> None:
    rng = random.Random(6)
    event = ids(rng, 3)
    option = (ids(rng, 2),)
    empty = np.empty(0, np.int32)
    for wrong in (
        {"event": empty, "options": option, "blocks": (Block(event),)},
        {"event": event, "options": (empty,)},
        {"event": event, "options": option, "max_tokens": 3},
        {"event": event, "options": option, "score": True},
    ):
        with pytest.raises(InvalidInput):
            Request(**{"blocks": (), "max_tokens": 0, **wrong})  # type: ignore[arg-type]
    outside = Request((), event, max_tokens=0, options=(np.array([VOCAB], np.int32),))
    with pytest.raises(InvalidInput, match="outside the vocabulary"):
        engine.run([outside])
    with pytest.raises(TooLarge):
        engine.run([Request((), event, max_tokens=0, options=(ids(rng, 16_384),))])


def test_logits_that_are_no_numbers_are_an_error(engine: Engine) -> None:
    request = question(random.Random(7), [2, 3])
    head = engine.runner.decoder.weights.head.weight
    good = head.clone()
    head.fill_(float("nan"))
    with pytest.raises(GameAgentError, match="no option could be chosen"):
        engine.run([request])
    head.copy_(good)
    assert len(choose(engine, request).scores) == 2
