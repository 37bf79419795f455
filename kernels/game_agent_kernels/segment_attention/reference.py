"""Plain torch: rotate the query per distance, attend, merge by log-sum-exp. Any device."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from game_agent_kernels.plan import PAGE_TOKENS, Plan

# Rows attended at once: bounds the score matrix to [heads, ROWS, keys] for long prefills.
ROWS = 256


def segment_attention(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, plan: Plan, scale: float
) -> Tensor:
    """Softmax attention of every row to the visible keys of its run's segments.

    q:        [tokens, heads, dim], rotated by each row's own frame position
    k_pages:  [pages, kv_heads, dim, PAGE_TOKENS], one layer
    v_pages:  [pages, kv_heads, PAGE_TOKENS, dim]
    scale:    factor of the scores, usually dim ** -0.5
    returns   [tokens, heads, dim] of q's dtype; computed in float32. A row that sees no key is 0.

    The merge is Flash-Decoding's: with per-part outputs o_i and log-sum-exps l_i, the softmax over
    all keys is the sum of o_i weighted by softmax(l)_i.
    """
    out = torch.zeros_like(q)
    for run in range(plan.num_runs):
        begin, end = int(plan.run_rows[run]), int(plan.run_rows[run + 1])
        for first in range(begin, end, ROWS):
            rows = slice(first, min(first + ROWS, end))
            out[rows] = _attend_rows(q[rows], k_pages, v_pages, plan, run, rows, scale)
    return out


def _attend_rows(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, plan: Plan, run: int, rows: slice, scale: float
) -> Tensor:
    """One run's rows against all its segments -> [rows, heads, dim]."""
    t, heads, dim = q.shape
    positions = torch.from_numpy(plan.row_positions[rows]).to(q.device)
    outs = [torch.zeros(t, heads, dim, device=q.device)]
    lses = [torch.full((t, heads), -torch.inf, device=q.device)]
    for first, last in equal_distance_groups(plan, run):
        keys, values, key_positions = gather(k_pages, v_pages, plan, first, last)
        visible = int((key_positions <= int(plan.row_positions[rows][-1])).sum())
        if visible == 0:
            continue
        cos = torch.from_numpy(plan.segments.cos[first]).to(q.device)
        sin = torch.from_numpy(plan.segments.sin[first]).to(q.device)
        o, lse = attend(
            rotate(q.float(), cos, sin),
            keys[:, :, :visible],
            values[:, :visible],
            key_positions[:visible] <= positions[:, None],
            scale,
        )
        outs.append(o)
        lses.append(lse)
    return merge(torch.stack(outs), torch.stack(lses)).to(q.dtype)


def equal_distance_groups(plan: Plan, run: int) -> Iterator[tuple[int, int]]:
    """Ranges [first, last) of one run's segments that share one distance, in order."""
    first, end = int(plan.run_segments[run]), int(plan.run_segments[run + 1])
    cos, sin = plan.segments.cos[first:end], plan.segments.sin[first:end]
    same = np.all((cos[1:] == cos[:-1]) & (sin[1:] == sin[:-1]), axis=1)
    cuts = [0, *(np.flatnonzero(~same) + 1).tolist(), end - first] if end > first else [0]
    for a, b in pairwise(cuts):
        yield first + a, first + b


def gather(
    k_pages: Tensor, v_pages: Tensor, plan: Plan, first: int, last: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Keys [kv_heads, dim, n], values [kv_heads, n, dim] and frame positions [n] of segments.

    Segments are taken in order; positions rise along n when the plan's do.
    """
    seg = plan.segments
    pages = seg.pages[seg.page_starts[first] : seg.page_starts[last]]
    counts = np.diff(seg.page_starts[first : last + 1])
    # Place of each page's keys within its segment, to drop the unused end of last pages.
    begin = np.repeat(seg.page_starts[first:last] - seg.page_starts[first], counts)
    places = ((np.arange(len(pages)) - begin) * PAGE_TOKENS)[:, None] + np.arange(PAGE_TOKENS)
    used = (places < np.repeat(seg.lengths[first:last], counts)[:, None]).reshape(-1)
    positions = (places + np.repeat(seg.positions[first:last], counts)[:, None]).reshape(-1)
    index = torch.from_numpy(pages).to(k_pages.device)
    kv_heads, dim = k_pages.shape[1:3]
    keys = k_pages[index].permute(1, 2, 0, 3).reshape(kv_heads, dim, -1)
    values = v_pages[index].transpose(0, 1).reshape(kv_heads, -1, dim)
    if not used.all():
        keep = torch.from_numpy(np.flatnonzero(used)).to(k_pages.device)
        keys, values = keys[:, :, keep], values[:, keep]
    return keys, values, torch.from_numpy(positions[used]).to(k_pages.device)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE in the half-split layout: x [..., dim], cos/sin broadcast to [..., rotary_dim / 2].

    Dimensions beyond ``2 * cos.shape[-1]`` (partial rotary) pass unchanged.
    """
    half = cos.shape[-1]
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)


def attend(
    q: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Explicit softmax attention with its log-sum-exp, GQA heads packed into the rows.

    q [t, heads, dim] float32; keys [kv_heads, dim, n]; values [kv_heads, n, dim]; mask [t, n] True
    where visible. Returns output [t, heads, dim] (0 where a row sees nothing), lse [t, heads].
    """
    t, heads, dim = q.shape
    kv_heads = keys.shape[0]
    packed = q.view(t, kv_heads, -1, dim).permute(1, 2, 0, 3).reshape(kv_heads, -1, dim)
    scores = torch.bmm(packed, keys.float()).mul_(scale).view(kv_heads, -1, t, keys.shape[2])
    if not mask.all():
        scores.masked_fill_(~mask, -torch.inf)
    top = scores.amax(-1, keepdim=True).nan_to_num_(neginf=0.0)
    weights = scores.sub_(top).exp_()
    total = weights.sum(-1, keepdim=True)
    out = torch.bmm(weights.view(kv_heads, -1, keys.shape[2]), values.float())
    out = out.view(kv_heads, -1, t, dim) / total.clamp_min(torch.finfo(torch.float32).tiny)
    lse = (top + total.log()).squeeze(-1)
    return out.permute(2, 0, 1, 3).reshape(t, heads, dim), lse.permute(2, 0, 1).reshape(t, heads)


def merge(outs: Tensor, lses: Tensor) -> Tensor:
    """Outputs [parts, t, heads, dim] with log-sum-exps [parts, t, heads] -> [t, heads, dim]."""
    weights = torch.softmax(lses, 0).nan_to_num_(nan=0.0)
    return (outs * weights.unsqueeze(-1)).sum(0)
