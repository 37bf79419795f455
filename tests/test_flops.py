"""The formula for operations beside torch's own counter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import VOCAB, make_checkpoint
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from game_agent.blocks.block import Block
from game_agent.engine import Engine, Request
from game_agent.model.flops import Flops
from game_agent.model.runner import load_runner
from game_agent.model.spec import load_spec

SHAPES = [
    ("llama", {}),
    ("qwen2", {"num_key_value_heads": 4, "intermediate_size": 160}),
    ("qwen3", {"num_key_value_heads": 1, "head_dim": 32}),
]


@pytest.mark.parametrize(("family", "config"), SHAPES)
def test_logits_of_every_row_cost_what_torch_counts(
    tmp_path: Path, family: str, config: dict[str, int]
) -> None:
    """Hugging Face's model, token by token behind its cache: it multiplies what is visible only."""
    folder = make_checkpoint(tmp_path, family, **config)
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    flops = Flops.of(load_spec(folder))
    num_tokens, cache = 7, None
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        for token in range(num_tokens):
            out = model(torch.tensor([[token + 5]]), past_key_values=cache, use_cache=True)
            cache = out.past_key_values
    assert counter.get_total_flops() == flops.forward(num_tokens, 0, num_tokens)


def random_block(rng: np.random.Generator, count: int) -> Block:
    return Block(rng.integers(5, VOCAB, count).astype(np.int32))


@pytest.mark.parametrize("mode", ["block", "full"])
def test_one_row_behind_cached_blocks_costs_what_torch_counts(
    tiny_checkpoint: Path, mode: str
) -> None:
    """Our own pass in plain torch; one row, since causality would be a mask over more."""
    engine = Engine(load_runner(tiny_checkpoint, kv_memory_bytes=2**22, backend="reference"))
    rng = np.random.default_rng(0)
    blocks = tuple(random_block(rng, n) for n in (16, 33))
    event = np.array([7], np.int32)
    engine.run([Request(blocks, event, mode=mode, max_tokens=1)])  # type: ignore[arg-type]
    counter = FlopCounterMode(display=False)
    forward = engine.runner.forward

    def counted(step: object) -> torch.Tensor:
        with counter:  # a mode belongs to a thread: this is the engine's
            return forward(step)  # type: ignore[arg-type]

    engine.runner.forward = counted  # type: ignore[method-assign, assignment]
    usage = engine.run([Request(blocks, event, mode=mode, max_tokens=1)])[0].usage  # type: ignore[arg-type]
    engine.close()
    assert usage.flops == counter.get_total_flops() == engine.runner.flops.forward(1, 49, 1)


def test_usage_tells_what_was_saved(engine: Engine) -> None:
    rng = np.random.default_rng(1)
    flops = engine.runner.flops
    a, b, c = (random_block(rng, n) for n in (20, 30, 40))
    event = rng.integers(5, VOCAB, 10).astype(np.int32)
    first, full = (
        engine.run([Request((a, b), event, mode=mode, max_tokens=5)])[0].usage  # type: ignore[arg-type]
        for mode in ("block", "full")
    )
    assert first.flops == flops.forward(20) + flops.forward(30) + flops.forward(10, 50, 1)
    # In full mode the parts of a prefill add up to all of it.
    assert full.flops == full.full_flops == first.full_flops == flops.forward(60, 0, 1)
    changed = engine.run([Request((a, c), event, max_tokens=5)])[0].usage
    assert changed.flops == flops.forward(40) + flops.forward(10, 60, 1)
    assert changed.full_flops == flops.forward(70, 0, 1)
    made_ready = engine.run([Request((random_block(rng, 9),), event[:0], max_tokens=0)])[0].usage
    assert (made_ready.flops, made_ready.full_flops) == (flops.forward(9), 0)
    scored = engine.run([Request((a, c), event, max_tokens=0, score=True)])[0].usage
    assert scored.flops == flops.forward(10, 60, 10)
    stats = engine.metrics.snapshot()
    usages = (first, full, changed, made_ready, scored)
    assert stats["flops"] == sum(usage.flops for usage in usages)
    assert stats["full_flops"] == sum(usage.full_flops for usage in usages)
