"""The paper's way: rotate every key to its place in the prompt, concatenate, attend once.

Twin and baseline of the query-side rotation. All keys of a run are gathered and rotated in a few
tensor operations, however many segments there are, so it is also the faster fallback on a CPU
without the compiled kernel.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from game_agent_kernels.plan import Plan
from game_agent_kernels.segment_attention.reference import ROWS, attend, gather, rotate


def segment_attention(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, plan: Plan, scale: float
) -> Tensor:
    """Same contract as the reference; keys are rotated by -Δ instead of queries by Δ."""
    out = torch.zeros_like(q)
    for run in range(plan.num_runs):
        first, last = int(plan.run_segments[run]), int(plan.run_segments[run + 1])
        if first == last:
            continue
        keys, values, key_positions = gather(k_pages, v_pages, plan, first, last)
        keys = _shift(keys, plan, first, last)
        begin, end = int(plan.run_rows[run]), int(plan.run_rows[run + 1])
        for row in range(begin, end, ROWS):
            rows = slice(row, min(row + ROWS, end))
            positions = torch.from_numpy(plan.row_positions[rows]).to(q.device)
            # Own-frame keys come last and in order, so those past the chunk's last row are a tail.
            visible = int((key_positions <= positions[-1]).sum())
            mask = key_positions[:visible] <= positions[:, None]
            o, _ = attend(q[rows].float(), keys[:, :, :visible], values[:, :visible], mask, scale)
            out[rows] = o.to(q.dtype)
    return out


def _shift(keys: Tensor, plan: Plan, first: int, last: int) -> Tensor:
    """Rotate keys [kv_heads, dim, n] of segments [first, last) by minus their distance."""
    seg = plan.segments
    if not np.any(seg.sin[first:last]):
        return keys
    of_key = np.repeat(np.arange(first, last), seg.lengths[first:last])
    cos = torch.from_numpy(seg.cos[of_key]).to(keys.device)
    sin = torch.from_numpy(seg.sin[of_key]).to(keys.device)
    return rotate(keys.float().transpose(1, 2), cos, -sin).transpose(1, 2).contiguous()
