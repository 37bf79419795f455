"""Compiled, for float32 on the CPU with float32 or bfloat16 pages; else the reference's."""

from __future__ import annotations

import torch
from torch import Tensor

from game_agent_kernels import _cpu, native
from game_agent_kernels.plan import PAGE_TOKENS
from game_agent_kernels.rope_store import reference

MAX_DIM = 256


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
    """Same contract as the reference; ``IndexError`` for a slot outside the pages.

    Raises ``ValueError`` when shapes do not belong together.
    """
    num_pages, kv_heads, dim = k_pages.shape[:3]
    fits = _takes_slots(slots) and _takes_pages(k_pages, v_pages)
    if not fits or not native.takes(qkv, cos, sin, q_norm, k_norm):
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
    rows, half = cos.shape
    _check("qkv", qkv, (rows, (num_heads + 2 * kv_heads) * dim))
    _check("cos", cos, (rows, min(half, dim // 2)))
    _check("sin", sin, (rows, half))
    _check("slots", slots, (rows,))
    _check("k_pages", k_pages, (num_pages, kv_heads, dim, PAGE_TOKENS))
    _check("v_pages", v_pages, (num_pages, kv_heads, PAGE_TOKENS, dim))
    for name, weight in (("q_norm", q_norm), ("k_norm", k_norm)):
        if weight is not None:
            _check(name, weight, (dim,))
    q = qkv.new_empty(rows, num_heads, dim)
    _cpu.rope_store(
        qkv.data_ptr(),
        cos.data_ptr(),
        sin.data_ptr(),
        slots.data_ptr(),
        k_pages.data_ptr(),
        v_pages.data_ptr(),
        q_norm.data_ptr() if q_norm is not None else 0,
        k_norm.data_ptr() if k_norm is not None else 0,
        q.data_ptr(),
        rows,
        num_pages,
        num_heads,
        kv_heads,
        dim,
        half,
        eps,
        k_pages.dtype == torch.bfloat16,
    )
    return q


def _takes_slots(slots: Tensor) -> bool:
    return slots.dtype == torch.int64 and slots.is_cpu and slots.is_contiguous()


def _takes_pages(k_pages: Tensor, v_pages: Tensor) -> bool:
    return (
        k_pages.dtype in (torch.float32, torch.bfloat16)
        and k_pages.dtype == v_pages.dtype
        and k_pages.shape[2] <= MAX_DIM
        and all(
            pages.is_cpu
            and pages.is_contiguous()
            and not (pages.requires_grad and torch.is_grad_enabled())
            for pages in (k_pages, v_pages)
        )
    )


def _check(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise ValueError(f"{name} must be {list(shape)} here, not {list(tensor.shape)}")
