"""Contextual mode in idle time: what is approximate becomes exact, and delays nobody."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from checkpoints import VOCAB, make_checkpoint, oracle, oracle_logits

from game_agent.blocks.block import Block
from game_agent.config import EngineSettings
from game_agent.engine import Engine, Request, Waiter
from game_agent.engine.contextual import ContextualCache
from game_agent.model.runner import load_runner

EVENT = np.array([7, 8, 9], np.int32)


@pytest.fixture
def engine(tiny_checkpoint: Path) -> Engine:
    engine = Engine(load_runner(tiny_checkpoint, kv_memory_bytes=2**24))
    # Steps are taken by hand: the thread would take them whenever it likes.
    engine._start = lambda: None  # type: ignore[method-assign]
    return engine


def texts(rng: random.Random, count: int, length: int = 40) -> list[list[int]]:
    return [[rng.randrange(5, VOCAB) for _ in range(length)] for _ in range(count)]


def put(engine: Engine, blocks: Sequence[Sequence[int]], cache: ContextualCache) -> Waiter:
    made = tuple(Block(np.array(ids, np.int32)) for ids in blocks)
    waiter = Waiter()
    request = Request(made, EVENT, mode="contextual", max_tokens=0, score=True, contextual=cache)
    engine.submit(request, waiter)
    return waiter


def num_stale(cache: ContextualCache) -> int:
    pairs = zip(cache.versions, cache.chain, strict=True)
    return sum(version is None or version.exact != key for version, key in pairs)


def steps_until_idle(engine: Engine) -> list[int]:
    """Tokens of each step until nothing is left to do."""
    tokens = []
    while engine._loop.has_work():
        before = engine.metrics.snapshot().get("step_tokens", 0)
        engine.step()
        tokens.append(engine.metrics.snapshot().get("step_tokens", 0) - before)  # type: ignore[operator]
    return tokens


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_after_a_refresh_it_equals_full_mode(tmp_path: Path, family: str) -> None:
    folder = make_checkpoint(tmp_path, family, rope="yarn")
    engine = Engine(load_runner(folder, kv_memory_bytes=2**24))
    engine._start = lambda: None  # type: ignore[method-assign]
    rng, cache, model = random.Random(0), ContextualCache(16), oracle(folder)
    blocks = texts(rng, 10)
    put(engine, blocks, cache)
    steps_until_idle(engine)
    for edit in range(3):
        blocks[edit + 1] = texts(rng, 1)[0]
        blocks.insert(2, texts(rng, 1)[0])
        del blocks[7]
        first = put(engine, blocks, cache)
        engine.step()
        assert num_stale(cache)
        steps_until_idle(engine)
        assert not num_stale(cache)
        again = put(engine, blocks, cache)
        engine.step()
        expected = oracle_logits(model, blocks, EVENT.tolist(), "full")
        close, exact = (
            float((waiter.wait().logits - expected).abs().max())  # type: ignore[operator]
            for waiter in (first, again)
        )
        assert exact < 1e-4 * float(expected.abs().max())
        assert close > exact
        assert again.wait().usage.encoded_tokens == 0
        assert len(engine.store) == len(blocks)


def test_steps_are_short(engine: Engine) -> None:
    rng, cache = random.Random(1), ContextualCache(0)
    blocks = texts(rng, 6, length=100)
    put(engine, blocks, cache)
    steps_until_idle(engine)
    blocks[0] = texts(rng, 1)[0]
    put(engine, blocks, cache)
    engine.step()
    tokens = steps_until_idle(engine)
    assert sum(tokens) == 500
    assert max(tokens) <= engine.settings.idle_tokens
    assert not num_stale(cache)


def test_a_question_that_comes_meanwhile_counts_and_the_refresh_does_not(engine: Engine) -> None:
    rng, cache = random.Random(2), ContextualCache(16)
    blocks = texts(rng, 6, length=100)
    put(engine, blocks, cache)
    steps_until_idle(engine)
    blocks[0] = texts(rng, 1)[0]
    put(engine, blocks, cache)
    engine.step()
    engine.step()  # the refresh has begun
    assert len(engine._loop.running) == 1
    blocks[1] = texts(rng, 1)[0]
    waiter = put(engine, blocks, cache)
    engine.step()
    assert waiter._completion is not None
    assert [v.block.tokens.tolist() for v in cache.versions if v is not None] == blocks
    steps_until_idle(engine)
    assert not num_stale(cache)
    pool = engine.runner.pool
    assert pool.num_free + engine.store.num_block_pages == pool.num_pages
    assert len(engine.store) == len(blocks)


def test_every_agent_has_its_turn(engine: Engine) -> None:
    rng = random.Random(3)
    caches = [ContextualCache(8) for _ in range(3)]
    prompts = [texts(rng, 4) for _ in caches]
    for _ in range(2):
        for prompt, cache in zip(prompts, caches, strict=True):
            put(engine, prompt, cache)
            prompt[1] = texts(rng, 1)[0]
        steps_until_idle(engine)
    assert not any(map(num_stale, caches))


def test_it_can_be_left_out(tiny_checkpoint: Path) -> None:
    settings = EngineSettings(refresh_when_idle=False)
    engine = Engine(load_runner(tiny_checkpoint, kv_memory_bytes=2**24), settings)
    engine._start = lambda: None  # type: ignore[method-assign]
    rng, cache = random.Random(4), ContextualCache(8)
    blocks = texts(rng, 4)
    put(engine, blocks, cache)
    engine.step()
    blocks[1] = texts(rng, 1)[0]
    put(engine, blocks, cache)
    engine.step()
    assert not engine._loop.has_work()
    assert num_stale(cache)


def test_what_memory_took_back_is_not_refreshed(engine: Engine) -> None:
    rng, cache = random.Random(5), ContextualCache(8)
    blocks = texts(rng, 4)
    put(engine, blocks, cache)
    engine.step()
    blocks[1] = texts(rng, 1)[0]
    put(engine, blocks, cache)
    engine.step()
    assert cache.versions[0] is not None
    engine.store.discard(cache.versions[0].key)
    assert steps_until_idle(engine) == [0]
    assert num_stale(cache)
