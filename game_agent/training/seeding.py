"""A start from which copying is learnt at once: heads that look up what followed a token before.

Idea: mimetic initialisation (arXiv 2305.09828), here for the two-layer induction circuit of Olsson
et al. (arXiv 2209.11895).
"""

from __future__ import annotations

import torch
from torch import Tensor

from game_agent.training.network import Attention, Network

CONSTANT = 4.0  # embedding channel 0 is this for all tokens: what position heads are driven by
POSITION_SHARPNESS = 1.95
NUM_POSITION_PAIRS = 12
MATCH_SHARPNESS = 2.4
COPY_STRENGTH = 1.5
HEAD_STRENGTH = 0.15
DAMPING = 0.3  # of all other attention, so that it does not disturb


@torch.no_grad()
def seed_induction(network: Network, generator: torch.Generator) -> None:
    """Layer 0 carries the one and the two tokens before to each token; layers 1 and 2 match the
    present token against the one carried, and copy what they find to the output.

    The network must have three layers, two heads and as many key heads as heads.
    """
    size = network.size
    first, *others = (layer.self_attn for layer in network.layers)
    embedding = network.model.embed_tokens.weight
    embedding[:, 0] = CONSTANT
    for attention in (first, *others):
        attention.q_proj.weight *= DAMPING
        attention.k_proj.weight *= DAMPING
    reads, writes = [], []
    for head, offset in enumerate((1, 2)):
        read, write = (_frame(size.head_dim, size.hidden_size, generator) for _ in range(2))
        _look_back(first, head, offset, network.inverse_frequencies)
        rows = _rows(head, size.head_dim)
        first.v_proj.weight[rows] = read
        first.o_proj.weight[:, rows] = write.T
        reads.append(read)
        writes.append(write)
    content, copied = (_frame(size.head_dim, size.hidden_size, generator) for _ in range(2))
    for attention in others[:2]:
        rows = _rows(0, size.head_dim)
        attention.q_proj.weight[rows] = _slow(reads[0]) * MATCH_SHARPNESS
        attention.k_proj.weight[rows] = _slow(writes[0]) * MATCH_SHARPNESS
        attention.v_proj.weight[rows] = content
        attention.o_proj.weight[:, rows] = copied.T * COPY_STRENGTH / 2
    network.lm_head.weight.copy_(HEAD_STRENGTH * (embedding @ content.T) @ copied)


def _rows(head: int, head_dim: int) -> slice:
    return slice(head * head_dim, (head + 1) * head_dim)


def _frame(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Orthonormal rows [rows, columns] that do not read the constant channel."""
    matrix = torch.randn(columns - 1, rows, generator=generator)
    return torch.cat([torch.zeros(rows, 1), torch.linalg.qr(matrix)[0].T], 1)


def _look_back(attention: Attention, head: int, offset: int, frequencies: Tensor) -> None:
    """Scores Σ cos(ω (distance − offset)) over the fastest rotary pairs: highest at ``offset``."""
    half = len(frequencies)
    num_pairs = min(NUM_POSITION_PAIRS, half)
    angles = frequencies[:num_pairs] * offset
    rows = _rows(head, 2 * half)
    query, key = torch.zeros(2 * half), torch.zeros(2 * half)
    query[:num_pairs] = POSITION_SHARPNESS
    key[:num_pairs] = POSITION_SHARPNESS * angles.cos()
    key[half : half + num_pairs] = POSITION_SHARPNESS * angles.sin()
    for weight, values in ((attention.q_proj.weight, query), (attention.k_proj.weight, key)):
        weight[rows] *= DAMPING
        weight[rows, 0] = values


def _slow(matrix: Tensor) -> Tensor:
    """The first half of its rows, on the slower rotary pairs, where distance is not felt."""
    quarter = len(matrix) // 4
    result = torch.zeros_like(matrix)
    result[quarter : 2 * quarter] = matrix[:quarter]
    result[3 * quarter :] = matrix[quarter : 2 * quarter]
    return result
