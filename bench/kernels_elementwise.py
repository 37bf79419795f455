"""The fused element-wise kernels beside their references in plain torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from game_agent_kernels import Draws
from game_agent_kernels.rms_norm import cpu as norm_cpu
from game_agent_kernels.rms_norm import reference as norm_reference
from game_agent_kernels.rope_store import cpu as store_cpu
from game_agent_kernels.rope_store import reference as store_reference
from game_agent_kernels.sample import batch as sample_batch
from game_agent_kernels.sample import cpu as sample_cpu
from game_agent_kernels.silu_mul import cpu as silu_cpu
from game_agent_kernels.silu_mul import reference as silu_reference

HIDDEN, INNER, HEADS, DIM, VOCAB = 256, 512, 4, 64, 3072
Operation = Callable[[], "Tensor | tuple[Tensor, ...]"]


def cases(rows: int) -> Iterator[tuple[str, Operation, Operation, float]]:
    """(name, compiled, reference, bytes read and written) of each, in the bundled model's shape."""
    x, residual = torch.randn(rows, HIDDEN), torch.randn(rows, HIDDEN)
    weight = torch.rand(HIDDEN)
    yield (
        "residual + RMSNorm",
        partial(norm_cpu.add_rms_norm, x, residual, weight, 1e-6),
        partial(norm_reference.add_rms_norm, x, residual, weight, 1e-6),
        4 * x.nbytes,
    )
    gate_up = torch.randn(rows, 2 * INNER)
    yield (
        "SiLU × up",
        partial(silu_cpu.silu_mul, gate_up),
        partial(silu_reference.silu_mul, gate_up),
        1.5 * gate_up.nbytes,
    )
    qkv = torch.randn(rows, 3 * HEADS * DIM)
    angles = torch.rand(rows, DIM // 2)
    cos, sin = angles.cos(), angles.sin()
    slots = torch.arange(rows)
    pages = -(-rows // 16)
    ours, theirs = (_pages(pages), _pages(pages))
    yield (
        "RoPE + paged write",
        lambda: (store_cpu.rope_store(qkv, cos, sin, slots, *ours, num_heads=HEADS), *ours),
        lambda: (
            store_reference.rope_store(qkv, cos, sin, slots, *theirs, num_heads=HEADS),
            *theirs,
        ),
        2 * qkv.nbytes,
    )

    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(0, 3, (rows, VOCAB)).astype(np.float32))
    full = partial(np.full, rows, dtype=np.float32)
    draws = Draws(full(0.8), full(0.95), np.zeros(rows, np.int64), rng.random(rows, np.float32))
    yield (
        "draw, top-p 0.95",
        partial(sample_cpu.sample_rows, logits, draws),
        partial(sample_batch.sample_rows, logits, draws),
        logits.nbytes,
    )


def _pages(count: int) -> tuple[Tensor, Tensor]:
    return torch.zeros(count, HEADS, DIM, 16), torch.zeros(count, HEADS, 16, DIM)


def agree(ours: Operation, theirs: Operation) -> bool:
    """Whether both give the same, as far as float32 goes."""
    got, expected = ours(), theirs()
    pairs = zip(
        got if isinstance(got, tuple) else (got,),
        expected if isinstance(expected, tuple) else (expected,),
        strict=True,
    )
    return all(_alike(a, b) for a, b in pairs)


def _alike(a: Tensor, b: Tensor) -> bool:
    if a.is_floating_point():
        return torch.allclose(a, b, atol=1e-5, rtol=1e-5)
    # Tokens: chance may fall on the rounding of a sum.
    return bool((a == b).float().mean() >= 0.99)
