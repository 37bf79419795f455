"""For GPUs: one program per row, the row in registers."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from game_agent_kernels.gpu import takes
from game_agent_kernels.rms_norm import reference

# Longer rows than this do not fit a program's registers.
MAX_DIM = 16384


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Same contract as the reference."""
    if not _fits(x, weight) or not takes(x, weight):
        return reference.rms_norm(x, weight, eps)
    out = x.new_empty(x.shape)
    _launch(x, None, weight, out, None, eps)
    return out


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Same contract as the reference."""
    fits = x.shape == residual.shape and x.dtype == residual.dtype and _fits(x, weight)
    if not fits or not takes(x, residual, weight):
        return reference.add_rms_norm(x, residual, weight, eps)
    out, total = x.new_empty(x.shape), x.new_empty(x.shape)
    _launch(x, residual, weight, out, total, eps)
    return out, total


def _fits(x: Tensor, weight: Tensor) -> bool:
    dim = x.shape[-1]
    return 0 < dim <= MAX_DIM and weight.shape == (dim,) and weight.dtype == x.dtype


def _launch(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    out: Tensor,
    total: Tensor | None,
    eps: float,
) -> None:
    dim = x.shape[-1]
    rows = x.numel() // dim
    if not rows:
        return
    width = triton.next_power_of_2(dim)
    _norm[(rows,)](
        x,
        x if residual is None else residual,
        weight,
        out,
        out if total is None else total,
        eps,
        dim=dim,
        width=width,
        adds=residual is not None,
        num_warps=min(max(width // 512, 1), 16),
    )


@triton.jit
def _norm(
    x,
    residual,
    weight,
    out,
    total,
    eps,
    dim: tl.constexpr,
    width: tl.constexpr,
    adds: tl.constexpr,
):
    places = tl.arange(0, width)
    mask = places < dim
    at = tl.program_id(0).to(tl.int64) * dim + places
    values = tl.load(x + at, mask=mask, other=0.0)
    dtype = values.dtype
    if adds:
        # Rounded to the residual stream's dtype before it is normalised, as the reference does.
        added = values.to(tl.float32) + tl.load(residual + at, mask=mask, other=0.0).to(tl.float32)
        values = added.to(dtype)
        tl.store(total + at, values, mask=mask)
    full = values.to(tl.float32)
    scale = tl.rsqrt(tl.sum(full * full, 0) / dim + eps)
    normed = (full * scale).to(dtype).to(tl.float32)
    factor = tl.load(weight + places, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + at, (normed * factor).to(dtype), mask=mask)
