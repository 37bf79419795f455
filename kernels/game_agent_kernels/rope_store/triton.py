"""For GPUs: norm, rotation and the write into pages in one launch, one program per row and head."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from game_agent_kernels.gpu import takes
from game_agent_kernels.plan import PAGE_TOKENS
from game_agent_kernels.rope_store import reference

_PAGE = tl.constexpr(PAGE_TOKENS)


def rope_store(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    slots: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    *,
    num_heads: int,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    eps: float = 1e-6,
) -> Tensor:
    """Same contract as the reference; the caller answers for ``slots`` lying inside the pages.

    Raises ``ValueError`` when shapes do not belong together.
    """
    num_pages, kv_heads, dim = k_pages.shape[:3]
    rows, half = cos.shape
    if not takes(qkv, cos, sin, slots, k_pages, v_pages, q_norm, k_norm):
        return reference.rope_store(
            qkv,
            cos,
            sin,
            slots,
            k_pages,
            v_pages,
            num_heads=num_heads,
            q_norm=q_norm,
            k_norm=k_norm,
            eps=eps,
        )
    _check("qkv", qkv, (rows, (num_heads + 2 * kv_heads) * dim))
    _check("cos", cos, (rows, min(half, dim // 2)))
    _check("sin", sin, (rows, half))
    _check("slots", slots, (rows,))
    _check("k_pages", k_pages, (num_pages, kv_heads, dim, PAGE_TOKENS))
    _check("v_pages", v_pages, (num_pages, kv_heads, PAGE_TOKENS, dim))
    q = qkv.new_empty(rows, num_heads, dim)
    if rows:
        _rope_store[(rows, num_heads + 2 * kv_heads)](
            qkv,
            cos,
            sin,
            slots,
            k_pages,
            v_pages,
            qkv if q_norm is None else q_norm,
            qkv if k_norm is None else k_norm,
            q,
            eps,
            num_heads=num_heads,
            kv_heads=kv_heads,
            dim=dim,
            half=half,
            norms_q=q_norm is not None,
            norms_k=k_norm is not None,
            pairs_pad=triton.next_power_of_2(max(dim - half, half)),
            num_warps=1,
        )
    return q


def _check(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise ValueError(f"{name} must be {list(shape)} here, not {list(tensor.shape)}")


@triton.jit
def _scaled(a, b, weight, a_at, b_at, a_mask, b_mask, dim: tl.constexpr, eps):
    """RMS norm over both parts of one head, in the reference's order of roundings."""
    scale = tl.rsqrt((tl.sum(a * a, 0) + tl.sum(b * b, 0)) / dim + eps)
    dtype = weight.dtype.element_ty
    a_weight = tl.load(weight + a_at, mask=a_mask, other=0.0).to(tl.float32)
    b_weight = tl.load(weight + b_at, mask=b_mask, other=0.0).to(tl.float32)
    a = ((a * scale).to(dtype).to(tl.float32) * a_weight).to(dtype).to(tl.float32)
    b = ((b * scale).to(dtype).to(tl.float32) * b_weight).to(dtype).to(tl.float32)
    return a, b


@triton.jit
def _rope_store(
    qkv,
    cos,
    sin,
    slots,
    k_pages,
    v_pages,
    q_norm,
    k_norm,
    q,
    eps,
    num_heads: tl.constexpr,
    kv_heads: tl.constexpr,
    dim: tl.constexpr,
    half: tl.constexpr,
    norms_q: tl.constexpr,
    norms_k: tl.constexpr,
    pairs_pad: tl.constexpr,
):
    """Part a is the first half of what turns; part b its other half and all that does not turn."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    pairs = tl.arange(0, pairs_pad)
    a_at = pairs
    b_at = half + pairs
    a_mask = pairs < half
    b_mask = b_at < dim
    source = qkv + (row * (num_heads + 2 * kv_heads) + head) * dim
    a = tl.load(source + a_at, mask=a_mask, other=0.0).to(tl.float32)
    b = tl.load(source + b_at, mask=b_mask, other=0.0).to(tl.float32)
    slot = tl.load(slots + row).to(tl.int64)
    page = slot // _PAGE
    place = slot % _PAGE
    if head >= num_heads + kv_heads:
        kv_head = head - num_heads - kv_heads
        to = v_pages + ((page * kv_heads + kv_head) * _PAGE + place) * dim
        tl.store(to + a_at, a.to(v_pages.dtype.element_ty), mask=a_mask)
        tl.store(to + b_at, b.to(v_pages.dtype.element_ty), mask=b_mask)
        return
    if head < num_heads:
        if norms_q:
            a, b = _scaled(a, b, q_norm, a_at, b_at, a_mask, b_mask, dim, eps)
    elif norms_k:
        a, b = _scaled(a, b, k_norm, a_at, b_at, a_mask, b_mask, dim, eps)
    c = tl.load(cos + row * half + pairs, mask=a_mask, other=1.0)
    s = tl.load(sin + row * half + pairs, mask=a_mask, other=0.0)
    turned_a = a * c - b * s
    turned_b = b * c + a * s
    if head < num_heads:
        to = q + (row * num_heads + head) * dim
        tl.store(to + a_at, turned_a.to(q.dtype.element_ty), mask=a_mask)
        tl.store(to + b_at, turned_b.to(q.dtype.element_ty), mask=b_mask)
    else:
        kv_head = head - num_heads
        to = k_pages + (page * kv_heads + kv_head) * dim * _PAGE + place
        tl.store(to + a_at * _PAGE, turned_a.to(k_pages.dtype.element_ty), mask=a_mask)
        tl.store(to + b_at * _PAGE, turned_b.to(k_pages.dtype.element_ty), mask=b_mask)
