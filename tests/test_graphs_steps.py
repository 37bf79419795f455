"""Captured passes against the reference, step by step: no engine, so few packages are needed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import VOCAB, make_checkpoint
from triton_device import DEVICE, INTERPRETS

from game_agent.blocks.pool import pages_for
from game_agent.model.buckets import BUCKETS, Bucket
from game_agent.model.graphs import DecoderGraphs, capture_on_cuda
from game_agent.model.planner import (
    Run,
    Step,
    build_step,
    frame_segments,
    own_segment,
    page_slots,
)
from game_agent.model.runner import ModelRunner, load_runner
from game_agent_kernels import Segments

# All of it would take the interpreter minutes.
DIMS = (16,) if INTERPRETS else (16, 64, 128)
SIZES = (Bucket(2, 2, 1), Bucket(16, 16, 16), Bucket(64, 4, 64)) if INTERPRETS else BUCKETS
# So many that replies read them together.
LENGTHS = (17, 5, 17, 1, 17)
EVENT = 11


def steps(runner: ModelRunner) -> Iterator[Step]:
    """Blocks are encoded; an event with a changed block; two replies; a prompt in one frame."""
    rng = np.random.default_rng(0)
    half = len(runner.rope.inv_freq)
    blocks = [runner.pool.allocate(pages_for(n)) for n in LENGTHS]
    replies = [runner.pool.allocate(2) for _ in range(2)]
    prompt = runner.pool.allocate(4)
    distances = np.array([sum(LENGTHS[i:]) for i in range(len(LENGTHS))])
    far = frame_segments(list(zip(blocks, LENGTHS, strict=True)), distances, runner.rope)

    def run(
        pages: np.ndarray, first: int, count: int, context: Segments | None, wanted: int
    ) -> Run:
        last = first + count
        own = own_segment(pages, 0, last, half)
        segments = own if context is None else Segments.concat([context, own])
        tokens = rng.integers(0, VOCAB, count).astype(np.int32)
        return Run(tokens, first, page_slots(pages, first, last), segments, wanted)

    def encode(number: int) -> Run:
        return run(blocks[number], 0, LENGTHS[number], None, 0)

    yield build_step([encode(i) for i in range(len(LENGTHS))])
    yield build_step([encode(1), run(replies[0], 0, EVENT, far, 1)])
    yield build_step([run(replies[1], 0, EVENT, far, 2)])
    for place in range(EVENT, EVENT + 3):
        yield build_step([run(reply, place, 1, far, 1) for reply in replies])
    yield build_step([run(prompt, 0, 50, None, 1)])
    yield build_step([run(prompt, 50, 1, None, 1)])


@pytest.mark.parametrize("dim", DIMS)
def test_steps_replay_as_the_reference_computes(tmp_path: Path, dim: int) -> None:
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    folder = make_checkpoint(tmp_path, "qwen3", rope="llama3", head_dim=dim, **sizes)
    options = {"kv_memory_bytes": 2**22, "dtype": "float32", "device": DEVICE.type}
    plain = load_runner(folder, backend="reference", **options)  # type: ignore[arg-type]
    runner = load_runner(folder, backend="triton", **options)  # type: ignore[arg-type]
    capture = capture_on_cuda() if DEVICE.type == "cuda" else lambda run: run
    graphs = DecoderGraphs(runner.decoder, runner.pool, capture, buckets=SIZES)
    for number, (step, same) in enumerate(zip(steps(runner), steps(plain), strict=True)):
        got, expected = graphs.forward(step), plain.forward(same)
        assert got is not None, f"step {number} fits no size"
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
