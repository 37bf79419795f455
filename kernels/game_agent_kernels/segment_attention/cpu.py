"""Compiled: SIMD, threads, work split evenly by rows times keys (kernels/src)."""

from __future__ import annotations

import torch
from torch import Tensor

from game_agent_kernels import _cpu
from game_agent_kernels.plan import PAGE_TOKENS, Plan

# An extension that was built before it could do that leaves it to Plan.check, at 30 µs a token.
_CHECKS_PLANS = hasattr(_cpu, "check_plan")


def segment_attention(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, plan: Plan, scale: float
) -> Tensor:
    """Same contract as the reference, for tensors in main memory.

    Pages are float32 or bfloat16; queries of another type are converted to float32 and back.

    Raises ``TypeError`` for another type or device, ``ValueError`` for tensors that are not
    contiguous, shapes that do not belong together, a head dim that is odd or above 256, a plan
    that points outside its arrays or the pages, and where a gradient is wanted: there is none.
    """
    _check_tensors(q, k_pages, v_pages)
    queries = q.float().contiguous() if q.dtype != torch.float32 else q
    rows, heads, dim = q.shape
    num_pages, kv_heads = k_pages.shape[:2]
    schedule = schedule_for(plan, rows, heads, kv_heads, dim, num_pages)
    out = torch.empty_like(queries)
    schedule.attend(
        queries.data_ptr(),
        k_pages.data_ptr(),
        v_pages.data_ptr(),
        out.data_ptr(),
        scale,
        k_pages.dtype == torch.bfloat16,
    )
    return out.to(q.dtype)


def _check_tensors(q: Tensor, k_pages: Tensor, v_pages: Tensor) -> None:
    if not (q.is_cpu and k_pages.is_cpu and v_pages.is_cpu):
        raise TypeError("the CPU kernel takes tensors in main memory only")
    if q.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise TypeError(f"queries must be float32, bfloat16 or float16, not {q.dtype}")
    if torch.is_grad_enabled() and any(t.requires_grad for t in (q, k_pages, v_pages)):
        raise ValueError("attention over pages has no gradient: call it under torch.no_grad()")
    if not q.is_contiguous():
        raise ValueError("q, k_pages and v_pages must be contiguous")
    if q.ndim != 3 or k_pages.ndim != 4:
        raise ValueError("q must be [tokens, heads, dim] and k_pages have 4 dimensions")
    check_pages(k_pages, v_pages)
    if k_pages.shape[2] != q.shape[2]:
        raise ValueError(
            f"k_pages {list(k_pages.shape)} must be [pages, kv_heads, {q.shape[2]}, {PAGE_TOKENS}]"
        )


def check_pages(k_pages: Tensor, v_pages: Tensor) -> None:
    """Raise ``TypeError`` or ``ValueError`` unless these are one layer's pages."""
    if k_pages.dtype not in (torch.float32, torch.bfloat16) or v_pages.dtype != k_pages.dtype:
        raise TypeError(
            f"pages must be float32 or bfloat16, keys and values alike, not {k_pages.dtype} "
            f"and {v_pages.dtype}"
        )
    if not (k_pages.is_contiguous() and v_pages.is_contiguous()):
        raise ValueError("q, k_pages and v_pages must be contiguous")
    pages, kv_heads, dim = k_pages.shape[:3]
    if k_pages.shape != (pages, kv_heads, dim, PAGE_TOKENS):
        raise ValueError(
            f"k_pages {list(k_pages.shape)} must be [pages, kv_heads, {dim}, {PAGE_TOKENS}]"
        )
    if v_pages.shape != (pages, kv_heads, PAGE_TOKENS, dim):
        raise ValueError(
            f"v_pages {list(v_pages.shape)} must be {[pages, kv_heads, PAGE_TOKENS, dim]}"
        )


def schedule_for(
    plan: Plan, rows: int, heads: int, kv_heads: int, dim: int, num_pages: int
) -> _cpu.Schedule:
    """The plan's division into parts, made and checked once and kept with the plan.

    Raises ``ValueError`` where plan and shapes do not belong together.
    """
    if rows != plan.num_rows:
        raise ValueError(f"q has {rows} rows, the plan {plan.num_rows}")
    key = ("cpu", heads, kv_heads, dim, num_pages)
    schedule = plan.derived.get(key)
    if isinstance(schedule, _cpu.Schedule):
        return schedule
    seg = plan.segments
    arrays = (
        plan.run_rows,
        plan.run_segments,
        seg.page_starts,
        seg.pages,
        seg.lengths,
        seg.positions,
        seg.cos,
        seg.sin,
        plan.row_positions,
    )
    if _CHECKS_PLANS:
        _cpu.check_plan(*arrays, plan.row_slots, num_pages)
    else:
        plan.check(num_pages)
    schedule = _cpu.Schedule(*arrays, heads, kv_heads, dim)
    plan.derived[key] = schedule
    return schedule
