"""A long reply costs what its tokens need, and nothing is kept behind it."""

from __future__ import annotations

import gc
import random
from pathlib import Path

import numpy as np
import psutil
import pytest

from game_agent.blocks.block import Block
from game_agent.engine import Engine, Request
from game_agent.model.runner import load_runner

NUM_STEPS = 10_000
ALLOWED_BYTES = 8 * 2**20


@pytest.mark.slow
def test_no_growth_over_ten_thousand_decode_steps(tiny_checkpoint: Path) -> None:
    engine = Engine(load_runner(tiny_checkpoint, kv_memory_bytes=2**24))
    engine.runner.stop_token_ids = frozenset()
    rng = random.Random(0)
    blocks = tuple(Block(np.array(rng.choices(range(5, 300), k=20), np.int32)) for _ in range(10))
    event = np.array(rng.choices(range(5, 300), k=10), np.int32)
    process = psutil.Process()

    def reply(num_tokens: int) -> None:
        done = engine.run([Request(blocks, event, max_tokens=num_tokens)])[0]
        assert done.usage.generated_tokens == num_tokens
        gc.collect()

    reply(NUM_STEPS)  # touches every page that the second will need
    objects, memory = len(gc.get_objects()), process.memory_info().rss
    reply(NUM_STEPS)
    assert len(gc.get_objects()) < objects + 1000
    assert process.memory_info().rss < memory + ALLOWED_BYTES
    engine.close()
