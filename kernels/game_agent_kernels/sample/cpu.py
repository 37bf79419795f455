"""Compiled, for float32 on the CPU; anything else goes to torch."""

from __future__ import annotations

import torch
from torch import Tensor

from game_agent_kernels import native

# An extension that was built before there was this is as if there were none.
from game_agent_kernels._cpu import sample as _sample
from game_agent_kernels.sample import batch
from game_agent_kernels.sample.draws import Draws


def sample_rows(logits: Tensor, draws: Draws) -> Tensor:
    """Same contract as ``batch``."""
    if logits.ndim != 2 or not logits.shape[1] or not native.takes(logits):
        return batch.sample_rows(logits, draws)
    rows, vocab = logits.shape
    draws.check(rows)
    tokens = torch.empty(rows, dtype=torch.int64)
    _sample(logits.data_ptr(), rows, vocab, addresses(draws), tokens.data_ptr())
    return tokens


def addresses(draws: Draws) -> tuple[int, int, int, int]:
    """Of its arrays."""
    temperatures, top_ps, top_ks, chances = (array.ctypes.data for array in draws)
    return temperatures, top_ps, top_ks, chances
