"""Contextual mode: what is taken over, what is computed anew, and that the numbers are right."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import VOCAB, make_checkpoint, oracle, oracle_logits
from contextual_reference import Ids, PlainContextual, fresh_tokens
from hypothesis import given
from hypothesis import strategies as st

from game_agent.blocks.block import Block, chain_keys
from game_agent.config import EngineSettings
from game_agent.engine import Engine, Request
from game_agent.engine.contextual import ContextualCache, Version, match, plan_pieces
from game_agent.errors import InvalidInput
from game_agent.model.runner import load_runner
from game_agent.runtime import Runtime
from game_agent_kernels import available_backends

QUIET = EngineSettings(refresh_when_idle=False)


def block(ids: Sequence[int]) -> Block:
    return Block(np.array(ids, np.int32))


def new_text(rng: random.Random, lengths: Sequence[int] = range(1, 40)) -> Ids:
    return tuple(rng.randrange(5, VOCAB) for _ in range(rng.choice(lengths)))


def edited(rng: random.Random, blocks: list[Ids]) -> list[Ids]:
    """A copy after one edit: a change, an insertion, a deletion, or a move."""
    out = list(blocks)
    at = rng.randrange(len(out))
    kind = rng.choice(["change", "change", "insert", "delete", "move"])
    if kind == "change":
        out[at] = new_text(rng)
    elif kind == "insert":
        out.insert(at, new_text(rng))
    elif len(out) > 2:
        taken = out.pop(at)
        if kind == "move":
            out.insert(rng.randrange(len(out) + 1), taken)
    return out


def assert_close(got: torch.Tensor, expected: torch.Tensor) -> None:
    error = (got - expected).abs() / expected.abs().clamp_min(1)
    assert error.max() < 1e-4, float(error.max())


def assert_pages_add_up(engine: Engine) -> None:
    pool = engine.runner.pool
    assert pool.num_free + engine.store.num_block_pages == pool.num_pages


@pytest.fixture
def engine(tiny_checkpoint: Path) -> Iterator[Engine]:
    """One that does nothing unless it is asked."""
    engine = Engine(load_runner(tiny_checkpoint, kv_memory_bytes=2**24), QUIET)
    yield engine
    engine.close()


# The plan


@given(
    last=st.lists(st.integers(0, 12), unique=True, max_size=8),
    now=st.lists(st.integers(0, 12), unique=True, max_size=8),
    exact=st.lists(st.booleans(), min_size=8, max_size=8),
    repair_tokens=st.integers(0, 20),
)
def test_stretches_against_the_plain_rule(
    last: list[int], now: list[int], exact: list[bool], repair_tokens: int
) -> None:
    """Every token is computed anew, or not, as the rule says word for word."""
    texts = {i: (i,) * (1 + i % 5) for i in range(13)}
    blocks = [block(texts[i]) for i in now]
    chain = chain_keys(b"m", blocks)
    versions = []
    for i in last:
        key = chain[now.index(i)] if i in now and exact[now.index(i)] else None
        versions.append(Version(block(texts[i]), b"", 0, key))
    pieces = plan_pieces(versions, blocks, chain, repair_tokens)
    expected = fresh_tokens(
        [texts[i] for i in last], [texts[i] for i in now], repair_tokens, exact[: len(now)]
    )
    for i, piece, flags in zip(now, pieces, expected, strict=True):
        assert (piece.version is not None) == (i in last)
        assert flags == [at < piece.num_computed for at in range(len(flags))]


@given(st.lists(st.integers(0, 3), max_size=8), st.lists(st.integers(0, 3), max_size=8))
def test_equal_blocks_are_matched_once_each(last: list[int], now: list[int]) -> None:
    versions = [Version(block([i]), b"", 0, None) for i in last]
    found = match(versions, [block([i]) for i in now])
    taken = [at for at in found if at is not None]
    assert len(set(taken)) == len(taken)
    for i, at in zip(now, found, strict=True):
        assert at is None or last[at] == i
    for i in range(4):
        reused = sum(at is not None and last[at] == i for at in found)
        assert reused == min(last.count(i), now.count(i))
    if last == now:
        assert found == list(range(len(now)))


# The numbers


@pytest.mark.parametrize("backend", available_backends())
@pytest.mark.parametrize("repair_tokens", [0, 1, 16, 50])
def test_edits_against_plain_torch(tmp_path: Path, backend: str, repair_tokens: int) -> None:
    folder = make_checkpoint(tmp_path, "llama", rope="llama3")
    engine = Engine(load_runner(folder, kv_memory_bytes=2**24, backend=backend), QUIET)
    model = oracle(folder)
    for seed in range(3):
        rng = random.Random(seed)
        blocks = [new_text(rng) for _ in range(9)]
        plain, cache = PlainContextual(model, repair_tokens), ContextualCache(repair_tokens)
        for _ in range(8):
            event = new_text(rng)
            expected = plain.logits(blocks, event)
            assert_close(engine.logits(blocks, event, "contextual", cache), expected)
            blocks = edited(rng, edited(rng, blocks) if rng.random() < 0.3 else blocks)
    engine.close()
    assert_pages_add_up(engine)


def test_the_first_prompt_equals_full_mode(engine: Engine, tiny_checkpoint: Path) -> None:
    rng = random.Random(1)
    blocks, event = [new_text(rng) for _ in range(12)], new_text(rng)
    expected = oracle_logits(oracle(tiny_checkpoint), blocks, event, "full")
    cache = ContextualCache()
    for _ in range(2):
        assert_close(engine.logits(blocks, event, "contextual", cache), expected)


def test_repairing_everything_equals_full_mode(engine: Engine, tiny_checkpoint: Path) -> None:
    """With k as long as the prompt nothing is approximate, whatever the edits."""
    model, rng = oracle(tiny_checkpoint), random.Random(2)
    blocks, cache = [new_text(rng) for _ in range(8)], ContextualCache(10_000)
    for _ in range(6):
        event = new_text(rng)
        expected = oracle_logits(model, blocks, event, "full")
        assert_close(engine.logits(blocks, event, "contextual", cache), expected)
        blocks = edited(rng, blocks)


def test_small_steps_and_big_ones_agree(tiny_checkpoint: Path) -> None:
    rng = random.Random(3)
    prompts = [[new_text(rng) for _ in range(6)]]
    for _ in range(5):
        prompts.append(edited(rng, prompts[-1]))
    results = []
    for step_tokens in (7, 2048):
        settings = EngineSettings(step_tokens=step_tokens, max_running=4, refresh_when_idle=False)
        engine = Engine(load_runner(tiny_checkpoint, kv_memory_bytes=2**24), settings)
        cache = ContextualCache(20)
        results.append([engine.logits(p, (5, 6), "contextual", cache) for p in prompts])
        engine.close()
    for small, big in zip(*results, strict=True):
        assert_close(small, big)


# What it costs, and where it lies


def ask(
    engine: Engine, blocks: Sequence[Ids], cache: ContextualCache, **options: object
) -> Request:
    made = tuple(map(block, blocks))
    settings = {"max_tokens": 1, **options}
    event = np.array([7, 8], np.int32)
    return Request(made, event, mode="contextual", contextual=cache, **settings)  # type: ignore[arg-type]


def test_a_change_costs_itself_and_the_repair(engine: Engine) -> None:
    rng = random.Random(4)
    blocks = [new_text(rng, [30]) for _ in range(10)]
    cache = ContextualCache(40)
    first = engine.run([ask(engine, blocks, cache)])[0].usage
    assert (first.encoded_tokens, first.cached_tokens, first.blocks_encoded) == (300, 0, 10)
    blocks[3] = new_text(rng, [25])
    usage = engine.run([ask(engine, blocks, cache)])[0].usage
    # The changed block, all of the next and 10 tokens of the one after.
    assert (usage.encoded_tokens, usage.blocks_encoded) == (25 + 40, 3)
    assert usage.context_tokens == usage.cached_tokens + usage.encoded_tokens + 2
    assert engine.run([ask(engine, blocks, cache)])[0].usage.encoded_tokens == 0
    del blocks[0]
    assert engine.run([ask(engine, blocks, cache)])[0].usage.encoded_tokens == 40


def test_going_back_to_what_was_exact_costs_only_what_was_replaced(engine: Engine) -> None:
    rng = random.Random(5)
    before = [new_text(rng, [30]) for _ in range(6)]
    after = [*before[:2], new_text(rng, [30]), *before[3:]]
    cache = ContextualCache(10)
    for blocks in (before, after, before):
        usage = engine.run([ask(engine, blocks, cache)])[0].usage
    assert usage.encoded_tokens == 30 + 10
    assert [v is not None and v.exact is not None for v in cache.versions] == [
        True, True, True, False, True, True,
    ]  # fmt: skip


def test_only_the_last_prompt_is_kept(engine: Engine) -> None:
    rng = random.Random(6)
    blocks, cache = [new_text(rng) for _ in range(8)], ContextualCache(16)
    for _ in range(30):
        engine.run([ask(engine, blocks, cache)])
        assert len(engine.store) == len(cache.versions) == len(blocks)
        assert_pages_add_up(engine)
        blocks = edited(rng, blocks)


def test_agents_share_nothing(engine: Engine) -> None:
    rng = random.Random(7)
    blocks = [new_text(rng) for _ in range(5)]
    mine, other = ContextualCache(), ContextualCache()
    for cache in (mine, other):
        assert engine.run([ask(engine, blocks, cache)])[0].usage.cached_tokens == 0
    keys = [{v.key for v in cache.versions if v is not None} for cache in (mine, other)]
    assert not keys[0] & keys[1]
    assert all(key.startswith(b"c") for key in keys[0])


def test_two_questions_at_once(engine: Engine) -> None:
    """Each plans on what was there before; the last to end is what counts."""
    rng = random.Random(8)
    first = [new_text(rng) for _ in range(6)]
    cache = ContextualCache(16)
    engine.run([ask(engine, first, cache)])
    one, two = edited(rng, first), edited(rng, first)
    engine.run([ask(engine, one, cache, max_tokens=3), ask(engine, two, cache, max_tokens=9)])
    assert [v.block.tokens.tolist() for v in cache.versions if v is not None] == [
        list(text) for text in two
    ]
    assert engine.run([ask(engine, two, cache)])[0].usage.encoded_tokens == 0
    assert_pages_add_up(engine)


def test_memory_may_take_it_back(tiny_checkpoint: Path) -> None:
    """Agents that do not fit together push each other out, and every answer is right."""
    engine = Engine(load_runner(tiny_checkpoint, kv_memory_bytes=2**18), QUIET)
    model, rng = oracle(tiny_checkpoint), random.Random(9)
    room = engine.runner.pool.num_pages * 16
    prompts = [[new_text(rng, [40]) for _ in range(room // 3 // 48)] for _ in range(5)]
    caches = [ContextualCache(10_000) for _ in prompts]
    for turn in range(20):
        who = rng.randrange(5)
        got = engine.logits(prompts[who], (9, 9), "contextual", caches[who])
        if turn % 4 == 0:
            assert_close(got, oracle_logits(model, prompts[who], (9, 9), "full"))
        prompts[who] = edited(rng, prompts[who])
    assert engine.store.num_evicted
    engine.close()
    assert_pages_add_up(engine)


def test_a_prompt_that_never_ends_in_time_gets_ready_at_last(tiny_checkpoint: Path) -> None:
    engine = Engine(
        load_runner(tiny_checkpoint, kv_memory_bytes=2**24),
        EngineSettings(step_tokens=64, max_running=4, refresh_when_idle=False),
    )
    rng = random.Random(10)
    blocks, cache = [new_text(rng, [50]) for _ in range(8)], ContextualCache(16)
    encoded = []
    for _ in range(3):
        (sequence,) = engine._intake.put([(ask(engine, blocks, cache), _Nobody())], 0.0)
        for _ in range(3):
            engine.step()
        encoded.append(sequence.usage.encoded_tokens)
        engine._loop.finish(sequence, "deadline")
        assert_pages_add_up(engine)
    assert encoded == [400, 250, 100]


class _Nobody:
    def on_text(self, index: int, text: str) -> None: ...

    def on_done(self, completion: object) -> None: ...

    def on_error(self, error: object) -> None: ...


def test_a_cache_belongs_to_the_mode() -> None:
    event = np.array([5], np.int32)
    with pytest.raises(InvalidInput, match="contextual"):
        Request((), event, mode="contextual")
    with pytest.raises(InvalidInput, match="contextual"):
        Request((), event, mode="full", contextual=ContextualCache())


# The numbers on other shapes


@pytest.mark.parametrize("config", [{"head_dim": 64}, {"head_dim": 24}], ids=str)
@pytest.mark.parametrize("kv_dtype", ["float32", "bfloat16"])
def test_other_shapes(tmp_path: Path, config: dict[str, int], kv_dtype: str) -> None:
    """Runs of many rows, where tiles do the work. Looser with bfloat16: keys are rounded."""
    folder = make_checkpoint(tmp_path, "llama", **config)
    engine = Engine(load_runner(folder, kv_memory_bytes=2**25, kv_dtype=kv_dtype), QUIET)
    model, rng = oracle(folder), random.Random(11)
    plain, cache = PlainContextual(model, 30), ContextualCache(30)
    blocks = [new_text(rng, [40, 60]) for _ in range(6)]
    for _ in range(4):
        event = new_text(rng, [20])
        expected = plain.logits(blocks, event)
        got = engine.logits(blocks, event, "contextual", cache)
        error = (got - expected).abs() / expected.abs().clamp_min(1)
        assert error.max() < (1e-4 if kv_dtype == "float32" else 0.3)
        blocks = edited(rng, blocks)
    engine.close()


def test_options_are_scored_as_in_full_mode(engine: Engine) -> None:
    rng = random.Random(12)
    blocks = [new_text(rng) for _ in range(6)]
    options = tuple(np.array(new_text(rng, [1, 4, 9]), np.int32) for _ in range(5))
    cache = ContextualCache(10_000)
    engine.run([ask(engine, blocks, cache)])
    blocks = edited(rng, blocks)
    request = ask(engine, blocks, cache, max_tokens=0, options=options)
    mine = engine.run([request])[0].choice
    full = engine.run([replace(request, mode="full", contextual=None)])[0].choice
    assert mine is not None
    assert full is not None
    assert mine.index == full.index
    assert mine.scores == pytest.approx(full.scores, abs=1e-3)


# An agent


@pytest.fixture
def village(tiny_checkpoint: Path) -> Iterator[Runtime]:
    with Runtime.load(tiny_checkpoint, default_mode="contextual") as runtime:
        runtime.world("village", {"weather": "rain", "inn": {"beds": 3, "keeper": "Mira"}})
        runtime.agent("Mira", world="village", profile="Mira runs the inn.")
        yield runtime


def test_an_agent_in_contextual_mode(village: Runtime) -> None:
    agent, world = village.get_agent("Mira"), village.get_world("village")
    assert not any(row["cached"] for row in agent.inspect())
    agent.warm().wait()
    assert all(row["cached"] for row in agent.inspect())
    assert not any(row["cached"] for row in agent.inspect(mode="block"))
    reply = agent.say("player", "Hi", max_tokens=4)
    reply.text()
    assert reply.answer is not None
    assert reply.answer.usage.encoded_tokens == 0
    world.patch(merge={"weather": "sun"})
    assert [row["cached"] for row in agent.inspect()].count(False) == 2  # the world, and the turn


def test_a_save_holds_no_trace_of_it(village: Runtime) -> None:
    agent = village.get_agent("Mira")
    agent.observe("The door opens.")
    saved = village.save("village")
    first = agent.say("player", "Hi", max_tokens=6, remember=False).text()
    assert village.save("village") == saved
    agent.observe("A dog barks.")
    agent.say("player", "Hi", max_tokens=6, remember=False).text()
    village.restore(saved)
    # What was exact before the detour is exact after it.
    assert agent.say("player", "Hi", max_tokens=6, remember=False).text() == first


def test_repair_tokens_are_a_setting(tiny_checkpoint: Path) -> None:
    rng = random.Random(13)
    with pytest.raises(InvalidInput, match="repair_tokens"):
        EngineSettings(repair_tokens=-1)
    costs = []
    for repair_tokens in (0, 8):
        settings = EngineSettings(repair_tokens=repair_tokens, refresh_when_idle=False)
        with Runtime.load(tiny_checkpoint, default_mode="contextual", settings=settings) as runtime:
            runtime.world("village", {})
            agent = runtime.agent("Mira", world="village", profile=f"Mira {rng.random()}.")
            agent.observe("The door opens.")
            agent.warm().wait()
            runtime.agent("Mira", world="village", profile="Mira is gone.")
            reply = agent.say("player", "Hi", max_tokens=1, remember=False)
            reply.text()
            assert reply.answer is not None
            costs.append(reply.answer.usage.encoded_tokens)
    assert costs[1] == costs[0] + 8
