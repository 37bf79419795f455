"""For GPUs: split-KV attention over an even work list, then a merge by log-sum-exp.

The query is rotated by each key tile's distance in registers; keys are read as they lie. Scores and
accumulators are float32, products run on tensor cores in the pages' dtype (float32 pages: exact
products, for tests). With tables of a fixed address both kernels can be captured in a CUDA graph:
their grids may be larger than the work list, what is too much ends at once.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import triton
from torch import Tensor

from game_agent_kernels.plan import PAGE_TOKENS, Plan
from game_agent_kernels.segment_attention.groups import groups_of
from game_agent_kernels.segment_attention.triton_kernels import attend_items, merge_partials
from game_agent_kernels.segment_attention.worklist import (
    DIRECT,
    HEADER_WORDS,
    LAUNCH,
    SMALL_TILE,
    Launch,
    divide,
    num_processors,
    tiling_for,
)

MAX_DIM = 256
LOG2_E = 1.4426950408889634


def segment_attention(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, plan: Plan, scale: float
) -> Tensor:
    """Same contract as the reference; a ``Launch`` in ``plan.derived["launch"]`` is taken as it is.

    Raises ``TypeError`` for other dtypes than float32, bfloat16 and float16, or queries of another
    than the pages'; ``ValueError`` for tensors that are not contiguous, shapes that do not belong
    together, an odd head dim or one above 256, and a plan that points outside its arrays.
    """
    _check(q, k_pages, v_pages)
    launch = plan.derived.get(LAUNCH)
    if not isinstance(launch, Launch):
        launch = plan.derived[LAUNCH] = _prepare(plan, q, k_pages)
    rows, heads, dim = q.shape
    kv_heads = k_pages.shape[1]
    out = torch.empty_like(q)
    packed = launch.tiling.packed
    shape = (max(launch.num_partials, 1), heads)
    partial = q.new_empty(*shape, dim, dtype=torch.float32)
    partial_lse = q.new_empty(*shape, dtype=torch.float32)
    half = _rotary_half(plan, dim)
    if launch.num_items:
        attend_items[(launch.num_items * kv_heads,)](
            q,
            k_pages,
            v_pages,
            out,
            partial,
            partial_lse,
            launch.words,
            launch.words.view(torch.float32),
            scale * LOG2_E,
            heads=heads,
            kv_heads=kv_heads,
            dim=dim,
            half=half,
            rotates=launch.rotates,
            turns=launch.turns,
            small=SMALL_TILE if packed > SMALL_TILE else 0,
            packed=packed,
            keys=launch.tiling.keys,
            half_pad=max(triton.next_power_of_2(dim // 2), 16),
            dim_pad=max(triton.next_power_of_2(dim), 16),
            num_warps=8 if packed >= 128 or dim > 128 else 4,
            num_stages=_num_stages(q.device),
        )
    if launch.merges and rows:
        merge_partials[(rows * kv_heads,)](
            out,
            partial,
            partial_lse,
            launch.words,
            heads=heads,
            kv_heads=kv_heads,
            dim=dim,
            group_pad=triton.next_power_of_2(heads // kv_heads),
            dim_pad=triton.next_power_of_2(dim),
            num_warps=4,
        )
    return out


def _check(q: Tensor, k_pages: Tensor, v_pages: Tensor) -> None:
    if q.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise TypeError(f"queries must be float32, bfloat16 or float16, not {q.dtype}")
    if k_pages.dtype != q.dtype or v_pages.dtype != q.dtype:
        raise TypeError(
            f"queries {q.dtype}, keys {k_pages.dtype} and values {v_pages.dtype} must be alike"
        )
    if torch.is_grad_enabled() and any(t.requires_grad for t in (q, k_pages, v_pages)):
        raise ValueError("attention over pages has no gradient: call it under torch.no_grad()")
    if not (q.is_contiguous() and k_pages.is_contiguous() and v_pages.is_contiguous()):
        raise ValueError("q, k_pages and v_pages must be contiguous")
    if q.ndim != 3 or k_pages.ndim != 4:
        raise ValueError("q must be [tokens, heads, dim] and k_pages have 4 dimensions")
    pages, kv_heads = k_pages.shape[:2]
    heads, dim = q.shape[1:]
    if dim % 2 or dim > MAX_DIM:
        raise ValueError(f"the head dim must be even and at most {MAX_DIM}, not {dim}")
    if heads % kv_heads:
        raise ValueError(f"{heads} heads cannot share {kv_heads} KV heads evenly")
    if k_pages.shape != (pages, kv_heads, dim, PAGE_TOKENS) or v_pages.shape != (
        pages,
        kv_heads,
        PAGE_TOKENS,
        dim,
    ):
        raise ValueError(
            f"k_pages {list(k_pages.shape)} and v_pages {list(v_pages.shape)} must be "
            f"[pages, kv_heads, {dim}, {PAGE_TOKENS}] and [pages, kv_heads, {PAGE_TOKENS}, {dim}]"
        )


def _prepare(plan: Plan, q: Tensor, k_pages: Tensor) -> Launch:
    """Check and divide the plan, and bring its tables to the device in one copy."""
    if len(q) != plan.num_rows:
        raise ValueError(f"q has {len(q)} rows, the plan {plan.num_rows}")
    plan.check(len(k_pages))
    tiling = tiling_for(
        groups_of(plan).most_rows,
        float(plan.segments.lengths.mean()) if plan.segments.num_segments else 0.0,
        heads=q.shape[1],
        kv_heads=k_pages.shape[1],
        dim=q.shape[2],
        dtype=q.dtype,
        processors=num_processors(q.device),
    )
    work = divide(plan, tiling)
    words = np.empty(HEADER_WORDS + work.num_words, np.int32)
    work.write(words, 0, HEADER_WORDS)
    return Launch(
        words=torch.from_numpy(words).to(q.device),
        tiling=tiling,
        num_items=len(work.items),
        num_partials=work.num_partials,
        rotates=bool(np.any(plan.segments.sin)),
        turns=work.turns,
        merges=bool(np.any(work.rows[:, 1] != DIRECT)),
    )


def _rotary_half(plan: Plan, dim: int) -> int:
    half = int(plan.segments.cos.shape[1])
    if 2 * half > dim:
        raise ValueError(f"angles of {half} columns rotate more than a head dim of {dim}")
    return half


def _num_stages(device: torch.device) -> int:
    """Depth of the software pipeline: what the shared memory of a block holds.

    A tile's keys are found through its page numbers, so two stages are one tile read ahead, and the
    first of them is the tile at work.
    """
    return 5 if shared_bytes(device) >= 160 * 1024 else 3


@cache
def shared_bytes(device: torch.device) -> int:
    """Shared memory that a block may ask for; 0 where that is not known."""
    if device.type != "cuda":
        return 0
    properties = torch.cuda.get_device_properties(device)
    return int(getattr(properties, "shared_memory_per_block_optin", 0))
