"""Compiled, for float32 on the CPU; anything else goes to the reference."""

from __future__ import annotations

from torch import Tensor

from game_agent_kernels import _cpu, native
from game_agent_kernels.silu_mul import reference


def silu_mul(gate_up: Tensor) -> Tensor:
    """Same contract as the reference."""
    if gate_up.ndim != 2 or gate_up.shape[1] % 2 or not native.takes(gate_up):
        return reference.silu_mul(gate_up)
    rows, inner = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty(rows, inner)
    _cpu.silu_mul(gate_up.data_ptr(), out.data_ptr(), rows, inner)
    return out
