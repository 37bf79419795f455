"""The runtime's logits against the Hugging Face model: the paper's 4D mask, and plain causal."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from checkpoints import ROPES, VOCAB, make_checkpoint, oracle, oracle_logits

from game_agent.config import EngineSettings
from game_agent.engine import Engine
from game_agent.model.runner import load_runner
from game_agent.model.spec import FAMILIES
from game_agent_kernels import available_backends

SHAPES: dict[str, dict[str, Any]] = {
    "gqa1": {"num_attention_heads": 4, "num_key_value_heads": 4},
    "gqa4": {"num_attention_heads": 8, "num_key_value_heads": 2},
    "gqa8": {"num_attention_heads": 8, "num_key_value_heads": 1},
    "head_dim_24": {"head_dim": 24},
    "head_dim_80": {"head_dim": 80},
    "head_dim_128": {"head_dim": 128, "num_attention_heads": 2, "num_key_value_heads": 1},
    # What most checkpoints are: on a processor with tile registers, tiles do the most of it.
    "bfloat16_64": {"head_dim": 64, "dtype": "bfloat16"},
    "one_layer": {"num_hidden_layers": 1},
    "tied": {"tie_word_embeddings": True},
}


def assert_close(folder: Path, prompts: list[list[list[int]]], **load: Any) -> None:
    """Both modes agree with the oracle within 1e-4 · max(1, |logits|) on every prompt."""
    engine = Engine(load_runner(folder, kv_memory_bytes=2**26, **load))
    model = oracle(folder)
    try:
        for *blocks, event in prompts:
            for mode in ("block", "full"):
                expected = oracle_logits(model, blocks, event, mode)
                got = engine.logits(blocks, event, mode)
                assert got.shape == expected.shape
                error = (got - expected).abs() / expected.abs().clamp_min(1)
                assert error.max() < 1e-4, (len(blocks), mode, float(error.max()))
    finally:
        engine.close()


def prompt(seed: int, lengths: list[int]) -> list[list[int]]:
    """Random token ids for blocks of these lengths, the last being the event."""
    rng = random.Random(seed)
    return [[rng.randrange(VOCAB) for _ in range(n)] for n in lengths]


PROMPTS = [
    prompt(0, [1, 1]),
    prompt(1, [17, 1, 33, 16, 5]),
    prompt(2, [27] * 9 + [100, 1, 50]),
]


@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_families_and_rope_types(tmp_path: Path, family: str, rope: str) -> None:
    assert_close(make_checkpoint(tmp_path, family, rope=rope), PROMPTS)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_shapes(tmp_path: Path, family: str, shape: str) -> None:
    assert_close(make_checkpoint(tmp_path, family, **SHAPES[shape]), PROMPTS)


def test_biases_everywhere(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, "llama", attention_bias=True, mlp_bias=True)
    assert_close(folder, PROMPTS)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("num_blocks", [1, 30, 300])
def test_number_of_blocks(tmp_path: Path, family: str, num_blocks: int) -> None:
    rng = random.Random(num_blocks)
    ones = prompt(3, [1] * num_blocks + [7])
    mixed = prompt(4, [rng.choice([1, 5, 15, 16, 17]) for _ in range(num_blocks)] + [40])
    assert_close(make_checkpoint(tmp_path, family, rope="yarn"), [ones, mixed])


@pytest.mark.parametrize("backend", available_backends())
def test_every_backend(tmp_path: Path, backend: str) -> None:
    assert_close(make_checkpoint(tmp_path, "qwen3", rope="llama3"), PROMPTS, backend=backend)


def test_far_positions(tmp_path: Path) -> None:
    """8K tokens, where float32 angles would be off by 5e-4."""
    folder = make_checkpoint(tmp_path, "llama", rope="yarn", num_hidden_layers=1)
    assert_close(folder, [prompt(5, [1000] * 8 + [20])])


@pytest.mark.parametrize("mode", ["block", "full"])
def test_steps_and_cache_do_not_change_logits(tmp_path: Path, mode: Any) -> None:
    """Chunks over block borders, blocks from the store, and one pass give the same numbers."""
    folder = make_checkpoint(tmp_path)
    *blocks, event = prompt(6, [40, 3, 70, 16, 25, 30])
    runner = load_runner(folder, kv_memory_bytes=2**24)
    from_chunks = Engine(runner, EngineSettings(step_tokens=64, max_running=8))
    first = from_chunks.logits(blocks, event, mode)
    again = from_chunks.logits(blocks, event, mode)
    from_chunks.close()
    whole = Engine(load_runner(folder, kv_memory_bytes=2**24))
    assert (whole.logits(blocks, event, mode) - first).abs().max() < 1e-4
    assert (again - first).abs().max() < 1e-4
    whole.close()
