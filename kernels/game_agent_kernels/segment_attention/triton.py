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
import triton.language as tl
from torch import Tensor

from game_agent_kernels.plan import PAGE_TOKENS, Plan
from game_agent_kernels.segment_attention.worklist import (
    HEADER_WORDS,
    ITEM_WORDS,
    LAUNCH,
    ROW_WORDS,
    Launch,
    divide,
    num_processors,
    tiling_for,
)

MAX_DIM = 256
LOG2_E = 1.4426950408889634
_PAGE = tl.constexpr(PAGE_TOKENS)
_ITEM = tl.constexpr(ITEM_WORDS)
_ROW = tl.constexpr(ROW_WORDS)


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
    packed, keys = launch.tiling.packed, launch.tiling.keys
    shape = (max(launch.num_partials, 1), kv_heads, packed)
    partial = q.new_empty(*shape, dim, dtype=torch.float32)
    partial_lse = q.new_empty(*shape, dtype=torch.float32)
    half = _rotary_half(plan, dim)
    if launch.num_items:
        _attend[(launch.num_items * kv_heads,)](
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
            packed=packed,
            keys=keys,
            half_pad=max(triton.next_power_of_2(dim // 2), 16),
            dim_pad=max(triton.next_power_of_2(dim), 16),
            num_warps=8 if packed >= 128 or dim > 128 else 4,
            num_stages=_num_stages(q.device),
        )
    if launch.merges and rows:
        _merge[(rows * kv_heads,)](
            out,
            partial,
            partial_lse,
            launch.words,
            heads=heads,
            kv_heads=kv_heads,
            dim=dim,
            packed=packed,
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
        int(np.diff(plan.run_rows).max(initial=0)),
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
        merges=bool(np.any(work.rows[:, 2] != 1)),
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


@triton.jit
def _attend(
    q,
    k_pages,
    v_pages,
    out,
    partial,
    partial_lse,
    words,
    angles,
    scale_log2,
    heads: tl.constexpr,
    kv_heads: tl.constexpr,
    dim: tl.constexpr,
    half: tl.constexpr,
    rotates: tl.constexpr,
    packed: tl.constexpr,
    keys: tl.constexpr,
    half_pad: tl.constexpr,
    dim_pad: tl.constexpr,
):
    """One work item for one KV head.

    The head dim is split into pairs that RoPE turns: dimensions ``first`` and ``second``. Those
    that it leaves alone (partial rotary) are paired among themselves and turned by nothing.
    """
    item = tl.program_id(0) // kv_heads
    kv_head = tl.program_id(0) % kv_heads
    if item >= tl.load(words):
        return
    group: tl.constexpr = heads // kv_heads
    entry = words + tl.load(words + 1) + item * _ITEM
    row_table = words + tl.load(words + 2)
    tile_table = words + tl.load(words + 3)
    angle_table = angles + tl.load(words + 4)
    first_row = tl.load(entry)
    num_queries = tl.load(entry + 1) * group

    queries = tl.arange(0, packed)
    rows = first_row + queries // group
    query_mask = queries < num_queries
    query_at = (rows * heads + kv_head * group + queries % group).to(tl.int64) * dim
    positions = tl.load(row_table + rows * _ROW, mask=query_mask, other=0)
    pairs = tl.arange(0, half_pad)
    pair_mask = pairs < dim // 2
    if 2 * half == dim:
        first = pairs
        second = half + pairs
    else:
        first = tl.where(pairs < half, pairs, half + pairs)
        second = tl.where(pairs < half, half + pairs, dim // 2 + pairs)
    both = query_mask[:, None] & pair_mask[None, :]
    q_first = tl.load(q + query_at[:, None] + first[None, :], mask=both, other=0.0)
    q_second = tl.load(q + query_at[:, None] + second[None, :], mask=both, other=0.0)

    places = tl.arange(0, keys)
    dims = tl.arange(0, dim_pad)
    top = tl.full([packed], float("-inf"), tl.float32)
    total = tl.zeros([packed], tl.float32)
    acc = tl.zeros([packed, dim_pad], tl.float32)
    for tile in range(tl.load(entry + 2), tl.load(entry + 3)):
        record = tile_table + tile * (3 + keys // _PAGE)
        num_keys = tl.load(record + 1)
        if rotates:
            turn = angle_table + tl.load(record) * (2 * half) + pairs
            cos = tl.load(turn, mask=pairs < half, other=1.0)[None, :]
            sin = tl.load(turn + half, mask=pairs < half, other=0.0)[None, :]
            a = q_first.to(tl.float32)
            b = q_second.to(tl.float32)
            turned_first = (a * cos - b * sin).to(q_first.dtype)
            turned_second = (b * cos + a * sin).to(q_first.dtype)
        else:
            turned_first = q_first
            turned_second = q_second
        page = tl.load(record + 3 + places // _PAGE).to(tl.int64)
        # Whole pages of keys are read, so that the mask is constant over 16 places and loads stay
        # wide; what lies behind the last key is taken out of the scores.
        page_mask = places // _PAGE < tl.cdiv(num_keys, _PAGE)
        head_at = (page * kv_heads + kv_head) * (dim * _PAGE)
        key_at = head_at + places % _PAGE
        key_mask = pair_mask[:, None] & page_mask[None, :]
        first_at = key_at[None, :] + first[:, None] * _PAGE
        second_at = key_at[None, :] + second[:, None] * _PAGE
        first_at = tl.max_contiguous(tl.multiple_of(first_at, [1, 16]), [1, 16])
        second_at = tl.max_contiguous(tl.multiple_of(second_at, [1, 16]), [1, 16])
        k_first = tl.load(k_pages + first_at, mask=key_mask, other=0.0)
        k_second = tl.load(k_pages + second_at, mask=key_mask, other=0.0)
        scores = tl.dot(turned_first, k_first, input_precision="ieee")
        scores = tl.dot(turned_second, k_second, scores, input_precision="ieee") * scale_log2
        key_positions = tl.load(record + 2) + places
        used = places < num_keys
        visible = used[None, :] & (key_positions[None, :] <= positions[:, None])
        scores = tl.where(visible, scores, float("-inf"))

        new_top = tl.maximum(top, tl.max(scores, 1))
        # A row that has seen nothing yet: -inf minus -inf must not become NaN.
        base = tl.where(new_top == float("-inf"), 0.0, new_top)
        weights = tl.exp2(scores - base[:, None])
        shrink = tl.exp2(top - base)
        total = total * shrink + tl.sum(weights, 1)
        value_at = (head_at + (places % _PAGE) * dim)[:, None] + dims[None, :]
        value_mask = used[:, None] & (dims < dim)[None, :]
        v = tl.load(v_pages + value_at, mask=value_mask, other=0.0)
        acc = tl.dot(weights.to(v.dtype), v, acc * shrink[:, None], input_precision="ieee")
        top = new_top

    divisor = tl.where(total == 0.0, 1.0, total)
    result = acc / divisor[:, None]
    slot = tl.load(entry + 4)
    result_mask = query_mask[:, None] & (dims < dim)[None, :]
    if slot < 0:
        out_at = query_at[:, None] + dims[None, :]
        tl.store(out + out_at, result.to(out.dtype.element_ty), mask=result_mask)
    else:
        partial_at = (slot * kv_heads + kv_head).to(tl.int64) * packed + queries
        tl.store(partial + partial_at[:, None] * dim + dims[None, :], result, mask=result_mask)
        lse = tl.where(total == 0.0, float("-inf"), top + tl.log2(divisor))
        tl.store(partial_lse + partial_at, lse, mask=query_mask)


@triton.jit
def _merge(
    out,
    partial,
    partial_lse,
    words,
    heads: tl.constexpr,
    kv_heads: tl.constexpr,
    dim: tl.constexpr,
    packed: tl.constexpr,
    group_pad: tl.constexpr,
    dim_pad: tl.constexpr,
):
    """One row and KV head: its partial results weighted by their log-sum-exps (base 2)."""
    row = tl.program_id(0) // kv_heads
    kv_head = tl.program_id(0) % kv_heads
    entry = words + tl.load(words + 2) + row * _ROW
    num_parts = tl.load(entry + 2)
    if num_parts == 1:
        return
    group: tl.constexpr = heads // kv_heads
    members = tl.arange(0, group_pad)
    dims = tl.arange(0, dim_pad)
    member_mask = members < group
    mask = member_mask[:, None] & (dims < dim)[None, :]
    start = tl.load(entry + 1)
    in_tile = tl.load(entry + 3) * group + members
    top = tl.full([group_pad], float("-inf"), tl.float32)
    total = tl.zeros([group_pad], tl.float32)
    acc = tl.zeros([group_pad, dim_pad], tl.float32)
    for part in tl.range(start, start + num_parts, num_stages=4):
        at = (part * kv_heads + kv_head).to(tl.int64) * packed + in_tile
        lse = tl.load(partial_lse + at, mask=member_mask, other=float("-inf"))
        new_top = tl.maximum(top, lse)
        base = tl.where(new_top == float("-inf"), 0.0, new_top)
        weight = tl.exp2(lse - base)
        shrink = tl.exp2(top - base)
        values = tl.load(partial + at[:, None] * dim + dims[None, :], mask=mask, other=0.0)
        acc = acc * shrink[:, None] + values * weight[:, None]
        total = total * shrink + weight
        top = new_top
    result = acc / tl.where(total == 0.0, 1.0, total)[:, None]
    out_at = (row * heads + kv_head * group + members).to(tl.int64)[:, None] * dim + dims[None, :]
    tl.store(out + out_at, result.to(out.dtype.element_ty), mask=mask)
