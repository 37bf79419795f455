"""Placements of blocks against the Hugging Face model with the same mask and positions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import VOCAB, make_checkpoint, oracle
from torch import Tensor
from transformers import PreTrainedModel

from game_agent.blocks.block import Block
from game_agent.engine import Engine, Request
from game_agent.engine.placement import PLACEMENTS, origins
from game_agent.errors import InvalidInput
from game_agent.model.runner import load_runner

PLACES = {
    "prompt": [0, 3, 8, 10],
    "unmoved": [0, 0, 0, 10],
    "slots": [0, 5, 10, 15],
    "parallel": [0, 3, 3, 8],
}


@torch.inference_mode()
def expected_logits(
    model: PreTrainedModel, blocks: Sequence[Sequence[int]], event: Sequence[int], at: Sequence[int]
) -> Tensor:
    """Each block sees itself, the event all, at the positions given: [event, vocab]."""
    parts = [*blocks, event]
    ids = torch.tensor([token for part in parts for token in part])
    owner = torch.tensor([i for i, part in enumerate(parts) for _ in part])
    positions = torch.tensor([at[i] + t for i, part in enumerate(parts) for t in range(len(part))])
    seen = torch.ones(len(ids), len(ids)).tril().bool()
    seen &= (owner[:, None] == owner) | (owner == len(blocks))[:, None]
    mask = torch.zeros(len(ids), len(ids)).masked_fill_(~seen, torch.finfo(torch.float32).min)
    out = model(
        input_ids=ids[None],
        attention_mask=mask[None, None],
        position_ids=positions[None],
        logits_to_keep=len(event),
    )
    return out.logits[0]


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_where_blocks_stand(placement: str) -> None:
    lengths = np.array([3, 5, 2], np.int64)
    assert origins(placement, lengths).tolist() == PLACES[placement]  # type: ignore[arg-type]
    assert origins(placement, lengths[:0]).tolist() == [0]  # type: ignore[arg-type]


@pytest.mark.parametrize("rope", ["default", "llama3"])
def test_logits(tmp_path: Path, rope: str) -> None:
    folder = make_checkpoint(tmp_path, "llama", rope=rope)
    engine, model = Engine(load_runner(folder, kv_memory_bytes=2**24)), oracle(folder)
    rng = random.Random(0)
    for count in (0, 1, 7):
        lengths = [rng.randint(1, 40) for _ in range(count)]
        *blocks, event = [[rng.randrange(5, VOCAB) for _ in range(n)] for n in [*lengths, 9]]
        found = {}
        for placement in PLACEMENTS:
            at = origins(placement, np.array(lengths, np.int64)).tolist()
            expected = expected_logits(model, blocks, event, at)
            found[placement] = engine.logits(blocks, event, placement=placement)
            error = (found[placement] - expected).abs() / expected.abs().clamp_min(1)
            assert error.max() < 1e-4
        if count == 7:
            assert all((found["prompt"] - found[p]).abs().max() > 0.01 for p in PLACEMENTS[1:])
    engine.close()


def test_it_belongs_to_block_mode() -> None:
    block, event = Block(np.array([5], np.int32)), np.array([5], np.int32)
    with pytest.raises(InvalidInput, match="block mode"):
        Request((block,), event, mode="full", placement="slots")
    with pytest.raises(InvalidInput, match="one of prompt, unmoved"):
        Request((block,), event, placement="diagonal")  # type: ignore[arg-type]
