"""A shared sink: blocks of block mode encoded behind it, against plain torch."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import VOCAB, make_checkpoint, oracle, oracle_logits
from contextual_reference import forward
from torch import Tensor
from transformers import PreTrainedModel

from game_agent.blocks.block import Block
from game_agent.config import EngineSettings
from game_agent.engine import Engine, Request
from game_agent.errors import InvalidInput
from game_agent.model.runner import load_runner
from game_agent.runtime import Runtime
from game_agent_kernels import available_backends


def plain(
    model: PreTrainedModel, sink: list[int], blocks: list[list[int]], event: list[int]
) -> Tensor:
    """Logits [event, vocab]: each block's keys and values from [sink, block], then moved."""
    config = model.config
    ids = torch.tensor([token for part in [sink, *blocks, event] for token in part])
    shape = (config.num_hidden_layers, len(ids), config.num_key_value_heads, config.head_dim)
    keys, values = torch.zeros(shape), torch.zeros(shape)
    at = len(sink)
    for block in [[], *blocks]:
        alone = torch.tensor([*sink, *block])
        rows = [*range(len(sink)), *range(at, at + len(block))]
        k, v = keys[:, rows].clone(), values[:, rows].clone()
        forward(model, alone, torch.ones(len(alone), dtype=torch.bool), k, v)
        keys[:, rows], values[:, rows] = k, v
        at += len(block)
    fresh = torch.arange(len(ids)) >= at
    return forward(model, ids, fresh, keys, values)


def prompt(rng: random.Random) -> tuple[list[list[int]], list[int]]:
    *blocks, event = (
        [rng.randrange(5, VOCAB) for _ in range(rng.randint(1, 40))] for _ in range(7)
    )
    return blocks, event


@pytest.mark.parametrize("backend", available_backends())
@pytest.mark.parametrize("step_tokens", [16, 2048])
def test_logits(tmp_path: Path, backend: str, step_tokens: int) -> None:
    folder = make_checkpoint(tmp_path, "llama", rope="llama3")
    runner = load_runner(folder, kv_memory_bytes=2**24, backend=backend, sink="Once upon a time.")
    assert runner.sink is not None
    settings = EngineSettings(step_tokens=step_tokens, max_running=4)
    engine, model, rng = Engine(runner, settings), oracle(folder), random.Random(0)
    sink = runner.sink.tokens.tolist()
    for _ in range(2):
        blocks, event = prompt(rng)
        blocks.append(sink)  # a block of the same text is another block
        for order in (blocks, blocks[::-1]):
            got = engine.logits(order, event)
            expected = plain(model, sink, order, event)
            assert ((got - expected).abs() / expected.abs().clamp_min(1)).max() < 1e-4
        full = engine.logits(blocks, event, "full")
        expected = oracle_logits(model, blocks, event, "full")
        assert ((full - expected).abs() / expected.abs().clamp_min(1)).max() < 1e-4
    engine.close()


def test_it_is_encoded_once_and_counted(tiny_checkpoint: Path) -> None:
    runner = load_runner(tiny_checkpoint, kv_memory_bytes=2**24, sink="Hm.")
    assert runner.sink is not None
    other = load_runner(tiny_checkpoint, kv_memory_bytes=2**24)
    assert runner.digest != other.digest
    num_sink = len(runner.sink)
    assert runner.max_context_tokens == other.max_context_tokens - num_sink
    engine = Engine(runner)
    assert not engine.has_sink
    event = np.array([7], np.int32)
    first, second = (
        engine.run([Request((Block(np.arange(5, 5 + n, dtype=np.int32)),), event, max_tokens=1)])[0]
        for n in (20, 30)
    )
    assert engine.has_sink
    assert first.usage.encoded_tokens == 20 + num_sink
    assert (second.usage.encoded_tokens, second.usage.cached_tokens) == (30, num_sink)
    engine.close()


def test_an_agent_behind_a_sink(tiny_checkpoint: Path) -> None:
    with Runtime.load(tiny_checkpoint, sink="Hm.") as runtime:
        runtime.world("village", {"weather": "rain"})
        agent = runtime.agent("Mira", world="village", profile="Mira runs the inn.")
        agent.warm().wait()
        rows = agent.inspect("Hi", speaker="player")
        assert [row["source"] for row in rows] == ["sink", "character", "world:", "event"]
        assert [row["cached"] for row in rows] == [True, True, True, False]
        reply = agent.say("player", "Hi", max_tokens=2, remember=False)
        reply.text()
        assert reply.answer is not None
        assert reply.answer.usage.encoded_tokens == 0
        assert reply.answer.usage.context_tokens == sum(row["tokens"] for row in rows)  # type: ignore[misc]
        assert "sink" not in [row["source"] for row in agent.inspect("Hi", mode="full")]


def test_a_sink_must_leave_room(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, "llama", max_position_embeddings=64)
    with pytest.raises(InvalidInput, match="the sink has"):
        load_runner(folder, kv_memory_bytes=2**20, sink="x" * 60)
