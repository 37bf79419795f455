"""Padded passes through the words on the device, all but the capture itself."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from checkpoints import VOCAB, make_checkpoint
from triton_device import DEVICE

from game_agent.engine import Engine
from game_agent.engine.request import Mode
from game_agent.model.buckets import Bucket
from game_agent.model.graphs import Capture, DecoderGraphs, capture_on_cuda
from game_agent.model.planner import Step
from game_agent.model.runner import load_runner

BUCKETS = (Bucket(2, 2, 1), Bucket(16, 16, 16), Bucket(32, 4, 32))


def capture_on(device: torch.device) -> Capture:
    """Without a GPU the pass itself stands for its graph."""
    return capture_on_cuda() if device.type == "cuda" else lambda run: run


def ids(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(VOCAB) for _ in range(count)]


def test_replayed_passes_give_the_eager_logits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encodes, events and a step that fits no bucket, in both modes, through one engine."""
    shape = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    folder = make_checkpoint(tmp_path, "qwen3", rope="llama3", **shape)
    size = {"kv_memory_bytes": 2**22, "dtype": "float32", "device": DEVICE.type}
    eager = Engine(load_runner(folder, backend="reference", **size))  # type: ignore[arg-type]
    runner = load_runner(folder, backend="triton", **size)  # type: ignore[arg-type]
    heard: list[tuple[int, int]] = []
    graphs = DecoderGraphs(
        runner.decoder,
        runner.pool,
        capture_on(DEVICE),
        buckets=BUCKETS,
        progress=lambda done, total: heard.append((done, total)),
    )
    assert heard == [(1, 3), (2, 3), (3, 3)]
    taken: list[bool] = []

    def forward(step: Step) -> torch.Tensor:
        logits = graphs.forward(step)
        taken.append(logits is not None)
        return runner.decoder.forward(step, runner.pool) if logits is None else logits

    monkeypatch.setattr(runner, "forward", forward)
    engine = Engine(runner)
    rng = random.Random(0)
    prompts: list[tuple[Mode, list[int]]] = [
        ("block", [17, 5, 3]),
        ("block", [9, 6]),
        ("full", [12, 3]),
        ("block", [14, 6]),
        ("block", [1]),
    ]
    for mode, lengths in prompts:
        *blocks, event = [ids(rng, n) for n in lengths]
        got = engine.logits(blocks, event, mode)
        expected = eager.logits(blocks, event, mode)
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    assert taken == [True, True, True, False, True]
    engine.close()
    eager.close()


def test_a_full_pool_and_too_little_room_are_seen(tmp_path: Path) -> None:
    runner = load_runner(
        make_checkpoint(tmp_path), kv_memory_bytes=2**20, backend="triton", device=DEVICE.type
    )
    runner.pool.allocate(runner.pool.num_free)
    with pytest.raises(MemoryError):
        DecoderGraphs(runner.decoder, runner.pool, capture_on(DEVICE), buckets=BUCKETS)
