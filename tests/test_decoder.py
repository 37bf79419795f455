"""The forward pass in one call against the same kernels called one by one."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import VOCAB, make_checkpoint

from game_agent.engine import Engine, Request
from game_agent.model.decoder import Decoder
from game_agent.model.planner import Run, build_step, own_segment
from game_agent.model.runner import ModelRunner, load_runner

native = pytest.importorskip("game_agent_kernels.native", reason="the extension is not built")

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "biases": ("qwen2", {}),
    "head_norms": ("qwen3", {"head_dim": 32}),
    "tied": ("llama", {"tie_word_embeddings": True}),
    "one_layer": ("llama", {"num_hidden_layers": 1}),
    "bfloat16": ("llama", {"head_dim": 64, "dtype": "bfloat16"}),
}


def runners(folder: Path, **load: Any) -> tuple[ModelRunner, ModelRunner]:
    """The model with and without the compiled decoder."""
    compiled = load_runner(folder, kv_memory_bytes=2**24, backend="cpu", **load)
    plain = load_runner(folder, kv_memory_bytes=2**24, backend="cpu", **load)
    kernels = replace(plain.kernels, compile_decoder=None)
    plain.decoder = Decoder(plain.spec, plain.decoder.weights, kernels)
    assert compiled.decoder.is_compiled
    assert not plain.decoder.is_compiled
    for runner in (compiled, plain):
        runner.pool.keys.fill_(torch.nan)
        runner.pool.values.fill_(torch.nan)
    return compiled, plain


@pytest.mark.parametrize("mode", ["block", "full"])
@pytest.mark.parametrize("load", [{}, {"weights": "int8"}, {"kv_dtype": "bfloat16"}], ids=str)
@pytest.mark.parametrize("model", MODELS)
def test_same_bits(tmp_path: Path, model: str, load: dict[str, Any], mode: Any) -> None:
    """Logits of every row, with new blocks, with cached ones, and while decoding."""
    native.set_num_threads(2)
    family, config = MODELS[model]
    folder = make_checkpoint(tmp_path, family, **config)
    engines = [Engine(runner) for runner in runners(folder, **load)]
    rng = random.Random(0)
    blocks = [
        [rng.randrange(VOCAB) for _ in range(n)] for n in (5, 40, 700)
    ]  # the last: work for both threads
    event = [rng.randrange(VOCAB) for _ in range(23)]
    for prompt in (blocks, blocks, [*blocks[:1], *blocks[2:]]):
        one, many = (engine.logits(prompt, event, mode) for engine in engines)
        assert not one.isnan().any()
        assert torch.equal(one, many)
    request = Request((), torch.tensor(event, dtype=torch.int32).numpy(), mode, max_tokens=12)
    replies = [engine.run([request])[0].tokens for engine in engines]
    assert replies[0] == replies[1]
    for engine in engines:
        engine.close()


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    runner, _ = runners(make_checkpoint(tmp_path))
    engine = Engine(runner)
    engine.logits([[7, 8]], [9, 10])
    engine.close()
    compiled = runner.decoder.compiled
    assert compiled is not None
    pool = runner.pool

    def forward(**wrong: Any) -> None:
        half = runner.rope.inv_freq.shape[0]
        pages = torch.tensor([0], dtype=torch.int32).numpy()
        run = Run(pages, 0, torch.arange(1).numpy(), own_segment(pages, 0, 1, half), 1)
        step = build_step([run])
        arguments: dict[str, Any] = {
            "residual": torch.zeros(1, 64),
            "cos": torch.ones(1, half),
            "sin": torch.zeros(1, half),
            "slots": torch.zeros(1, dtype=torch.int64),
            "keys": pool.keys,
            "values": pool.values,
            "plan": step.plan,
            "out_rows": torch.zeros(1, dtype=torch.int64),
            "out_plan": step.out_plan,
        } | wrong
        compiled.forward(**arguments)

    forward()
    with pytest.raises(IndexError, match="outside the"):
        forward(slots=torch.tensor([pool.num_pages * 16]))
    with pytest.raises(IndexError, match="out_rows"):
        forward(out_rows=torch.tensor([1]))
    with pytest.raises(ValueError, match="1 rows"):
        forward(residual=torch.zeros(2, 64))
    with pytest.raises(TypeError, match="float32"):
        forward(residual=torch.zeros(1, 64, dtype=torch.float64))
    with pytest.raises(TypeError, match="int64"):
        forward(slots=torch.zeros(1, dtype=torch.int32))
    with pytest.raises(ValueError, match="keys"):
        forward(keys=pool.keys[:, :, :1].contiguous(), values=pool.values[:, :, :1].contiguous())
    with pytest.raises(ValueError, match="the plan"):
        forward(out_rows=torch.zeros(0, dtype=torch.int64))
