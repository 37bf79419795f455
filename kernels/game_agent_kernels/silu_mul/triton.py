"""For GPUs."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from game_agent_kernels.gpu import takes
from game_agent_kernels.silu_mul import reference

WIDTH = 1024


def silu_mul(gate_up: Tensor) -> Tensor:
    """Same contract as the reference."""
    if gate_up.ndim != 2 or gate_up.shape[1] % 2 or not takes(gate_up):
        return reference.silu_mul(gate_up)
    rows, inner = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty(rows, inner)
    if out.numel():
        _silu_mul[(rows, triton.cdiv(inner, WIDTH))](gate_up, out, inner, width=WIDTH)
    return out


@triton.jit
def _silu_mul(gate_up, out, inner, width: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    places = tl.program_id(1) * width + tl.arange(0, width)
    mask = places < inner
    gate = tl.load(gate_up + row * 2 * inner + places, mask=mask, other=0.0)
    up = tl.load(gate_up + row * 2 * inner + inner + places, mask=mask, other=0.0)
    full = gate.to(tl.float32)
    active = (full / (1.0 + tl.exp(-full))).to(gate.dtype)
    product = active.to(tl.float32) * up.to(tl.float32)
    tl.store(out + row * inner + places, product.to(gate.dtype), mask=mask)
