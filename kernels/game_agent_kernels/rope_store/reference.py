"""Plain torch: norm, rotate, scatter into pages. Any device."""

from __future__ import annotations

from torch import Tensor

from game_agent_kernels.plan import PAGE_TOKENS
from game_agent_kernels.rms_norm.reference import rms_norm
from game_agent_kernels.segment_attention.reference import rotate


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
    """Rotate queries and keys by their frame positions and store keys and values.

    qkv:      [tokens, (heads + 2 * kv_heads) * dim], the packed projection
    cos, sin: [tokens, rotary_dim / 2] float32, of each row's frame position (times the RoPE
              type's attention scaling, where it has one)
    slots:    [tokens] int64, page * PAGE_TOKENS + place
    k_pages:  [pages, kv_heads, dim, PAGE_TOKENS], written; v_pages: [pages, kv_heads, PAGE_TOKENS,
              dim], written
    q_norm, k_norm: [dim] weights of a per-head RMS norm before the rotation (qwen3), or None
    returns   rotated queries [tokens, heads, dim], of qkv's dtype
    """
    kv_heads, dim = k_pages.shape[1:3]
    x = qkv.view(qkv.shape[0], num_heads + 2 * kv_heads, dim)
    q, k, v = x.split([num_heads, kv_heads, kv_heads], 1)
    if q_norm is not None:
        q = rms_norm(q, q_norm, eps)
    if k_norm is not None:
        k = rms_norm(k, k_norm, eps)
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    q = rotate(q.float(), cos, sin).to(qkv.dtype)
    k = rotate(k.float(), cos, sin)
    page, place = slots // PAGE_TOKENS, slots % PAGE_TOKENS
    k_pages[page, :, :, place] = k.to(k_pages.dtype)
    v_pages[page, :, place] = v.to(v_pages.dtype)
    return q
