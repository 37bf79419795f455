"""The Triton kernels of segment attention: work items over tiles of keys, and their merge.

What the tables in ``words`` hold is told in ``worklist.py``.
"""

from __future__ import annotations

import triton
import triton.language as tl

from game_agent_kernels.plan import PAGE_TOKENS
from game_agent_kernels.segment_attention.worklist import (
    ITEM_WORDS,
    QUERY_WORDS,
    ROW_WORDS,
)

_PAGE = tl.constexpr(PAGE_TOKENS)
_ITEM = tl.constexpr(ITEM_WORDS)
_QUERY = tl.constexpr(QUERY_WORDS)
_ROW = tl.constexpr(ROW_WORDS)


@triton.jit
def attend_items(
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
    turns: tl.constexpr,
    small: tl.constexpr,
    packed: tl.constexpr,
    keys: tl.constexpr,
    half_pad: tl.constexpr,
    dim_pad: tl.constexpr,
):
    """One work item for one KV head, in a tile of ``small`` (0: none) or of ``packed`` queries."""
    item = tl.program_id(0) // kv_heads
    kv_head = tl.program_id(0) % kv_heads
    if item >= tl.load(words):
        return
    entry = words + tl.load(words + 1) + item * _ITEM
    num_queries = tl.load(entry + 1) * (heads // kv_heads)
    if small > 0:  # noqa: SIM102 - known when compiling, the next one is not
        if num_queries <= small:
            _attend_tile(
                q, k_pages, v_pages, out, partial, partial_lse, words, angles, scale_log2, entry,
                kv_head, heads, kv_heads, dim, half, rotates, turns, small, keys, half_pad, dim_pad,
            )  # fmt: skip
    if num_queries > small:
        _attend_tile(
            q, k_pages, v_pages, out, partial, partial_lse, words, angles, scale_log2, entry,
            kv_head, heads, kv_heads, dim, half, rotates, turns, packed, keys, half_pad, dim_pad,
        )  # fmt: skip


@triton.jit
def _attend_tile(
    q,
    k_pages,
    v_pages,
    out,
    partial,
    partial_lse,
    words,
    angles,
    scale_log2,
    entry,
    kv_head,
    heads: tl.constexpr,
    kv_heads: tl.constexpr,
    dim: tl.constexpr,
    half: tl.constexpr,
    rotates: tl.constexpr,
    turns: tl.constexpr,
    packed: tl.constexpr,
    keys: tl.constexpr,
    half_pad: tl.constexpr,
    dim_pad: tl.constexpr,
):
    group: tl.constexpr = heads // kv_heads
    queries = tl.arange(0, packed)
    query_mask = queries < tl.load(entry + 1) * group
    query = words + tl.load(words + 2) + (tl.load(entry) + queries // group) * _QUERY
    rows = tl.load(query, mask=query_mask, other=0)
    positions = tl.load(query + 1, mask=query_mask, other=0)
    query_at = (rows * heads + kv_head * group + queries % group).to(tl.int64) * dim
    tile_table = words + tl.load(words + 4)
    angle_table = angles + tl.load(words + 5)
    first, second, pair_mask = _pairs(dim, half, half_pad)
    both = query_mask[:, None] & pair_mask[None, :]
    q_first = tl.load(q + query_at[:, None] + first[None, :], mask=both, other=0.0)
    q_second = tl.load(q + query_at[:, None] + second[None, :], mask=both, other=0.0)
    if turns:
        turn = tl.load(query + 2, mask=query_mask, other=-1)
        q_first, q_second = _turn_rows(q_first, q_second, angle_table, turn, half, half_pad)

    dims = tl.arange(0, dim_pad)
    top = tl.full([packed], float("-inf"), tl.float32)
    total = tl.zeros([packed], tl.float32)
    acc = tl.zeros([packed, dim_pad], tl.float32)
    for tile in range(tl.load(entry + 2), tl.load(entry + 3)):
        record = tile_table + tile * (3 + keys // _PAGE)
        num_keys = tl.load(record + 1)
        if rotates:
            turned_first, turned_second = _turn(
                q_first, q_second, angle_table, tl.load(record), half, half_pad
            )
        else:
            turned_first = q_first
            turned_second = q_second
        turned_first = turned_first.to(k_pages.dtype.element_ty)
        turned_second = turned_second.to(k_pages.dtype.element_ty)
        places = tl.arange(0, keys)
        page = tl.load(record + 3 + places // _PAGE).to(tl.int64)
        head_at = (page * kv_heads + kv_head) * (dim * _PAGE)
        k_first, k_second = _load_keys(k_pages, head_at, places, num_keys, first, second, pair_mask)
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
    lse = tl.where(total == 0.0, float("-inf"), top + tl.log2(divisor))
    _store(
        out, partial, partial_lse, acc / divisor[:, None], lse,
        words, entry, kv_head, heads, kv_heads, dim,
    )  # fmt: skip


@triton.jit
def _store(
    out,
    partial,
    partial_lse,
    result,
    lse,
    words,
    entry,
    kv_head,
    heads: tl.constexpr,
    kv_heads: tl.constexpr,
    dim: tl.constexpr,
):
    """To the output, or to the places of each row's partial results."""
    group: tl.constexpr = heads // kv_heads
    queries = tl.arange(0, result.shape[0])
    dims = tl.arange(0, result.shape[1])
    exists = queries < tl.load(entry + 1) * group
    mask = exists[:, None] & (dims < dim)[None, :]
    query = words + tl.load(words + 2) + (tl.load(entry) + queries // group) * _QUERY
    part = tl.load(entry + 4)
    if part < 0:
        row = tl.load(query, mask=exists, other=0)
        at = (row * heads + kv_head * group + queries % group).to(tl.int64) * dim
        tl.store(out + at[:, None] + dims[None, :], result.to(out.dtype.element_ty), mask=mask)
    else:
        number = tl.load(query + 3, mask=exists, other=0) + part
        at = (number * heads + kv_head * group + queries % group).to(tl.int64)
        tl.store(partial + at[:, None] * dim + dims[None, :], result, mask=mask)
        tl.store(partial_lse + at, lse, mask=exists)


@triton.jit
def _pairs(dim: tl.constexpr, half: tl.constexpr, half_pad: tl.constexpr):
    """Dimensions that RoPE turns together, ``first`` and ``second``, and which of them exist.

    Those that it leaves alone (partial rotary) are paired among themselves and turned by nothing.
    """
    pairs = tl.arange(0, half_pad)
    if 2 * half == dim:
        first = pairs
        second = half + pairs
    else:
        first = tl.where(pairs < half, pairs, half + pairs)
        second = tl.where(pairs < half, half + pairs, dim // 2 + pairs)
    return first, second, pairs < dim // 2


@triton.jit
def _turn(first, second, angle_table, number, half: tl.constexpr, half_pad: tl.constexpr):
    """All queries by the same angles, in float32."""
    pairs = tl.arange(0, half_pad)
    at = angle_table + number * (2 * half) + pairs
    cos = tl.load(at, mask=pairs < half, other=1.0)[None, :]
    sin = tl.load(at + half, mask=pairs < half, other=0.0)[None, :]
    a = first.to(tl.float32)
    b = second.to(tl.float32)
    return a * cos - b * sin, b * cos + a * sin


@triton.jit
def _turn_rows(first, second, angle_table, numbers, half: tl.constexpr, half_pad: tl.constexpr):
    """Each query by angles of its own (-1: none), in float32, so that they are rounded once."""
    pairs = tl.arange(0, half_pad)
    at = angle_table + numbers[:, None] * (2 * half) + pairs[None, :]
    turns = (numbers >= 0)[:, None] & (pairs < half)[None, :]
    cos = tl.load(at, mask=turns, other=1.0)
    sin = tl.load(at + half, mask=turns, other=0.0)
    a = first.to(tl.float32)
    b = second.to(tl.float32)
    return a * cos - b * sin, b * cos + a * sin


@triton.jit
def _load_keys(k_pages, head_at, places, num_keys, first, second, pair_mask):
    """Both halves of a tile of keys, [half_pad, keys].

    Whole pages are read, so that the mask is constant over 16 places and loads stay wide; what
    lies behind the last key must be taken out of the scores.
    """
    page_mask = places // _PAGE < tl.cdiv(num_keys, _PAGE)
    mask = pair_mask[:, None] & page_mask[None, :]
    at = (head_at + places % _PAGE)[None, :]
    first_at = at + first[:, None] * _PAGE
    second_at = at + second[:, None] * _PAGE
    first_at = tl.max_contiguous(tl.multiple_of(first_at, [1, 16]), [1, 16])
    second_at = tl.max_contiguous(tl.multiple_of(second_at, [1, 16]), [1, 16])
    k_first = tl.load(k_pages + first_at, mask=mask, other=0.0)
    k_second = tl.load(k_pages + second_at, mask=mask, other=0.0)
    return k_first, k_second


@triton.jit
def merge_partials(
    out,
    partial,
    partial_lse,
    words,
    heads: tl.constexpr,
    kv_heads: tl.constexpr,
    dim: tl.constexpr,
    group_pad: tl.constexpr,
    dim_pad: tl.constexpr,
):
    """One row and KV head: its partial results weighted by their log-sum-exps (base 2)."""
    row = tl.program_id(0) // kv_heads
    kv_head = tl.program_id(0) % kv_heads
    entry = words + tl.load(words + 3) + row * _ROW
    num_parts = tl.load(entry + 1)
    if num_parts < 0:
        return
    group: tl.constexpr = heads // kv_heads
    members = tl.arange(0, group_pad)
    dims = tl.arange(0, dim_pad)
    member_mask = members < group
    mask = member_mask[:, None] & (dims < dim)[None, :]
    start = tl.load(entry)
    top = tl.full([group_pad], float("-inf"), tl.float32)
    total = tl.zeros([group_pad], tl.float32)
    acc = tl.zeros([group_pad, dim_pad], tl.float32)
    for part in tl.range(start, start + num_parts, num_stages=4):
        at = (part * kv_heads + kv_head).to(tl.int64) * group + members
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
